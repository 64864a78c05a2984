"""What the law demands of a consent, so that one without it is refused, and the refusal recorded (policy.md, rule 8).

A missing item is no error of the caller alone: the person was asked in a way that the law does not allow. So the chain
shows it. The ground is PIPA Enforcement Decree 42-8(1)5 for each of them, and the refusal names what is missing.
"""

from consentd.policy import check
from consentd.policy.model import Consent, Kind
from consentd.sequencer.commands.callers import is_operator
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

SERVED = "served"
"""The notice was not shown before the consent was given (PIPA Enforcement Decree 42-5(4); PIPA 15(2), 17(2))."""

SEPARATE_ACT = "separate_act"
"""The consent permits, with other things, what needs an act of its own (PIPA 22(1)7, 23(1)1)."""

_GIVEN = (Kind.CONSENT, Kind.TRANSFER_REQUEST)


def missing_items(
    view: View, consent: Consent, *, attester: str, has_served: bool, time_ms: int
) -> tuple[str, ...]:
    """Return the names of the legal items that a version of a consent lacks; empty: it lacks none.

    The sequencer calls this before it records a consent or a refusal, and ``audit replay`` for each that was recorded.

    Args:
        view: the policy table with all entries before this one.
        attester: who attests the consent; empty: the person signed it.
        has_served: whether it names a SERVED entry.
        time_ms: the time of the entry, UTC milliseconds.
    """
    found = list(check.missing_items(consent)) if consent.kind is Kind.TRANSFER_REQUEST else []
    # What ended before it is imported permits nothing, and was asked for elsewhere.
    is_past = bool(consent.source) and is_operator(attester) and consent.root.end_ms <= time_ms
    if consent.kind is Kind.STATUTORY or is_past:
        return tuple(found)
    if consent.kind in _GIVEN and not has_served and _needs_served(view, consent, attester):
        found.append(SERVED)
    if check.is_bundled(consent, view.registry().codebook.vocabulary):
        found.append(SEPARATE_ACT)
    return tuple(found)


def _needs_served(view: View, consent: Consent, attester: str) -> bool:
    registry = view.registry()
    if registry.served_required:
        return True
    # An intermediary that makes a request shows the person the items before (PIPA Enforcement Decree 42-5(4)).
    who = registry.participants.get(attester)
    return consent.kind is Kind.TRANSFER_REQUEST and who is not None and st.PARTICIPANT_ROLE_RELAY in who.roles
