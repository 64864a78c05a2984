"""Convert the codes that a provision names to masks of bits: of a permit or of a deny (policy.md, rules 6 and 9)."""

from consentd.errors import InvalidError
from consentd.policy.model import ANY
from consentd.policy.vocabulary import LEVEL_NUMBERS, Closures, Vocabulary, unknown_level


def is_limit(stated: tuple[str, ...]) -> bool:
    """Return whether a stated list limits anything."""
    return bool(stated) and ANY not in stated


def mask_of(closures: Closures, codes: tuple[str, ...], *, permit: bool, unlimited: int) -> int:
    """Return the mask of ``codes``. No limit: what ``*`` covers for a permit, and *unlimited* for a deny or if it is 0.

    Raises:
        InvalidError: UNKNOWN_CODE.
    """
    if not is_limit(codes):
        return closures.star if permit and unlimited else unlimited
    covered = closures.permit if permit else closures.bits
    mask = 0
    for code in codes:
        if code not in covered:
            raise InvalidError(f"code is not in the vocabulary: `{code}`", "UNKNOWN_CODE")
        mask |= covered[code]
    return mask


def with_covered_labels(vocabulary: Vocabulary, leaves: int, named: tuple[str, ...], labels: int) -> int:
    """Return those of *leaves* of which a permit covers every label that they have of their own (rule 9).

    The permit names *labels* (a mask) or, by *named*, the leaf itself or a category all of whose leaves have the label.
    Example: GEN has two leaves, both with label GDIS. A permit of GEN covers both, and a permit of ``*`` neither.
    """
    category = vocabulary.category
    for one in vocabulary.sensitivities:
        missing = one.labels & ~labels
        while missing:
            label = missing & -missing
            missing ^= label
            bearing = sum(other.leaves for other in vocabulary.sensitivities if other.labels & label)
            covered = 0
            for code in named:
                if code != ANY and not category.below[code] & vocabulary.leaves & ~bearing:
                    covered |= category.permit[code]
            leaves &= ~one.leaves | covered
    return leaves


def level_number(level: str) -> int:
    """Return the number of a level; InvalidError (INVALID_CONSENT) if there is no such level."""
    number = LEVEL_NUMBERS.get(level)
    if number is None:
        raise unknown_level(level, "INVALID_CONSENT")
    return number
