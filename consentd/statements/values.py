"""Turn messages of consents, vocabularies and rules into values and back; read what entries state on keys and pruning.

Messages: ``proto/consentd/v1``; values: ``consentd.policy``, ``consentd.core.key_validity``, ``consentd.core.pruned``.
Each function ``..._value`` raises ``InvalidError`` if an enum value, a time or the nesting is out of range.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from consentd.core import codec, key_validity
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned, Retention
from consentd.core.rotation import Rotation, RotationRole, StatedKeys
from consentd.errors import InvalidError
from consentd.policy import model
from consentd.policy.vocabulary import Code, Vocabulary
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

E = TypeVar("E", bound=IntEnum)

# -- consents -------------------------------------------------------------------------------------------------


def consent_value(message: pb.Consent) -> model.Consent:
    """Turn a consent message into its value. Unknown codes are accepted; ``policy.check`` finds them."""
    policy = message.implicit_policy
    return model.Consent(
        kind=enum_value(model.Kind, message.kind, "consent kind"), root=provision_value(message.root),
        recurrence=message.recurrence, retention_until_ms=time_value(message.retention_until_time_ms),
        policy=enum_value(model.ImplicitPolicy, policy, "implicit policy") if policy else None,
        notice=message.notice_id, notice_version=message.notice_version,
        language=message.language, source=message.source, legal_basis=message.legal_basis,
        legal_basis_note=message.legal_basis_note, policy_uris=tuple(message.policy_uris),
    )


def provision_value(message: pb.Provision, depth: int = 1) -> model.Provision:
    """Turn a provision message and its children into values."""
    if depth > model.MAX_DEPTH:
        raise InvalidError(f"provisions nest deeper than {model.MAX_DEPTH}", "INVALID_CONSENT")
    start_ms, end_ms = _window(message.period)
    return model.Provision(
        effect=enum_value(model.Effect, message.effect, "effect") if message.effect else None,
        actors=tuple(message.actors), holders=tuple(message.holders), purposes=tuple(message.purposes),
        categories=tuple(message.categories), actions=tuple(message.actions), labels=tuple(message.labels),
        resources=tuple(message.resources), level=message.level, start_ms=start_ms, end_ms=end_ms,
        data_period=data_period_value(message.data_period) if message.HasField("data_period") else None,
        children=tuple(provision_value(child, depth + 1) for child in message.provisions),
    )


def _window(message: pb.Period) -> tuple[int, int]:
    """Return the start and end of a period of validity. A time of 0 means that the period is open on that side."""
    start, end = time_value(message.start_time_ms), time_value(message.end_time_ms) or model.OPEN_END_MS
    if end <= start:
        raise InvalidError("period ends before it starts", "INVALID_CONSENT")
    _check_stated(message)
    return start, end


def _check_stated(message: pb.Period) -> None:
    """Refuse a bound that is the number of an open side in our values: a message states an open side by 0."""
    if message.start_time_ms == model.OPEN_START_MS or message.end_time_ms == model.OPEN_END_MS:
        raise InvalidError("period has a bound outside the years 1 to 9999; leave it out", "INVALID_CONSENT")


def data_period_value(message: pb.Period) -> model.Period:
    """Turn a period of data into its value. Times before 1970 are negative; 0 means that it is open on that side."""
    start, end = message.start_time_ms or model.OPEN_START_MS, message.end_time_ms or model.OPEN_END_MS
    if end <= start:
        raise InvalidError("data period ends before it starts", "INVALID_CONSENT")
    _check_stated(message)
    return model.Period(start, end)


def consent_message(consent: model.Consent) -> pb.Consent:
    """Turn a consent value into its message."""
    return pb.Consent(
        kind=to_enum(consent.kind), root=provision_message(consent.root), recurrence=consent.recurrence,
        retention_until_time_ms=consent.retention_until_ms, implicit_policy=to_enum(consent.policy),
        notice_id=consent.notice, notice_version=consent.notice_version,
        language=consent.language, source=consent.source, legal_basis=consent.legal_basis,
        legal_basis_note=consent.legal_basis_note, policy_uris=consent.policy_uris,
    )


def provision_message(provision: model.Provision) -> pb.Provision:
    """Turn a provision value and its children into messages."""
    message = pb.Provision(
        effect=to_enum(provision.effect), actors=provision.actors, holders=provision.holders,
        purposes=provision.purposes, categories=provision.categories, actions=provision.actions,
        labels=provision.labels, resources=provision.resources, level=provision.level,
        provisions=map(provision_message, provision.children),
    )
    if provision.start_ms or provision.end_ms != model.OPEN_END_MS:
        end_ms = 0 if provision.end_ms == model.OPEN_END_MS else provision.end_ms
        message.period.CopyFrom(pb.Period(start_time_ms=provision.start_ms, end_time_ms=end_ms))
    if provision.data_period is not None:
        message.data_period.CopyFrom(period_message(provision.data_period))
    return message


def period_message(period: model.Period) -> pb.Period:
    """Turn a period of data into its message.

    Raises:
        InvalidError: the period has a bound at 1970-01-01 00:00 UTC, which a message cannot state: 0 means "open".
    """
    if not (period.start_ms and period.end_ms):
        raise InvalidError("data period has a bound at 1970-01-01 00:00 UTC: state a millisecond before or after it")
    start_ms = 0 if period.start_ms == model.OPEN_START_MS else period.start_ms
    end_ms = 0 if period.end_ms == model.OPEN_END_MS else period.end_ms
    return pb.Period(start_time_ms=start_ms, end_time_ms=end_ms)


# -- vocabulary and rules -------------------------------------------------------------------------------------

DEFAULT_RULES = model.Rules()
_LISTS = (
    st.CODE_KIND_PURPOSE, st.CODE_KIND_CATEGORY, st.CODE_KIND_ACTION, st.CODE_KIND_LABEL, st.CODE_KIND_REFUSAL_GROUND,
    st.CODE_KIND_LEGAL_BASIS, st.CODE_KIND_EVIDENCE,
)


def vocabulary_value(message: st.VocabularyStatement) -> Vocabulary:
    """Turn a vocabulary statement into its value. Lists keep their order, which determines each code's bit.

    Raises:
        InvalidError: the lists are too long, or contradict each other.
    """
    lists: dict[int, list[Code]] = {kind: [] for kind in _LISTS}
    for code in message.codes:
        if code.kind not in lists:
            raise InvalidError(f"code is in no list: `{code.code}`", "INVALID_REQUEST")
        one = Code(
            code=code.code, name=dict(code.name), parent=code.parent, implies=code.implied, system=code.system,
            level=code.level, labels=tuple(code.labels), separate=code.separate_act,
        )
        lists[code.kind].append(one)
    purposes, categories, actions, labels, refusal_grounds, legal_bases, evidence = map(tuple, lists.values())
    return Vocabulary(
        id=message.vocabulary_id, version=message.version, purposes=purposes, categories=categories,
        actions=actions, labels=labels, refusal_grounds=refusal_grounds, legal_bases=legal_bases,
        evidence=evidence,
    )


def vocabulary_message(vocabulary: Vocabulary) -> st.VocabularyStatement:
    """Turn a vocabulary value into its statement."""
    message = st.VocabularyStatement(vocabulary_id=vocabulary.id, version=vocabulary.version)
    for kind, codes in zip(_LISTS, vocabulary.lists, strict=True):
        for code in codes:
            message.codes.add(
                kind=kind, code=code.code, name=code.name, parent=code.parent, implied=code.implies,
                system=code.system, level=code.level, labels=code.labels, separate_act=code.separate,
            )
    return message


def rules_value(message: st.RulesStatement) -> model.Rules:
    """Turn a rules statement into its value."""
    stated, default = message.quotas, model.Quotas()
    return model.Rules(
        combining=enum_value(model.Combining, message.combining, "combining"),
        implicit_policy=enum_value(model.ImplicitPolicy, message.implicit_policy, "implicit policy"),
        statutory=tuple(map(provision_value, message.statutory)),
        break_glass=tuple(map(provision_value, message.break_glass)),
        recipient_may_attest=message.recipient_may_attest,
        standing_capacities=tuple(message.standing_capacities),
        served_required=message.served_required,
        normal_level=message.normal_level or DEFAULT_RULES.normal_level,
        quotas=model.Quotas(
            entries_per_day=stated.entries_per_day or default.entries_per_day,
            refusals_per_day=stated.refusals_per_day or default.refusals_per_day,
            persons_per_hour=stated.persons_per_hour or default.persons_per_hour,
        ),
    )


def rules_message(rules: model.Rules, *, realm_id: str, version: int, vocabulary_id: str) -> st.RulesStatement:
    """Turn a rules value into its statement."""
    return st.RulesStatement(
        realm_id=realm_id, version=version, combining=to_enum(rules.combining), vocabulary_id=vocabulary_id,
        implicit_policy=to_enum(rules.implicit_policy), statutory=map(provision_message, rules.statutory),
        break_glass=map(provision_message, rules.break_glass), recipient_may_attest=rules.recipient_may_attest,
        served_required=rules.served_required,
        normal_level="" if rules.normal_level == DEFAULT_RULES.normal_level else rules.normal_level,
        quotas=None if rules.quotas == model.Quotas() else st.Quotas(
            entries_per_day=rules.quotas.entries_per_day, refusals_per_day=rules.quotas.refusals_per_day,
            persons_per_hour=rules.quotas.persons_per_hour,
        ),
    )  # fmt: skip


# -- statements about retention and keys ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatedRetention:
    """The retention policy and the pruning that one LEDGER entry states.

    Attributes:
        days: minimum age in days of entries that may be pruned; 0 if none may. Only the number in leaf 0 is valid.
        pruned: the pruning that the entry announces; None if the entry announces none.
    """

    days: int
    pruned: Pruned | None


def stated_retention(kind: int, payload: bytes) -> StatedRetention | None:
    """Return what a LEDGER entry states about retention; None for another kind, or a payload with unknown content."""
    message = payloads.decode_known_payload(kind, payload) if kind == EntryKind.LEDGER else None
    if not isinstance(message, st.LedgerStatement):
        return None
    pruning = message.pruning
    stated = Pruned(pruning.kept_from_time_ms, pruning.start_size) if message.HasField("pruning") else None
    return StatedRetention(message.retention_days, stated)


@dataclass(frozen=True, slots=True)
class StatedVersion:
    """What a version of a consent states about how long its entries are kept.

    Attributes:
        end_ms, retention_until_ms: when it ends, and until when recipients may keep data (0 if not stated), UTC ms.
        served_seq: seq of the SERVED entry that it rests on; 0 if not stated.
    """

    end_ms: int
    retention_until_ms: int
    served_seq: int = 0


def stated_version(kind: int, payload: bytes) -> StatedVersion | None:
    """Return what a GRANT or AMEND states; None for another kind. Raises as ``payloads.decode_payload``."""
    message = payloads.decode_payload(kind, payload) if kind in (EntryKind.GRANT, EntryKind.AMEND) else None
    if not isinstance(message, st.GrantStatement | st.AmendStatement):
        return None
    consent = message.consent
    end_ms = consent.root.period.end_time_ms or model.OPEN_END_MS
    return StatedVersion(end_ms, consent.retention_until_time_ms, message.served_seq)


def stated_uses(kind: int, payload: bytes) -> tuple[tuple[int, int], ...]:
    """Return the consents that an ACCESS uses up: the GRANT's seq and the end of the period. Raises as ``parse``."""
    if kind != EntryKind.ACCESS:
        return ()
    uses = payloads.parse(st.AccessStatement, payload).uses
    return tuple([(one.lineage_seq, one.until_time_ms or model.OPEN_END_MS) for one in uses])


