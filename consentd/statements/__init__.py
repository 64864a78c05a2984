"""Convert protobuf messages to values and back, for the services, the clients and the verifiers.

``payloads`` encodes and decodes the payload of each entry kind · ``values`` converts consents, vocabularies and rules,
and reads what entries state about keys and retention · ``decisions`` converts questions and decisions.
"""
