"""Audit a ledger from outside: export it, verify all of it, decide again what it decided, watch it, report.

Nothing here is asked for its word. What is read is held against the log's public key alone: leaves are hashed into a
tree whose root must be the checkpoint's; the replay rule is applied to each; each seal's map is built anew; openings,
where they are at hand, must be what leaves commit to, signed by keys in force then, and each decision must come out
again as it was recorded.

::

    places     where a ledger can be read: an exported directory; ``files``: a stopped daemon's; ``live``: a daemon over
               HTTP and gRPC; ``witnessed``: any of them, at checkpoints that witnesses cosigned
    look       what can be said of a run of leaves by itself; done by worker processes, in any order
    verify     what only the order says: tree, chains, seals, clock, keys in force (``authors``); one process, in order
    findings   what that finds: faults, what could not be told, how much there was
    kept       its state, in memory up to a bound and in a file beyond it, which an interrupted run goes on from
    replay     each decision taken again (``decisions``) on the consents in force at its place; ``share``: some persons'
    export     the ledger as files (C2SP tlog-tiles), for any static host and for programs that other people wrote
    monitor    the checkpoints of a daemon, one after another, and that each begins with the one before
    bundle     records with all that proves them, in one file (``packed``); ``evidence`` checks its ``claims``, where
               there are no server parts
    report     what a ledger's accesses add up to; ``page``, ``markup`` and ``drawing`` show it
"""
