"""Stand between gRPC and the core, one file for each proto service.

``registry`` · ``consents`` · ``policy`` · ``access`` · ``proofs`` (LedgerService); ``auth`` tells who calls, ``status``
turns errors into statuses, ``pages`` makes lists, ``pruning`` prunes, ``wire`` has what all services share.
"""