def named_key(kind: int, payload: bytes) -> tuple[bytes, bool] | None:
    """Return a KEY entry's key, and whether the entry retires that key; None for another kind. Raises as ``parse``."""
    if kind != EntryKind.KEY:
        return None
    message = payloads.parse(st.KeyStatement, payload)
    return message.key, message.retired


def add_retention(retention: Retention, event: codec.Event, payload: bytes) -> None:
    """Add what an entry of chain `ledger` states about retention. Entries of unknown form change nothing.

    Raises:
        ProofError: the entry announces a pruning that the published policy forbids.
    """
    stated = stated_retention(event.kind, payload)
    if stated is not None:
        retention.apply(event, stated.days, stated.pruned)


def stated_key(event: codec.Event, payload: bytes, *, chain: str) -> key_validity.KeyChange | None:
    """Return the key change that a LEDGER or KEY entry states. *chain*: public name of its chain; empty for a person's.

    Return None if the entry is of another kind, names no key, may not change this key in its chain
    (``key_validity.key_change``), or has a payload that this version does not fully understand.
    """
    if event.kind not in (EntryKind.LEDGER, EntryKind.KEY):
        return None
    message = payloads.decode_known_payload(event.kind, payload)
    if isinstance(message, st.LedgerStatement):
        key, replaced = changed_statement_key(message)
        return key_validity.key_change(event, key, name=chain, replaces=replaced)
    if isinstance(message, st.KeyStatement):
        return key_validity.key_change(
            event, message.key, name=chain, retired=message.retired, authority=message.authority_seq
        )
    return None


