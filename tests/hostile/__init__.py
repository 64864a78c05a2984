"""Hostile peers: callers who hold what they can of a daemon, and honest callers beside them.

``test_hostile`` runs a few peers of each kind beside honest calls, in every test run. ``python -m tests.hostile`` runs
two hundred of each kind, each kind alone and then all together, and prints figures.
"""
