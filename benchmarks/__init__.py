"""Measure consentd: ``python -m benchmarks``, or ``make bench``.

One command prints a table and writes JSON to ``benchmarks/out``, raw samples included. The server runs in a process
of its own on one core, the load generator in another on the next one; each row says where its boundary lies: in
process or over the wire, durable or not, TLS or not. Answers are checked in the same run, and a wrong one fails it.
"""
