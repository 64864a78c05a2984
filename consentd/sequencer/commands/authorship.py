"""The rules of who may write, change or end a consent, what it may say, and whom it may name (policy.md, rule 8).

A STATUTORY consent is not the person's will. So only an operator or a public authority writes, changes or ends one, and
nobody who acts for persons does. All other consents are the person's, written by those who act for persons. An operator
records only those that ended before they are imported: they permit nothing.
"""

from dataclasses import replace

from google.protobuf.message import Message

from consentd.errors import DeniedError, InvalidError, PreconditionError
from consentd.policy.authority import Authority
from consentd.policy.check import check_consent
from consentd.policy.compile import Compiled, compile_consent
from consentd.policy.delegation import Capacity
from consentd.policy.model import Consent, Effect, StoredConsent
from consentd.policy.rows import ANY_NUMBER
from consentd.policy.subject import Lineage, check_limits, named_participants, with_consent
from consentd.policy.uses import recurrence_of
from consentd.sequencer.commands.authorities import check_in_force
from consentd.sequencer.commands.callers import (
    ACT_FOR_SUBJECTS,
    RECEIVING_ROLES,
    check_acts_for,
    check_right,
    is_operator,
    is_person,
    is_public_authority,
)
from consentd.sequencer.commands.legal_items import missing_items
from consentd.sequencer.commands.write import PersonWrite
from consentd.table.registry import Participant, Registry
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

_ONCE = ("", "once")


def check_writer(view: View, caller: str, *, statutory: bool, signed: bool, is_past: bool = False) -> None:
    """Check that the caller may write, change or end a consent.

    *signed*: the person signed the statement. *is_past*: see ``is_past_import``.

    Raises:
        DeniedError: the caller's role or rights do not cover consents of this kind.
        InvalidError: the person signed a STATUTORY consent.
    """
    if not statutory:
        if not (is_past and is_operator(caller)):
            check_right(view, caller, ACT_FOR_SUBJECTS)
    elif not (is_operator(caller) or is_public_authority(view, caller)):
        raise DeniedError("only an operator or a public authority writes a STATUTORY consent")
    elif signed:
        raise InvalidError("a person does not sign a STATUTORY consent", "INVALID_CONSENT")


def is_past_import(message: pb.Consent, *, time_ms: int) -> bool:
    """Return whether a first version states where it was imported from, and has ended before *time_ms*."""
    end_ms = message.root.period.end_time_ms
    return bool(message.source) and 0 < end_ms <= time_ms


def check_caller(
    view: View, write: PersonWrite, tag: bytes, *, attester: str, statutory: bool, is_past: bool = False
) -> None:
    """Check that the caller of *write* may write, change or end a consent of the person with this tag.

    A person writes their own consents: those that they signed, or else on the word of the participant that answers for
    the login, *attester*.

    Raises:
        DeniedError, InvalidError: as ``check_writer``; or the caller is another person.
    """
    caller, signed = write.request.asker, write.signed is not None
    if not is_person(caller):
        check_writer(view, caller, statutory=statutory, signed=signed, is_past=is_past)
        return
    check_acts_for(view, caller, tag)
    if statutory:
        raise DeniedError("only an operator or a public authority writes a STATUTORY consent")
    if not signed:
        check_right(view, attester, ACT_FOR_SUBJECTS)


def check_login(view: View, attestation: st.Attestation) -> None:
    """Check a recorded login: whether the participant that answers for it acts for persons.

    ``audit replay`` calls this.

    Raises:
        DeniedError: the participant does not act for persons.
        InvalidError: the login names no issuer, or a method is stated beside it.
    """
    if not attestation.HasField("authentication"):
        return
    check_right(view, attestation.attested_by, ACT_FOR_SUBJECTS)
    if attestation.method or not attestation.authentication.issuer:
        raise InvalidError("login of a person names an issuer, and no method beside it")


def check_same_kind(lineage: Lineage, *, statutory: bool) -> None:
    """Check that an amendment leaves a consent STATUTORY, or leaves it the person's. Raises ``InvalidError``."""
    if statutory is not lineage.is_statutory:
        raise InvalidError("an amendment changes no consent to STATUTORY, and none from it", "INVALID_CONSENT")


