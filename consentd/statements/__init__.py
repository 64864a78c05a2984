"""Payload messages and values: the one door of protobuf below the services."""
