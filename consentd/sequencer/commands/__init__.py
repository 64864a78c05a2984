"""Everything that can be written to the ledger: one class for each write, with all the checks of that write.

``write`` defines what a write is, and drafts entries; ``callers`` has the rules of what a caller may do. The writes are
in ``ledger`` (the daemon's own statements), ``registry`` (public chains, enrolments), ``consents`` and ``accesses``.

The daemon signs ACCESS and REFUSAL entries, because a decision is the daemon's own statement. The daemon also signs a
statement that an app without keys sends for a person; ``attested_by`` then names the app. A signature by an author is
verified here, and the author's key must be in force when the entry is written.
"""
