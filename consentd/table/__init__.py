"""The policy table: what a check reads, one row for each person, in LMDB.

``table`` opens it, lists its rows, and applies the entries that it does not reflect yet · ``view`` reads ·
``transaction`` applies entries.
"""
