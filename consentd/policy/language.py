"""Check language tags, and choose among texts in several languages.

A name (of a participant, a code, a notice) is a map: language tag → text. A tag is one of BCP 47, by this subset of the
grammar of RFC 5646, section 2.1::

    tag      = language ["-" script] ["-" region] *("-" variant)
    language = 2*3ALPHA            ; ISO 639
    script   = 4ALPHA              ; ISO 15924
    region   = 2ALPHA / 3DIGIT     ; ISO 3166-1 or UN M.49
    variant  = 5*8alphanum / (DIGIT 3alphanum)

Extended languages, extensions, private use and the grandfathered tags are left out. A tag is in the case of RFC 5646,
section 2.1.1: ``zh-Hant-TW``. Subtags are not looked up in the registry of IANA: what is well formed is accepted.
"""

import re
from collections.abc import Mapping
from typing import Final

from consentd import limits
from consentd.errors import InvalidError

MAX_TAG = limits.LANGUAGE_TAG_CHARACTERS
MAX_LANGUAGES = limits.NAME_LANGUAGES
MAX_TEXT_BYTES = limits.TEXT_BYTES

FALLBACKS: Final = ("ko", "en")
"""The languages in which a text is shown, in this order, if it is not available in the reader's language."""

_TAG: Final = re.compile(
    "(?P<language>[A-Za-z]{2,3})(?:-(?P<script>[A-Za-z]{4}))?(?:-(?P<region>[A-Za-z]{2}|[0-9]{3}))?"
    "(?P<variants>(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*)"
)


def canonical_tag(tag: str, reason: str = "INVALID_REQUEST") -> str:
    """Return a language tag in the case of RFC 5646, section 2.1.1. *reason* is that of the error.

    Raises:
        InvalidError: it is no tag of the subset above, is too long, or has a variant twice.
    """
    found = _TAG.fullmatch(tag) if len(tag) <= MAX_TAG else None
    if found is None:
        raise InvalidError(f"language is no tag of BCP 47 with language, script, region and variants: `{tag}`", reason)
    variants = found["variants"].lower()
    parts = variants.split("-")[1:]
    if len(set(parts)) != len(parts):
        raise InvalidError(f"language tag has a variant twice: `{tag}`", reason)
    script, region = found["script"], found["region"]
    return "".join((
        found["language"].lower(), f"-{script.title()}" if script else "", f"-{region.upper()}" if region else "",
        variants,
    ))  # fmt: skip


def check_tag(tag: str, reason: str = "INVALID_REQUEST") -> None:
    """Check that a language tag is well formed, and written in its one case. *reason* is that of the error.

    Raises:
        InvalidError: as ``canonical_tag``, or the tag is in another case.
    """
    canonical = canonical_tag(tag, reason)
    if canonical != tag:
        raise InvalidError(f"language tag is in another case than `{canonical}`: `{tag}`", reason)


def check_name(name: Mapping[str, str]) -> None:
    """Check a name before it is written. Its tags have one case, so no two are the same but for their case.

    Raises:
        InvalidError: the name has no language or too many, a tag fails ``check_tag``, or a text is empty; TOO_LARGE: a
            text is too long.
    """
    if not name:
        raise InvalidError("name is missing: give it in one language at least")
    if len(name) > MAX_LANGUAGES:
        raise InvalidError(f"name has more than {MAX_LANGUAGES} languages", "TOO_LARGE")
    for tag, text in name.items():
        check_tag(tag)
        if not text.strip():
            raise InvalidError(f"name is empty in language `{tag}`")
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise InvalidError(f"name is over its limit of {MAX_TEXT_BYTES} bytes in language `{tag}`", "TOO_LARGE")


def best_text(texts: Mapping[str, str], language: str) -> str:
    """Return the text that suits a reader best; empty if there is none.

    That is the text in the reader's language; else in the tag without its last parts (RFC 4647, section 3.4: after
    ``zh-Hant-TW``, ``zh-Hant`` and ``zh``); else in one of ``FALLBACKS``; else in the first tag in alphabetical order.
    The case of tags does not matter, because a ledger that others wrote may have any.
    """
    known = {tag.lower(): text for tag, text in sorted(texts.items(), reverse=True) if text}
    parts = language.lower().split("-")
    wanted = ("-".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((known[tag] for tag in (*wanted, *FALLBACKS, *sorted(known)) if tag in known), "")


def is_korean(language: str) -> bool:
    """Report whether a reader reads Korean. The program's own words are in Korean for these, and else in English."""
    return language.lower().split("-")[0] == "ko"
