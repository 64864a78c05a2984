"""The daemon. Only this package imports all other parts: it builds them, connects them and serves calls."""