def changed_statement_key(message: st.LedgerStatement) -> tuple[bytes, bytes]:
    """Return the statement key that a LEDGER entry puts in force, and the one that it replaces; b"": none."""
    if message.HasField("rotation"):
        rotation = message.rotation
        is_statement = rotation.role == st.ROTATION_ROLE_STATEMENT
        return (rotation.new_key, rotation.old_key) if is_statement else (b"", b"")
    return message.statement_key, b""


def stated_ledger_keys(message: st.LedgerStatement) -> StatedKeys:
    """Return what a LEDGER entry, which this version understands, states of the ledger's keys."""
    if not message.HasField("rotation"):
        return StatedKeys(verifier_keys=tuple(message.verifier_keys), statement_key=message.statement_key)
    one = message.rotation
    beside = {field.name for field, _ in message.ListFields()} - {"origin", "rotation"}
    rotation = Rotation(
        role=RotationRole(one.role), old_key=one.old_key, new_key=one.new_key, from_size=one.from_size,
        reason=one.reason, new_signature=one.new_signature,
    )  # fmt: skip
    return StatedKeys(rotation=rotation, is_alone=not beside)


def stated_of_ledger_keys(kind: int, payload: bytes) -> StatedKeys | bytes | None:
    """Return what an entry of chain ``ledger`` states of the ledger's keys, or the statement key that it retires.

    None: it states nothing of them, or this version does not understand it.
    """
    message = payloads.decode_known_payload(kind, payload)
    if isinstance(message, st.LedgerStatement):
        return stated_ledger_keys(message)
    return message.key if isinstance(message, st.KeyStatement) and message.retired else None


def vault_commitment(payload: bytes) -> bytes:
    """Return the commitment to the vault that the payload of leaf 0 states. Raises as ``payloads.parse``."""
    return payloads.parse(st.LedgerStatement, payload).vault_commitment


# -- enums and times ------------------------------------------------------------------------------------------


def enum_value(enum: type[E], value: int, name: str) -> E:
    """Return the member of *enum* with this number. If there is none, raise InvalidError with *name* in its message."""
    try:
        return enum(value)
    except ValueError:
        raise InvalidError(f"{name} is not one we know: `{value}`", "INVALID_REQUEST") from None


def to_enum(value: int | None) -> Any:
    """Return the number of an enum member, for a field of a generated enum type; 0 for None."""
    # Generated enum types are ints for the type checker. A test compares their numbers with those of our enums.
    return 0 if value is None else int(value)


def time_value(value: int) -> int:
    if value < 0:
        raise InvalidError(f"time is negative: `{value}`", "INVALID_REQUEST")
    return value
