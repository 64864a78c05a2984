"""The ledger: leaves, tree, chains, map and statements over one ``Store``.

``layout`` names the rows · ``ledger`` appends and seals, one batch at a time · ``recovery`` opens and compares ·
``last_signed`` remembers the last signed checkpoint, outside the store · ``map`` holds the map of chain heads,
``map_history`` earlier versions of it · ``reads`` reads and proves · ``retention`` decides what a pruning retains,
``pruning`` plans and deletes · ``vault`` holds the keys of persons, and which identifier leads to which tag.
"""
