"""Record in a subject value that a transfer was permitted, or was not made (policy.md, rule 13).

Only consents that recur have uses. An edit changes nothing else of the value.
"""

from collections.abc import Callable
from dataclasses import replace

from consentd.policy.compile import Compiled
from consentd.policy.model import Consent
from consentd.policy.recurrence import Recurrence, Use, begin
from consentd.policy.rows import pack_rows, unpack_rows, with_recurrence
from consentd.policy.subject import Lineage, encode_subject, lineages_of


def recurrence_of(consent: Consent, replaced: Lineage | None, time_ms: int) -> Recurrence | None:
    """Return the recurrence of a new version, with the uses that it keeps; None: it states none.

    *replaced*: the version in force before; None: there is none. *time_ms*: the time of the entry. Raises as ``begin``.
    """
    before = None if replaced is None else replaced.compiled.recurrence
    return begin(consent.recurrence, consent.root.start_ms, time_ms, before)


def with_use(value: bytes, lineage: int, use: Use, now_ms: int) -> bytes:
    """Return the value after an access at *now_ms* that used a consent up; a consent that does not recur has no uses.

    Raises (so do the other functions):
        MalformedError: the value is malformed.
    """
    return _edited(value, lambda one, number: one.with_use(use, now_ms) if number == lineage else one)


def with_confirmed(value: bytes, access: int) -> bytes:
    """Return the value after an outcome by which the uses of the access of entry *access* remain for good."""
    return _edited(value, lambda one, _: one.confirmed(access))


def without_access(value: bytes, access: int) -> bytes:
    """Return the value without the uses of the access of entry *access*."""
    return _edited(value, lambda one, _: one.given_back(access))


def without_old_uses(value: bytes, kept_from_ms: int) -> bytes:
    """Return the value after a pruning, without the uses that were over."""
    return _edited(value, lambda one, _: one.since(kept_from_ms))


def _edited(value: bytes, edit: Callable[[Recurrence, int], Recurrence]) -> bytes:
    lineages = lineages_of(value)
    changed = False
    for at, one in enumerate(lineages):
        old = one.compiled.recurrence
        new = None if old is None else edit(old, one.lineage)
        if new is not None and new != old:
            lineages[at] = replace(one, compiled=with_uses(one.compiled, new))
            changed = True
    return encode_subject(lineages) if changed else value


def with_uses(compiled: Compiled, recurrence: Recurrence) -> Compiled:
    """Return a compiled consent that recurs, with the uses of *recurrence*."""
    rows, side = with_recurrence(compiled.side, unpack_rows(compiled.rows), recurrence)
    return replace(compiled, rows=pack_rows(rows), side=side)
