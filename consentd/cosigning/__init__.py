"""Get checkpoints cosigned, and publish those that have a quorum (C2SP tlog-witness, tlog-policy).

**Theory of operation.** The sequencer signs a checkpoint, writes the lock, and offers it to a *publisher*, which calls
back once the world may see it. Without a policy file that is at once (``Immediate``). With one it is ``Witnesses``::

    offer ──► latest ──► target ──► every witness's thread asks for its cosignature
                            │                      │
                            └── publish ◄── quorum ┘         one thread, in the order of sizes

All witnesses are asked about the same checkpoint, the *target*, until it has its quorum; the next target is then the
latest offered, and those in between are never published: a larger one stands for them. So a slow quorum publishes
less often, never later and later, and witnesses that are asked one by one still meet on one tree. A published
checkpoint gains the cosignatures of slower witnesses as they come, and fresh ones while nothing new is offered.

Fail-closed: without a quorum nothing new is published, whatever waits; writes are acknowledged all the same. What was
published stays so, and is kept in a file, so that a start during an outage has it too. A witness that knows a larger
tree than ours has seen entries that we lost: nothing is signed or published from then on, and a human is called.

Each witness is trusted for its own cosignature only. What it answers is verified; what it says of sizes costs, where
it lies, the ledger's availability, not its truth.

::

    publisher     what the sequencer knows: offer, publish
    connection    HTTP, kept alive
    remote        one witness, asked
    rounds        a checkpoint on its way
    witnesses     all of them: target, quorum, publish
"""
