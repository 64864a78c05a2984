"""The ledger: leaves, tree, chains, map and statements over one ``Store``.

``layout`` defines the store's rows · ``ledger`` appends and seals, one batch at a time · ``recovery`` opens a ledger
and compares its rows · ``last_signed`` stores the last signed checkpoint in a file · ``map`` proves chain heads,
``map_history`` keeps the map at earlier seals · ``reads`` reads and proves entries · ``retention`` decides which
entries a pruning retains, ``pruning`` deletes the others · ``vault`` has each person's key and each identifier's tag.
"""
