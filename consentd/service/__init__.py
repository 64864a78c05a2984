"""Translate between gRPC and the core: one module for each proto service.

The services are ``registry``, ``consents``, ``policy``, ``access``, and ``proofs`` (LedgerService) with ``pruning``.
They share: ``auth`` authenticates callers, ``roles`` is the table of who may call what, ``authorization`` looks callers
up in this table, ``rpc`` runs handlers and turns errors into statuses, ``requests`` parses the fields that requests
share and makes pages of lists, ``servicer`` has the base class of the services.
"""