def check_written_version(
    view: View, tag: bytes, stored: StoredConsent, *, time_ms: int, attester: str, has_served: bool,
    replaced: Lineage | None, authority: Authority | None = None,
) -> Compiled | tuple[str, ...]:  # fmt: skip
    """Check a new version of a consent. Return it compiled, or the legal items for whose lack it is refused.

    The sequencer calls this before it writes the version, and ``audit replay`` for each version that was written. So
    what is checked here depends only on the entry and on what *view* has: quotas, for example, do not.

    Args:
        view: the policy table with all entries before this one.
        stored: the version, with the lineage, seq and version that its entry gives it.
        time_ms, attester, has_served, replaced: as in ``check_version``.
        authority: what ``check_representative`` returned: the authority that *stored* names; None: it names none.

    Raises:
        InvalidError: as ``check_version``; the consent names a code that the vocabulary does not have, or is too large.
        PreconditionError: as ``check_named``, and ``check_in_force`` for this version and the replaced one; the
            consent names a notice or a participant that is not recorded; or the person would have too many consents
            (LIMIT_REACHED).
        DeniedError: as ``check_attester``.
    """
    consent, registry = stored.consent, view.registry()
    check_names_notice(view, stored, replaced)
    missing = check_version(
        view, consent, time_ms=time_ms, attester=attester, has_served=has_served, replaced=replaced
    )
    if missing:
        return missing
    # INVARIANT: an entry that the table cannot apply is never appended. So the table's two steps are tried here first:
    # to compile fails if a participant is not registered, to join fails if the person has too many consents.
    seq, ends = view.permits_rest_on(tag, stored.authority)
    stored = replace(stored, authority=seq)
    compiled = compile_consent(
        stored, registry.codebook.vocabulary, registry.numbers, normal_level=registry.rules.normal_level, ends=ends,
        recurrence=recurrence_of(consent, replaced, time_ms),
    )  # fmt: skip
    for one in (compiled,) if replaced is None else (compiled, replaced.compiled):
        check_in_force(authority, one, registry.codebook.vocabulary, time_ms=time_ms)
    value = view.subject(tag)
    check_limits(value, stored.lineage, compiled)
    with_consent(value, stored, compiled)
    check_named(registry, consent, compiled)
    if attester:
        check_attester(view, attester, permits=compiled, ends=replaced)
    return compiled


def check_names_notice(view: View, stored: StoredConsent, replaced: Lineage | None) -> None:
    """Check the notice that a version of a consent names. *replaced*: the version in force before; None: none is.

    Raises:
        PreconditionError: (UNKNOWN_NOTICE) this version of the notice is not published.
        InvalidError: (INVALID_CONSENT) it names none, and the version before does. Otherwise a campaign that asks for
            new consents under that notice would lose this one. Or the notice is for children: nobody consents who
            is younger than 14.
    """
    consent = stored.consent
    if consent.notice or consent.notice_version:
        number = view.notice_number(consent.notice, consent.notice_version)
        notice = view.notice(consent.notice, consent.notice_version) if number else None
        if notice is None:
            raise PreconditionError(f"notice version is not published: `{consent.notice}`", "UNKNOWN_NOTICE")
        if notice.audience == st.NOTICE_AUDIENCE_CHILD:
            what = "notice is for children, who do not consent: name the one for who gives the consent"
            raise InvalidError(f"{what}: `{consent.notice}`", "INVALID_CONSENT")
        # INVARIANT: the table counts consents under a notice. So a damaged row is found before the entry is appended.
        view.consents_under(number)
    elif replaced is not None and replaced.notice:
        raise InvalidError("consent named a notice: its next version names one too", "INVALID_CONSENT")


def check_version(
    view: View, consent: Consent, *, time_ms: int, attester: str, has_served: bool, replaced: Lineage | None
) -> tuple[str, ...]:
    """Check what a version of a consent says. Return the legal items that it lacks (``missing_items``); empty: none.

    Args:
        attester: who attests the consent; empty: the person signed it.
        has_served: whether it names a SERVED entry.
        time_ms: the time of the consent's entry, UTC milliseconds.
        replaced: the version that is in force before, of the same consent; None: this is the first version.

    Raises:
        InvalidError: as ``check.check_consent``; its end has passed, and no operator records it as an imported one; or
            it replaces a version, and begins later.
    """
    check_consent(consent, view.registry().codebook.vocabulary)
    missing = missing_items(view, consent, attester=attester, has_served=has_served, time_ms=time_ms)
    if missing:
        return missing
    # Everybody may state a source. But a consent of the past could excuse an access of the past, so an operator alone
    # records one.
    is_import = consent.source and replaced is None and is_operator(attester)
    if consent.root.end_ms <= time_ms and not is_import:
        raise InvalidError(
            "consent has ended already: give it a later end; only an operator imports ended ones", "INVALID_CONSENT"
        )
    if replaced is not None and consent.root.start_ms > time_ms:
        # The highest version alone counts, so until then no version of this consent would.
        raise InvalidError("amendment begins later: grant a consent of its own", "INVALID_CONSENT")
    return ()


