"""Collect witness cosignatures for checkpoints, and publish checkpoints that have a quorum (C2SP tlog-witness).

**Theory of operation.** The sequencer signs a checkpoint, stores it as the last signed note, and offers it to a
*publisher*. The publisher calls back when everyone may see the checkpoint. Without a policy file it calls back
immediately (``ImmediatePublisher``). With a policy file (C2SP tlog-policy) it calls back when a quorum (enough of the
policy's witnesses) has cosigned the checkpoint (``QuorumPublisher``)::

    offer ──► latest ──► target ──► each witness's thread requests a cosignature of the target
                            │                      │
                            └── publish ◄── quorum ┘         one thread, in the order of sizes

All witnesses cosign the same checkpoint, the *target*, until the target has a quorum. The next target is then the
checkpoint offered last. Checkpoints between the two targets are never published, because the larger target also covers
their leaves. So slow witnesses make publications rarer, but the delay of a publication does not accumulate. If further
cosignatures arrive after a target is published, its note is published again with them. While no new checkpoint is
offered, the witnesses cosign the same target again at an interval, so that its cosignatures stay fresh.

Without a quorum no new checkpoint is published (unless ``fail_open`` is configured). Writes are still acknowledged, and
the note published last stays public. That note is also kept in a file, and a start during an outage of the witnesses
publishes it again. If a witness reports a larger tree than this ledger ever had, then entries were lost, or another
program signs with our key. The ledger stops signing and publishing, and an operator must act.

A witness is an independent server that cosigns a tree only if the tree extends the one that it cosigned last. A witness
is trusted for its own cosignature only, and every cosignature is verified. The tree size that a witness reports is not
signed. A false size can stop this ledger, but cannot make anyone accept a false tree.
"""
