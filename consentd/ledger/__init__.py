"""Keep the ledger: leaves, tree, chains, map and statements over one ``Store``.

``layout`` names the rows · ``ledger`` appends and seals, in one batch · ``opening`` opens and verifies ·
``lock`` remembers what was signed, outside the store · ``map`` holds the Patricia tree · ``reads`` reads
and proves · ``statement`` and ``answers`` turn payloads into values and back · ``vault`` keeps keys and who is who ·
``table`` is the evaluator's view · ``fsck`` verifies it all from nothing.
"""
