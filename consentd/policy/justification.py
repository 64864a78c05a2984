"""Check that the justification of an emergency access says something (policy.md, rule 7)."""

import unicodedata
from typing import Final

from consentd import limits
from consentd.errors import InvalidError

MIN_LETTERS: Final = limits.JUSTIFICATION_LETTERS
_FILLERS: Final = frozenset("\u115f\u1160")
"""The Hangul fillers. Unicode counts them as letters, and they show nothing. NFKC turns the other two into U+1160."""


def check_justification(text: str) -> None:
    """Check that *text* has at least ``MIN_LETTERS`` letters (Unicode category L) after normalisation to NFKC.

    Raises:
        InvalidError: (BREAK_GLASS_SHAPE) it has fewer.
    """
    normal = unicodedata.normalize("NFKC", text)
    if sum(unicodedata.category(one)[0] == "L" for one in normal if one not in _FILLERS) < MIN_LETTERS:
        raise InvalidError(
            f"justification of an emergency access has fewer than {MIN_LETTERS} letters", "BREAK_GLASS_SHAPE"
        )
