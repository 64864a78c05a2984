"""The policy table: the rows that a consent check reads, one for each person, in LMDB.

``table`` opens the table, defines its rows, and makes the table catch up with the ledger · ``view`` reads rows ·
``transaction`` applies entries.
"""
