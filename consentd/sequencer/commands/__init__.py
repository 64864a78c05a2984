"""Say what each write checks, and what it records.

A write is a value made by the service. The sequencer calls ``prepare`` on its own thread, at the write's place in
the ledger: what it reads there includes every entry before it, those of its own batch too. It raises
``RequestError`` before anything is appended, or returns a *plan*: drafts with their messages, and an answer.

The daemon signs ACCESS and REFUSAL, because the decision is its statement, and whatever a thin client brings; such
a statement says ``attested_by``. What an author signed is verified here, against the key in force at this place.

``context`` is where a write is prepared and signed; ``registry``, ``consents`` and ``accesses`` are the writes.
"""
