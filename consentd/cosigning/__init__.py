"""Collect witness cosignatures for checkpoints, and publish checkpoints that have a quorum (C2SP tlog-witness).

**Theory of operation.** The sequencer signs a checkpoint, stores it as the last signed note, and offers it to a
*publisher*. The publisher calls back when everyone may see the checkpoint. Without a policy file that is immediately
(``ImmediatePublisher``). With a policy file (C2SP tlog-policy) it is when a quorum of witnesses has cosigned
(``QuorumPublisher``)::

    offer ──► latest ──► target ──► each witness's thread requests a cosignature of the target
                            │                      │
                            └── publish ◄── quorum ┘         one thread, in the order of sizes

All witnesses cosign the same checkpoint, the *target*, until it has a quorum. The next target is then the latest
checkpoint offered. Checkpoints between the two are never published, because a larger checkpoint also covers their
leaves. So slow witnesses make publications rarer, but the delay of a publication does not accumulate. After a target
is published, later cosignatures are added and its note is published again. While nothing new is offered, the witnesses
cosign the same target again at an interval, so that its cosignatures stay fresh.

Without a quorum nothing new is published (unless ``fail_open`` is configured). Writes are still acknowledged, and the
note published last stays public. It is also kept in a file, so that a start during an outage of the witnesses can
publish it again. If a witness reports a larger tree than this ledger ever had, then entries were lost, or another
program signs with our key. The ledger stops signing and publishing, and an operator must act.

A witness is trusted for its own cosignature only. Every answer is verified. The tree size that a witness reports is
not signed; a false size can stop this ledger (availability), but cannot make a false tree accepted.
"""
