"""Keep the ledger: leaves, tree, chains, map and statements over one ``Store``.

``layout`` names the rows · ``ledger`` appends and seals, in one batch · ``opening`` opens and verifies ·
``lock`` remembers what was signed, outside the store · ``map`` holds the Patricia tree, ``past`` what it was before ·
``reads`` reads and proves · ``statement`` and ``answers`` turn payloads into values and back · ``vault`` keeps keys and
who is who · ``table`` is the evaluator's view, written by ``table_turn``, read by ``view`` · ``retention`` prunes ·
``fsck`` verifies it all from nothing, ``scrub`` beside the writer; ``findings`` is what they find.
"""
