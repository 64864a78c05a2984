"""Measure consentd: ``python -m benchmarks``, or ``make bench``.

One command prints a table and writes JSON to ``benchmarks/out``, with the raw samples. The server runs in a process of
its own on one core, and the load generator in another process on the next core. Each row states its boundary: in
process or over the wire, durable or not, with or without TLS. The answers are checked in the same run, and a wrong one
fails it.
"""
