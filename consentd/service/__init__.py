"""Translate between gRPC and the core: one module for each proto service.

``registry``, ``consents``, ``policy``, ``access``, ``proofs`` (LedgerService) with ``pruning``. Shared by them:
``auth`` authenticates callers, ``rpc`` runs handlers, ``status`` makes statuses of errors, ``requests`` reads what all
write requests have, ``servicer`` has the opened daemon and receipts, ``pages`` makes pages of lists.
"""
