"""Audit a ledger from outside: verify it, recompute its decisions, export it, monitor it, and count its accesses.

An auditor trusts only the log's public key. All leaves and tiles that are read are compared with what the log signed.

::

    sources         read a ledger from an exported directory; ``files``: of a stopped daemon; ``live``: of a running one
    remote          decide when bytes that came through a network are evidence
    checkpoints     read a signed checkpoint, and verify that the required witnesses cosigned it
    verify          verify tree, chains, seals, times, signatures and keys with the walker of ``consentd.verify``;
                    ``workers`` check leaves ahead of the walker, and ``state_store`` saves the walker's state
    replay          recompute each decision (``decisions``) from the consents in force then; each ``partition`` does
                    this for some of the persons
    export          write a ledger as files (C2SP tlog-tiles), for any static host and for other people's programs
    monitor         follow the checkpoints of a daemon; each must be consistent with the one before
    evidence        write entries, and everything that proves them, to one file
    access_summary  count a ledger's accesses; ``page`` and ``drawing`` show the counts
"""
