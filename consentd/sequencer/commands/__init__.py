"""Everything that can be written to the ledger: one class for each write, with all the checks of that write.

``write`` defines what a write is, and drafts entries; ``callers`` has the rules of what a caller may do. The writes:
``ledger`` (the daemon's own statements), ``registry`` (public chains, enrolments), ``consents``, ``accesses``.

The daemon signs ACCESS and REFUSAL itself, because the decision is the daemon's statement. It also signs what an app
without keys sends for a person; such a statement names the app in ``attested_by``. What an author signed is verified
here, against the author's key as it is in force when the entry is written.
"""
