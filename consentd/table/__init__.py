"""The policy table: a view of the ledger, in LMDB, that checks read."""
