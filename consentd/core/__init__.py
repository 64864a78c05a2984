"""The bytes and the verdicts: what an entry, a tree, a checkpoint and a proof are, and when a proof holds.

The law of this floor:

1. **Pure.** Nothing here does IO, looks at a clock, draws a random number, logs, or starts a thread. The time,
   keys, salts and hashes are arguments. The same arguments give the same answer, in any process, for ever.
2. **Bytes decide.** Each format has one encoding; decoding is strict and refuses every other one. What was
   decoded encodes to the bytes it came from. Formats marked C2SP follow that specification to the byte, so that
   programs other people wrote can check us.
3. **A verdict cannot be ignored.** ``verify_*`` returns nothing or raises. Whatever bytes come in, the only
   errors that come out are ``MalformedError`` (not the format), ``SignatureError`` (signed by nobody we know, or
   not the text that was signed) and ``ProofError`` (does not lead to the root). An ``AssertionError`` is a bug
   of the caller or of ours, never a verdict.
4. **Plan, read, finish.** What needs stored hashes is two functions: one says which ones (``plan_*``), one
   computes from them. The caller reads in between, in one go, from a store or over HTTP. No callback into
   storage happens inside a computation.
5. **One code for both sides.** The ledger proves, and the citizen's library and the auditor's tool verify, with
   these very modules. Nothing here may import from the floors above.

::

    kinds        the numbers of the kinds of entries
    codec        a leaf and its bytes
    merkle       hashes of the tree; verifying inclusion and consistency (RFC 9162)
    tiles        the tree as stored and served; proving from it (C2SP tlog-tiles)
    patricia     the map of chain heads that a seal commits to; verifying presence and absence
    bucketed     the same map as stored; updating it and proving from it
    ed25519      signing and verifying; the only door to libsodium
    note         signed notes (C2SP signed-note)
    checkpoint   the signed size and root of the tree, and the proof bundle (C2SP tlog-checkpoint, tlog-proof)
    quorum       which logs and witnesses count, and whether enough of them cosigned (C2SP tlog-policy)
    submission   what is sent to a witness, and what it answers (C2SP tlog-witness)
    history      the whole proof: this history of a tag is all of it
    key_validity which keys were in force for whom, and when; who signed what
    pruned       what a ledger no longer keeps, held to what it published
    replay       the rule that makes leaves a ledger, leaf by leaf
    replay_state saving a replay, and continuing it later
"""
