"""Measure other programs that answer the same question, interleaved with this one: ``python -m benchmarks --peers``.

Each peer is one module. It says in the peer's own language what ``benchmarks.world`` says in consents, with the
settings that the peer's documentation recommends for speed. ``benchmarks.peers.install`` installs the peers under
``build/peers``.
"""
