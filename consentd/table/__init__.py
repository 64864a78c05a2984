"""The policy table: what a check reads, one row for each person, in LMDB.

``table`` opens it and lists its rows · ``view`` reads · ``transaction`` applies entries · ``catch_up`` applies the
entries that a table does not reflect yet.
"""