def check_named(registry: Registry, consent: Consent, compiled: Compiled) -> None:
    """Check the participants that the permits of a new consent name. Denies may name every registered participant.

    Raises:
        PreconditionError: UNKNOWN_PARTICIPANT: one is inactive. WRONG_ROLE: a relay is a recipient, or the consent
            recurs and covers a recipient to whose class the law allows no recurring transfer.
    """
    actors, holders = named_participants(compiled, Effect.PERMIT)
    recipients = _participants(registry, actors)
    for one in (*recipients, *_participants(registry, holders)):
        if not one.active:
            raise PreconditionError(f"participant is not active: `{one.id}`", "UNKNOWN_PARTICIPANT")
    for one in recipients:
        if st.PARTICIPANT_ROLE_RELAY in one.roles:
            raise PreconditionError(f"a relay receives no data: `{one.id}`", "WRONG_ROLE")
    if consent.recurrence in _ONCE:
        return
    # A group, or no limit, may cover any participant.
    names_each = len(recipients) == len(actors)
    for one in recipients if names_each else registry.participants.values():
        is_excluded = one.statement.recipient_class == st.RECIPIENT_CLASS_GENERAL_RECIPIENT
        if is_excluded and not actors.isdisjoint(covering_numbers(registry, one)):
            # PIPA Enforcement Decree 42-5(3)5: recurring transfers go to general and special agencies only.
            raise PreconditionError(f"recipient of this class gets no recurring transfer: `{one.id}`", "WRONG_ROLE")


def check_not_attested(message: Message) -> None:
    """Check a statement that its author signed: nobody attests it. Source: ledger-format.md 3.5.

    Raises ``InvalidError``.
    """
    if message.HasField("attestation"):
        raise InvalidError("a statement that its author signed has no attestation: nobody attests it")


def check_attester(view: View, attester: str, *, permits: Compiled | None, ends: Lineage | None = None) -> None:
    """Check that no recipient alone attests what widens its own access, unless the realm's rules allow it.

    Args:
        attester: the caller, who attests the statement because the person did not sign it.
        permits: the consent that the statement puts in force; None: it puts none in force.
        ends: the consent that the statement ends or replaces.

    Raises:
        DeniedError: the attester is an actor of a permit, or of a deny that ends and whose root denies too; or it is
            the application of a participant that is an actor there, also as a member of a group or as any recipient.
            The implicit policy of a consent counts as the provisions that it is read as.
    """
    registry = view.registry()
    participant = registry.participants.get(attester)
    if participant is None:
        return  # an operator
    actors = frozenset() if permits is None else named_participants(permits, Effect.PERMIT)[0]
    if ends is not None:
        actors |= named_participants(ends.compiled, Effect.DENY, root=Effect.DENY)[0]
    # An application of a recipient belongs to the recipient, so what it attests, the recipient attests.
    givers = registry.givers(attester, Capacity.APPLICATION)
    if givers:
        givers |= {ANY_NUMBER}  # only a participant that receives data gives a delegation
    if actors.isdisjoint(covering_numbers(registry, participant) | givers):
        return
    rules = view.rules_statement()
    if rules is None or not rules.recipient_may_attest:
        raise DeniedError("a recipient alone does not attest a consent to its own access in this realm")


def covering_numbers(registry: Registry, participant: Participant) -> frozenset[int]:
    """Return the numbers with which a consent covers a participant: its own, its groups', and 0 if it receives data."""
    numbers = {registry.numbers[name] for name in (participant.id, *participant.groups)}
    if not participant.roles.isdisjoint(RECEIVING_ROLES):
        numbers.add(ANY_NUMBER)
    return frozenset(numbers)


def _participants(registry: Registry, numbers: frozenset[int]) -> list[Participant]:
    """Return the participants with these numbers, in the order of their numbers. Groups are left out."""
    names = (registry.codebook.names[number] for number in sorted(numbers - {ANY_NUMBER}))
    return [registry.participants[name] for name in names if name in registry.participants]
