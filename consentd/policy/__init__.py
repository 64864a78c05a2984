"""Decide what a consent means: pure values in, a decision out.

The law of this floor: no IO, no clock, no randomness, no logging. ``now`` is an argument, codes
come from a ``Vocabulary`` value, participants are numbers that the caller gives. The same question
on the same consents at the same instant has the same answer, today and in ten years' replay.

Design: policy.md. The meaning itself is the reference interpreter in ``tests/reference_policy.py``;
what is here agrees with it, faster.
"""
