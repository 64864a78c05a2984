"""Payload messages ⇄ values: the one door of protobuf below the services, shared with clients and verifiers.

``payloads``: which message the payload of each entry kind is, and its bytes. ``values``: consents, vocabularies and
rules, and what entries state of keys and retention. ``decisions``: questions and decisions.
"""
