"""The single writer of the ledger: its loop, the pool of waiting writes, its checkpoints, and the kinds of writes."""
