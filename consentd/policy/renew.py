"""Convert stored rows to the next version of their vocabulary: a deny on a parent also covers codes added later.

A permit continues to cover only the codes of the version that it was given under: nobody permitted a code that did not
exist. A deny that covers all codes of a parent is widened by the codes that were added below the parent (rule 6). The
same happens if the deny named all of these codes singly: a row cannot show the difference. Nothing else changes.
"""

from dataclasses import replace

from consentd.policy.compile import RULES_HEADER_SIZE
from consentd.policy.rows import PERMIT, ROW_SIZE, pack_rows, unpack_rows
from consentd.policy.subject import decode_subject, encode_subject
from consentd.policy.vocabulary import Closures, Vocabulary

Growth = tuple[tuple[int, int], ...]
"""For each code whose coverage grew: (mask that a deny of the code covered before, mask that this deny covers now)."""


class Renewal:
    """The coverage of denies that grew from one version of a vocabulary to the next, for each of the four lists."""

    __slots__ = ("_actions", "_categories", "_labels", "_purposes")

    def __init__(self, old: Vocabulary, new: Vocabulary) -> None:
        self._purposes = _growth(old.purpose, new.purpose)
        self._categories = _growth(old.category, new.category)
        self._actions = _growth(old.action, new.action)
        self._labels = _growth(old.label, new.label)

    def is_needed(self) -> bool:
        """Return whether a deny of any old code covers more codes in the new version."""
        return bool(self._purposes or self._categories or self._actions or self._labels)

    def subject(self, value: bytes) -> bytes:
        """Return a subject value (a person's rows) with widened denies. Raises as ``decode_subject``."""
        lineages = decode_subject(value)
        rows = [self._rows(one.compiled.rows) for one in lineages]
        return encode_subject(
            replace(one, compiled=replace(one.compiled, rows=new)) for one, new in zip(lineages, rows, strict=True)
        )

    def rules(self, encoded: bytes, count: int) -> bytes:
        """Return compiled rules (``CompiledRules.encoded``, *count* rows) with widened denies."""
        end = RULES_HEADER_SIZE + count * ROW_SIZE
        return encoded[:RULES_HEADER_SIZE] + self._rows(encoded[RULES_HEADER_SIZE:end]) + encoded[end:]

    def _rows(self, rows: bytes) -> bytes:
        return pack_rows(
            row
            if row.flags & PERMIT
            else row._replace(
                purposes=_widen(row.purposes, self._purposes),
                categories=_widen(row.categories, self._categories),
                actions=_widen(row.actions, self._actions),
                labels=_widen(row.labels, self._labels),
            )
            for row in unpack_rows(rows)
        )


def _growth(old: Closures, new: Closures) -> Growth:
    return tuple(
        (covered, new.deny[code]) for code, covered in old.deny.items() if covered and new.deny[code] != covered
    )


def _widen(mask: int, growth: Growth) -> int:
    for covered, covers in growth:
        if mask & covered == covered:
            mask |= covers
    return mask
