"""Decide what a consent means: pure values in, a decision out.

Rule for this package: no IO, no clock, no randomness, no logging. The caller passes ``now``, the ``Vocabulary``, and
the numbers of participants. So the same question on the same consents at the same instant always has the same answer,
also in a replay ten years later.

The reference interpreter ``tests/cases/reference_policy.py`` defines the meaning; this package is faster.

::

    model               the values: consent, provision, rules, question, decision
    vocabulary          codes, their hierarchies and bits; default_vocabulary: the built-in one
    check               what a consent must be before it is written
    tree                a consent's provisions with what they inherit
    compile             consents and rules → rows; rows: the bytes of a row; subject: all rows of a person
    renew               rows under a later version of the vocabulary
    codebook            a question → masks; masks → codes
    evaluate            the answer; match: the general way to it; residual: conditions for the enforcer
    dates               FHIR dates → instants
"""
