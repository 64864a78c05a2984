"""Translate between gRPC and the core: one module for each proto service.

``registry``, ``consents``, ``policy``, ``access``, ``proofs`` (LedgerService) with ``pruning``. Shared by them:
``auth`` authenticates callers, ``rpc`` runs handlers and makes statuses of errors, ``requests`` parses what requests
have in common and makes pages, ``servicer`` has the opened daemon and receipts.
"""
