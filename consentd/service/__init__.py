"""Translate between gRPC and the core: one module for each proto service.

The services are ``registry``, ``consents``, ``policy``, ``access``, and ``proofs`` (LedgerService) with ``pruning``.
They share: ``auth`` authenticates callers, ``rpc`` runs handlers and turns errors into statuses, ``requests`` parses
the fields that requests share and makes pages of lists, ``servicer`` has the base class of the services.
"""
