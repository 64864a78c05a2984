"""Stand between gRPC and the core, one file for each proto service.

``registry`` · ``consents`` · ``policy`` · ``access`` · ``proofs`` (LedgerService); ``auth`` tells who calls,
``wire`` turns errors into statuses and has what all services share.
"""
