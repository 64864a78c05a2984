"""Decide whether the consents of a person permit a transfer of data.

Rule for this package: no IO, no clock, no randomness, no logging. The caller passes ``now``, the ``Vocabulary``, and
the numbers of participants. So the same question on the same consents at the same instant always has the same answer,
also when the ledger is replayed ten years later.

The reference interpreter ``tests/cases/reference_policy.py`` defines the right answer. This package finds it faster.

::

    model               the values: consent, provision, rules, question, decision
    vocabulary          codes, their hierarchies and bits; default_vocabulary: the built-in vocabulary
    check               validates a consent before it is written
    tree                the provisions of a consent, with the attributes that they inherit
    compile             consents and rules → rows of bit masks; rows: the bytes of a row; subject: all rows of a person
    authority           who may act for a person, and when the permits end that they gave
    delegation          one participant may act for another; actor: who may ask a question, and for whom
    codebook            a question → bit masks; bit masks → codes
    evaluate            computes the answer; match, match_row, side_blocks: find the matching rows; residual: conditions
                        that the caller checks; reduce: the answer for a caller who may not learn why data may not flow
    dates               FHIR dates → instants
"""
