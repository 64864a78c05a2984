"""Convert protobuf messages to values and back, for the services, the clients and the verifiers.

``payloads`` encodes and decodes payloads · ``values`` converts consents, vocabularies and rules, and reads what entries
state on keys and retention · ``decisions`` converts questions and decisions · ``evidence`` verifies evidence.
"""
