"""Audit a ledger from outside: verify all of it, decide again what it decided, export it, watch it, report on it.

Everything that is read is compared with what the log signed; the log's public key is the only thing trusted.

::

    sources         where a ledger is read: an exported directory; ``files``: of a stopped daemon; ``live``: a daemon
    checkpoints     the checkpoint that is read, and the witnesses that must have cosigned it
    verify          tree, chains, seals, clock, signatures and keys in force: the walker of ``consentd.verify``;
                    ``workers`` check leaves ahead, and ``state_store`` stores the state
    replay          each decision taken again (``decisions``) on the consents in force then, by ``partition`` of persons
    export          the ledger as files (C2SP tlog-tiles), for any static host and for other people's programs
    monitor         the checkpoints of a daemon, one after another, each consistent with the one before
    evidence        entries with everything that proves them, in one file
    access_summary  figures of a ledger's accesses; ``page``, ``markup`` and ``drawing`` show them
"""
