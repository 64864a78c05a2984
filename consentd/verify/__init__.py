"""Verify a ledger from its records: every leaf, statement, map and table row."""
