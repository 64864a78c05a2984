"""Load for hours in the place of seconds: ``python -m tests.soak --help``."""
