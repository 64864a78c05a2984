"""Describe statements in Korean and English, for people."""

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError, Message

from consentd.core.checkpoint import parse_checkpoint
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX
from consentd.core.note import parse_note
from consentd.errors import MalformedError
from consentd.policy.dates import format_instant
from consentd.policy.language import best_text, is_korean
from consentd.policy.model import ANY
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client.consent_text import consent_lines, level_limit, period_text
from consentd_client.labels import code_name, enum_label, enum_name, escape_control, joined, label

DEFAULT_ACTION = "collect"
"""The action of a question that states none."""


def author(name: str, lang: str, authority: st.AuthorityStatement | None = None) -> str:
    """Describe the signer of an entry, for example "signed by the person". *name* is the ``Entry.author``.

    *authority*: the one under which a representative signed; None: none is known.
    """
    if not name:
        return ""
    if name == LEDGER_CHAIN:
        return "서버 서명" if is_korean(lang) else "signed by the daemon"
    if name == "subject":
        return "본인 서명" if is_korean(lang) else "signed by the person"
    if name.startswith("representative/"):
        seq = name.removeprefix("representative/")
        if authority is not None:
            capacity = enum_label(st.AuthorityCapacity, authority.capacity, "AUTHORITY_CAPACITY_", lang)
            return f"본인의 {capacity} 서명" if is_korean(lang) else f"signed by the person's {capacity}"
        return f"대리인 서명 (대리권 #{seq})" if is_korean(lang) else f"signed by the representative, authority #{seq}"
    participant = name.removeprefix(PARTICIPANT_PREFIX)
    return f"{participant} 서명" if is_korean(lang) else f"signed by {participant}"


def attested(participant: str, lang: str, authority: st.AuthorityStatement | None = None) -> str:
    """Describe that *participant* attests a statement that the daemon signed; empty if *participant* is empty.

    *authority*: the one under which *participant* acts for the person; None: none is known.
    """
    if not participant:
        return ""
    if authority is None:
        return f"({participant} 확인)" if is_korean(lang) else f"(attested by {participant})"
    capacity = enum_label(st.AuthorityCapacity, authority.capacity, "AUTHORITY_CAPACITY_", lang)
    if is_korean(lang):
        return f"({participant} 확인, 본인의 {capacity})"
    return f"(attested by {participant}, the person's {capacity})"


def describe(message: Message | None, lang: str) -> str:
    """Describe a statement's payload: in a few words, or a consent in a line for each of its provisions.

    *message* is None if this version cannot read the statement. Control characters are escaped.
    """
    if isinstance(message, st.GrantStatement):
        first, *rest = consent_lines(message.consent, lang)
        return text_of([first + _rests_on(message, lang), *rest])
    if isinstance(message, st.AmendStatement):
        first, *rest = consent_lines(message.consent, lang)
        first = f"v{message.version} #{message.lineage_seq} {first}"
        return text_of([first + _rests_on(message, lang), *rest])
    if isinstance(message, st.RefusalStatement) and not message.HasField("access"):
        first, *rest = consent_lines(message.grant.consent, lang)
        missing = f" ({joined(message.missing, '')})" if message.missing else ""
        first = f"{code_name(message.reason, lang)}{missing}, {first}"
        return text_of([first + _rests_on(message.grant, lang), *rest])
    return escape_control(_line(message, lang))


def _rests_on(message: st.GrantStatement | st.AmendStatement, lang: str) -> str:
    """Name the entries on which a consent rests: SERVED, and AUTHORITY; empty if it names none."""
    served = f", {label('SERVED', lang)} #{message.served_seq}" if message.served_seq else ""
    return served + under_authority(message.authority_seq, lang)


def under_authority(authority_seq: int, lang: str) -> str:
    """Name the AUTHORITY under which a representative acts; empty: the person acts."""
    return f", {label('AUTHORITY', lang)} #{authority_seq}" if authority_seq else ""


def text_of(lines: Iterable[str]) -> str:
    """Return lines as one text. Control characters within a line are escaped, so that no value begins a line."""
    return "\n".join(map(escape_control, lines))


