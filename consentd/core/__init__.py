"""Encode and verify the formats of the ledger: entries, the tree, checkpoints and proofs.

The ledger is a Merkle tree whose leaves are entries and seals. The entries with the same *tag* (the pseudonym of a
person, or the hash of a public name) form a *chain*. A *seal* is a leaf that commits to the last entry of every chain.

Rules for this package:

1. **Pure.** No module does IO, reads a clock, draws a random number, logs, or starts a thread. The time, keys, salts
   and hashes are arguments. The same arguments always give the same result, in any process.
2. **One encoding.** Each format has exactly one encoding of a value, and decoding refuses any other. Formats marked
   C2SP follow the specification of that name to the byte, so that other people's programs can verify this ledger.
3. **A verdict cannot be ignored.** ``verify_*`` functions return no bool: they raise if verification fails. Bad bytes
   raise only ``MalformedError`` (wrong format), ``SignatureError`` (no valid signature by a known key) and
   ``ProofError`` (the proof does not lead to the root). An ``AssertionError`` is a bug and never a verdict.
4. **Plan, read, finish.** A computation that needs stored hashes has two functions: ``plan_*`` returns which hashes are
   needed, and the other computes from these hashes. Between the two calls, the caller reads all of the hashes in one
   step, from a store or over HTTP. No computation calls back into storage.
5. **One implementation for both sides.** The ledger proves with these modules, and the citizen's library and the
   auditor's tool verify with the same modules, which import nothing from other packages of consentd except ``errors``.

::

    kinds        the kinds of entries, and who may author them
    codec        the bytes of leaves and statements
    merkle       hashes of the tree; verifying inclusion and consistency (RFC 9162)
    tiles        the stored tree; proving from it (C2SP tlog-tiles)
    patricia     the map from tags to last entries that a seal commits to; verifying presence and absence
    bucketed     the stored map; updating it and proving from it
    ed25519      signing and verifying; the only module that imports libsodium
    note         signed notes (C2SP signed-note)
    checkpoint   the signed size and root of the tree, and the proof bundle (C2SP tlog-checkpoint, tlog-proof)
    quorum       trust policies: which logs and witnesses are trusted, and how many must cosign (C2SP tlog-policy)
    submission   requests to a witness, and its answers (C2SP tlog-witness)
    history      verifying that the history of a tag is complete
    evidence     evidence files: entries with all data that proves them
    strict_json  parsing JSON, without duplicate names and with bounded nesting
    key_validity which keys were valid for whom, and when; verifying authors
    pruned       which old leaves a ledger has deleted, and whether its published policy allows that deletion
    replay       computing a ledger's state from its leaves, and verifying each leaf
    replay_state saving a replay, and continuing it later
"""