def _line(message: Message | None, lang: str) -> str:
    match message:
        case st.PauseStatement() | st.ResumeStatement():
            return f"#{message.lineage_seq}" + under_authority(message.authority_seq, lang)
        case st.RevokeStatement():
            note = f" “{message.note}”" if message.note else ""
            return f"#{message.lineage_seq}{note}" + under_authority(message.authority_seq, lang)
        case st.AuthorityStatement():
            return authority(message, lang)
        case st.AccessStatement():
            return access(message, lang)
        case st.RefusalStatement():
            return access(message.access, lang)
        case st.OutcomeStatement():
            status = enum_label(st.TransferStatus, message.status, "TRANSFER_STATUS_", lang)
            return " ".join(filter(None, (status, joined(message.categories, ""), message.note)))
        case st.ReadStatement():
            scope = enum_label(st.ReadScope, message.scope, "READ_SCOPE_", lang)
            under = f" ({label('MANDATE', lang)} #{message.mandate_seq})" if message.mandate_seq else ""
            under += under_authority(message.authority_seq, lang)
            return f"{message.reader}: {scope}{under}"
        case st.EnrolStatement():
            return message.scheme
        case st.ServedStatement():
            return served(message, lang)
        case st.LedgerStatement():
            return ledger(message, lang)
        case st.ParticipantStatement():
            return f"{message.participant_id} {best_text(message.name, lang)}"
        case st.KeyStatement():
            retired = f" {label('RETIRED', lang)}" if message.retired else ""
            return message.key.hex()[:16] + retired + under_authority(message.authority_seq, lang)
        case st.VocabularyStatement():
            return f"{message.vocabulary_id} v{message.version}"
        case st.NoticeStatement():
            return notice(message, lang)
        case st.RulesStatement():
            return f"{message.realm_id} v{message.version}"
        case st.MandateStatement():
            return mandate(message, lang)
        case st.DelegationStatement():
            return delegation(message, lang)
        case st.AdministrationStatement():
            return administration(message, lang)
    return label("UNKNOWN", lang)


def authority(message: st.AuthorityStatement, lang: str) -> str:
    """Describe an authority in one line: the representative, the capacity, the reason, the acts, and its window."""
    if message.ended:
        return label("ENDED", lang)
    capacity = enum_label(st.AuthorityCapacity, message.capacity, "AUTHORITY_CAPACITY_", lang)
    reason = ""
    if message.reason:
        reason = enum_label(st.AuthorityReason, message.reason, "AUTHORITY_REASON_", lang)
    acts = "+".join(enum_label(st.AuthorityAct, one, "AUTHORITY_ACT_", lang) for one in message.acts)
    start, end = (format_instant(ms) if ms else "" for ms in (message.start_time_ms, message.end_time_ms))
    window = f"{start} ~ {end}".strip() if start or end else ""
    papers = joined([one.kind for one in message.evidence], "")
    who = message.participant_id or message.key.hex()[:16]
    parts = (who, capacity, reason, message.birth_date, acts, window, papers)
    return escape_control(", ".join(filter(None, parts)))


def ledger(message: st.LedgerStatement, lang: str) -> str:
    """Name a ledger, and the last checkpoint of its predecessor, if it states one. Its signature is not verified."""
    if not message.predecessor:
        return message.origin
    try:
        point = parse_checkpoint(parse_note(message.predecessor).text)
    except MalformedError:
        return f"{message.origin}, {label('PREDECESSOR', lang)} {label('UNKNOWN', lang)}"
    return f"{message.origin}, {label('PREDECESSOR', lang)} {point.origin} @{point.size} {point.root.hex()}"


def notice(message: st.NoticeStatement, lang: str) -> str:
    """Describe a version of a notice in one line: title, languages, until when it asks for consents, whose it is."""
    title = f"{message.notice_id} v{message.version} {best_text(message.title, lang)}"
    parts = [title, "+".join(sorted(message.texts))]
    if message.audience:
        parts.append(enum_label(st.NoticeAudience, message.audience, "NOTICE_AUDIENCE_", lang))
    if message.reconsent_by_time_ms:
        parts.append(f"{label('RECONSENT_BY', lang)} {format_instant(message.reconsent_by_time_ms)}")
    return escape_control(", ".join(filter(None, (*parts, message.participant_id))))


def served(message: st.ServedStatement, lang: str = "en") -> str:
    """Describe in one line that a notice was shown: id and version, language, channel, time, and to which authority."""
    notice = f"{message.notice_id}@{message.notice_version}"
    shown = escape_control(f"{notice}, {message.language}, {message.channel}")
    return f"{shown}, {format_instant(message.served_time_ms)}" + under_authority(message.authority_seq, lang)


def mandate(message: st.MandateStatement, lang: str) -> str:
    """Describe a mandate in one line: auditor, giver, scope, reason and end."""
    auditor = f"{message.auditor} ← {message.giver}" if message.giver else message.auditor
    if message.ended:
        return f"{auditor}, {label('ENDED', lang)}"
    scope, reason = map(escape_control, (message.scope, message.reason))
    return f"{auditor}, {scope}, “{reason}” ~ {format_instant(message.end_time_ms)}"


def administration(message: st.AdministrationStatement, lang: str) -> str:
    """Describe an act of an operator in one line: who did it, what, and whose credential it is about."""
    act = message.WhichOneof("act")
    done = f"{message.attestation.attested_by or '?'}: {label((act or 'unknown').upper(), lang)}"
    if act == "credentials_file_changed":
        changed = message.credentials_file_changed
        counts = (len(changed.added_ids), len(changed.removed_ids), len(changed.changed_ids), changed.more_count)
        return "{} +{} -{} ±{} …{}".format(done, *counts).removesuffix(" …0")
    if act == "credential_added":
        added = message.credential_added
        roles = joined([enum_name(st.OperatorRole, role, "OPERATOR_ROLE_") for role in added.roles], "")
        until = f"~ {format_instant(added.expire_time_ms)}" if added.expire_time_ms else ""
        return escape_control(" ".join(filter(None, (done, added.caller, roles, until))))
    about = message.credential_revoked.caller if act == "credential_revoked" else ""
    return escape_control(f"{done} {about}".rstrip())


def delegation(message: st.DelegationStatement, lang: str) -> str:
    """Describe a delegation in one line: taker → giver, the capacity, and what limits it."""
    capacity = enum_label(st.DelegationCapacity, message.capacity, "DELEGATION_CAPACITY_", lang)
    parties = f"{message.taker} → {message.giver}, {capacity}"
    if message.ended:
        return f"{parties}, {label('ENDED', lang)}"
    start, end = (format_instant(ms) if ms else "" for ms in (message.start_time_ms, message.end_time_ms))
    limits = [joined(message.purposes, label("ANY", lang)), label("BREAK_GLASS", lang) if message.break_glass else ""]
    window = f"{start} ~ {end}".strip() if start or end else ""
    return ", ".join(filter(None, (parties, *limits, window)))


def beyond_permit(categories: Iterable[str], lang: str) -> str:
    """Describe that an outcome names categories that its access did not permit; empty if there are none."""
    names = joined(categories, "")
    return f"{label('BEYOND_PERMIT', lang)}: {names}" if names else ""


def access(message: st.AccessStatement, lang: str) -> str:
    """Describe an access in one line: the decision's outcome, the question and the caller.

    Labels and level are those of the question. The line says if the permit is for more that the question leaves open.
    """
    decision, asked = message.decision, parse_question(message)
    outcome = enum_label(pb.Outcome, decision.outcome, "OUTCOME_", lang)
    if asked is not None and (ANY in decision.labels or decision.level not in ("", asked.level)):
        outcome += f" ({permitted_data(decision, lang)})"
    said = label("UNKNOWN", lang) if asked is None else question(asked)
    return f"{outcome}: {said}, {asker(message.asked.asker, lang)}"


def parse_question(message: st.AccessStatement) -> pb.Question | None:
    """Parse the question of an access; None if it cannot be parsed."""
    found = pb.Question()
    try:
        found.ParseFromString(message.asked.question)
    except (DecodeError, ValueError, RecursionError):
        return None
    return found


def asker(caller: str, lang: str) -> str:
    """Describe who asked a question: the participant whose credential the call had."""
    return f"{caller} 요청" if is_korean(lang) else f"asked by {caller}"


def question(asked: pb.Question) -> str:
    """Describe a question in one line: holder → actor, purpose, action, categories, other properties of the data.

    The person is not named.
    """
    actor = asked.actor
    others = [("for", actor.on_behalf_of), ("with", actor.application), *(("via", relay) for relay in actor.relays)]
    parties = [actor.organisation, *(f"{role} {name}" for role, name in others if name)]
    what = [asked.purpose, asked.action or DEFAULT_ACTION, joined(asked.categories, "")]
    what += [joined(asked.labels.values, ""), asked.level, joined(asked.resources.values, "")]
    return ", ".join(filter(None, (f"{asked.holder} → {' '.join(parties)}", *what)))


def permitted_data(decision: pb.Decision, lang: str) -> str:
    """Describe the labels and the level of the data that a permit is for."""
    if ANY in decision.labels:
        labels = label("ANY_LABEL", lang)
    else:
        named = f"{label('LABELS', lang)}: {joined(decision.labels, '')}"
        labels = named if decision.labels else label("NO_FURTHER_LABEL", lang)
    level = level_limit(decision.level, True, lang) if decision.level else label("DEFAULT_LEVEL", lang)
    return escape_control(f"{labels}, {level}")


def condition_lines(rules: Iterable[pb.ResidualRule], lang: str) -> list[str]:
    """Describe the conditions of a permit: a line for each rule, and indented ones for the exceptions to it."""
    return [escape_control(line) for line in _condition_lines(rules, lang, "CONDITION", "")]


def _condition_lines(rules: Iterable[pb.ResidualRule], lang: str, name: str, indent: str) -> Iterator[str]:
    for rule in rules:
        permits = rule.effect == pb.EFFECT_PERMIT
        nothing = label("NONE", lang)
        what = [f"{enum_label(pb.Effect, rule.effect, 'EFFECT_', lang)} {joined(rule.categories, nothing)}"]
        if permits:
            what.append(f"{label('ONLY_LABELS', lang)}: {joined(rule.covered_labels, nothing)}")
        if rule.any_labels:
            what.append(f"{label('ONE_LABEL', lang)}: {joined(rule.any_labels, '')}")
        if rule.level:
            what.append(f"{label('LEVEL', lang)}: {level_limit(rule.level, permits, lang)}")
        if rule.resources:
            what.append(f"{label('RESOURCES', lang)}: {joined(rule.resources, '')}")
        if rule.HasField("data_period"):
            what.append(f"{label('DATA_PERIOD', lang)}: {period_text(rule.data_period, lang)}")
        layer = enum_name(pb.Layer, rule.layer, "LAYER_").lower()
        yield f"{indent}{label(name, lang)} ({layer}): {', '.join(what)}"
        yield from _condition_lines(rule.rules, lang, "EXCEPT", indent + "  ")
