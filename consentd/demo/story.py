"""Tell one citizen's story with the client library: consent, transfer, narrowing, refusal, withdrawal, who looked.

The citizen signs with a key of their own; the relay carries every call, and could forge none of it. What is shown in
the end is the verified history: ``Client.history`` proves that it is whole, or raises. For the demo only.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.demo.town import PUBLIC_HOLDERS, RELAY, Institution
from consentd.policy.dates import SEOUL
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import AuthorizeAnswer, Client, Entry, History, StatementSigner

CITIZEN = pb.Subject(scheme="mhid", value="SYN-900001")
HOSPITAL = "general-hospital-01"
CLINIC = "clinic-01"
HIRA = PUBLIC_HOLDERS[1][0]
MARKETING = "market-service"
YEAR_MS = 365 * DAY_MS

_NAMES = {
    code.code: (code.ko, code.en) for code in (*DEFAULT_VOCABULARY.purposes, *DEFAULT_VOCABULARY.categories)
}
_OUTCOMES = {
    pb.OUTCOME_PERMIT: ("허용", "permitted"),
    pb.OUTCOME_PARTIAL: ("일부 허용", "permitted in part"),
    pb.OUTCOME_DENY: ("거부", "denied"),
    pb.OUTCOME_NO_CONSENT: ("거절", "refused"),
    pb.OUTCOME_INDETERMINATE: ("판단 불가", "could not be told"),
}
_REASONS = {
    pb.REASON_CODE_PERMITTED_BY_CONSENT: ("동의에 따른 허용", "a consent permits it"),
    pb.REASON_CODE_DENIED_BY_CONSENT: ("처리정지·거부 의사", "a consent or objection denies it"),
    pb.REASON_CODE_NO_MATCHING_CONSENT: ("해당 동의 없음", "no consent covers it"),
}
_REFUSALS = {st.REFUSAL_REASON_R05_UNSPECIFIED_ITEMS: ("R05 요구사항 미특정", "R05 items not specified")}
_STATUSES = {
    st.TRANSFER_STATUS_SENT: ("보냄", "sent"),
    st.TRANSFER_STATUS_RECEIVED: ("받음", "received"),
    st.TRANSFER_STATUS_FAILED: ("실패", "failed"),
    st.TRANSFER_STATUS_DEFERRED: ("연기", "deferred"),
}
_KINDS = {
    EntryKind.ENROL: ("등록", "enrolled"),
    EntryKind.KEY: ("서명키 등록", "key registered"),
    EntryKind.GRANT: ("동의", "consent given"),
    EntryKind.AMEND: ("동의 범위 변경", "consent changed"),
    EntryKind.REVOKE: ("철회", "consent withdrawn"),
    EntryKind.REFUSAL: ("요구 거절", "request refused"),
}


@dataclass(frozen=True, slots=True)
class Voice:
    """How things are called: Korean, English, or both.

    Attributes:
        lang: ``ko``, ``en``, or ``both``: Korean with English in brackets.
    """

    lang: str

    def say(self, ko: str, en: str) -> str:
        """Return a text."""
        return {"ko": ko, "en": en}.get(self.lang, f"{ko} ({en})")

    def cell(self, ko: str, en: str) -> str:
        """Return a text for a cell of a table: English below the Korean."""
        return f"{ko}\n[dim]{en}[/dim]" if self.lang == "both" and ko else self.say(ko, en)


def name_of(named: Mapping[Any, tuple[str, str]], value: int) -> tuple[str, str]:
    """Return the names of an enum value, its number where it has none here."""
    return named.get(value, (str(value), str(value)))


def code_name(code: str) -> tuple[str, str]:
    """Return the names of a purpose or category."""
    return _NAMES.get(code, (code, code))


class Story:
    """One citizen's story.

    Args:
        client: speaks as the relay, with the log key pinned.
        institutions: who takes part, for their names.
    """

    def __init__(
        self, client: Client, institutions: Sequence[Institution], *, origin: str, console: Console, voice: Voice
    ) -> None:
        self._client = client
        self._console = console
        self._voice = voice
        self._origin = origin
        self._institutions = {one.id: (one.ko, one.en) for one in institutions}

    def tell(self) -> History:
        """Tell it; returns the verified history.

        Raises:
            ConsentdError: a call failed, or the history does not verify.
        """
        say, client = self._voice.say, self._client
        key = KeyPair(secrets.token_bytes(32))
        tag = client.enrol(CITIZEN, method="demo", subject_key=key.public_key).tag
        signer = StatementSigner(key=key, origin=self._origin, tag=tag)
        self._line("1", say("동의", "consent"), say("병원에, 진료 목적으로", "to a hospital, for treatment"))
        given = client.grant(CITIZEN, _consent(("CLIN", "INS"), (HIRA, CLINIC)), signer=signer)
        self._line("2", say("전송", "transfer"))
        for holder, category in ((HIRA, "INS.RX"), (CLINIC, "CLIN.DX")):
            self._record(self._ask(HOSPITAL, holder, "TREAT", category), category)
        self._line("3", say("동의 범위 축소", "consent narrowed"), say("투약이력만", "dispensing history only"))
        narrowed = _consent(("INS.RX",), (HIRA,))
        client.amend(CITIZEN, given.consent_id, narrowed, based_on_version=1, signer=signer)
        self._record(self._ask(HOSPITAL, HIRA, "TREAT", "INS.RX"), "INS.RX")
        self._line("4", say("거절과 그 사유", "refusals, and why"))
        self._ask(HOSPITAL, CLINIC, "TREAT", "CLIN.DX")
        self._ask(MARKETING, HIRA, "HMARKT", "INS.RX")
        self._refused_request(signer)
        self._line("5", say("철회", "withdrawal"))
        client.revoke(CITIZEN, given.consent_id, signer=signer)
        self._ask(HOSPITAL, HIRA, "TREAT", "INS.RX", published=True)
        self._line("6", say("누가 내 정보를 봤나", "who looked at my data"))
        history = client.history(CITIZEN, tag=tag)
        self._show(history)
        return history

    # -- steps ------------------------------------------------------------------------------------------------

    def _line(self, number: str, title: str, text: str = "") -> None:
        self._console.print(f"[bold]{number}. {title}[/bold]" + (f" — {text}" if text else ""), highlight=False)

    def _party(self, name: str) -> tuple[str, str]:
        return self._institutions.get(name, (name, name))

    def _ask(
        self, recipient: str, holder: str, purpose: str, category: str, *, published: bool = False
    ) -> AuthorizeAnswer:
        """Ask for a transfer; *published*: wait until a checkpoint covers the answer, so that a history shows it."""
        question = pb.Question(
            subject=CITIZEN,
            actor=pb.Actor(organisation=recipient, relay=RELAY[0]),
            holder=holder,
            purpose=purpose,
            action="disclose",
            categories=[category],
        )
        answer = self._client.authorize_access(question, published=published)
        say, reasons = self._voice.say, answer.decision.reasons
        outcome = say(*name_of(_OUTCOMES, answer.outcome))
        if not answer and reasons:
            outcome += ": " + say(*name_of(_REASONS, reasons[0].code))
        colour = "green" if answer else "red"
        self._console.print(
            f"   {say(*self._party(holder))} → {say(*self._party(recipient))}: {say(*code_name(category))}, "
            f"{say(*code_name(purpose))}: [{colour}]{outcome}[/{colour}]",
            highlight=False,
        )
        return answer

    def _record(self, answer: AuthorizeAnswer, category: str) -> None:
        outcome = st.OutcomeStatement(
            status=st.TRANSFER_STATUS_RECEIVED,
            categories=[category],
            resource_count=3,
            happened_time_ms=time.time_ns() // 1_000_000,
        )
        self._client.record_access(CITIZEN, answer.access_seq, outcome)

    def _refused_request(self, signer: StatementSigner) -> None:
        """Ask for a transfer without saying until when, how often and for how long: refused by law, and recorded."""
        request = _consent(("INS.RX",), (HIRA,))
        request.kind = pb.CONSENT_KIND_TRANSFER_REQUEST
        request.root.ClearField("period")
        refused = self._client.grant(CITIZEN, request, signer=signer).refused
        assert refused is not None, "a transfer request without its seven items is refused"
        name = self._voice.say("전송요구", "transfer request")
        reason = self._voice.say(*name_of(_REFUSALS, refused.reason))
        self._console.print(f"   {name}: [red]{reason}[/red]: {', '.join(refused.missing)}", highlight=False)

    def _show(self, history: History) -> None:
        say = self._voice.say
        table = Table(show_lines=self._voice.lang == "both")
        for title in (("때", "when"), ("누가", "who"), ("중계", "relay"), ("제공", "holder")):
            table.add_column(say(*title), overflow="fold")
        for title in (("무엇을", "what"), ("목적", "purpose"), ("결과", "outcome")):
            table.add_column(say(*title), overflow="fold")
        outcomes = {entry.event.ref: entry for entry in history.entries if entry.kind == EntryKind.OUTCOME}
        for entry in history.entries:
            if entry.kind != EntryKind.OUTCOME:
                self._add(table, entry, outcomes.get(entry.seq))
        self._console.print(table)
        point = history.checkpoint
        whole = say(
            f"{len(history.entries)}건 모두, 빠짐없이. 검증됨: 체크포인트 {point.size:,}",
            f"all {len(history.entries)} entries, none left out; verified against checkpoint {point.size:,}",
        )
        self._console.print(f"   [green]✓[/green] {whole}\n     root {point.root.hex()}", highlight=False)

    def _add(self, table: Table, entry: Entry, outcome: Entry | None) -> None:
        cell = self._voice.cell
        when = datetime.fromtimestamp(entry.time_ms / 1000, UTC).astimezone(SEOUL).strftime("%H:%M:%S.%f")[:-3]
        message = entry.message
        record = message.access if isinstance(message, st.RefusalStatement) else message
        if not isinstance(record, st.AccessStatement) or not record.asked.question:
            what = cell(*name_of(_KINDS, entry.kind))
            table.add_row(when, cell(*self._author(entry)), "", "", what, "", "")
            return
        question = pb.Question.FromString(record.asked.question)
        parties = (question.actor.organisation, question.actor.relay, question.holder)
        said = [name_of(_OUTCOMES, record.decision.outcome)]
        if outcome is not None:
            assert isinstance(outcome.message, st.OutcomeStatement), "an OUTCOME entry carries its statement"
            said.append(name_of(_STATUSES, outcome.message.status))
        elif record.decision.reasons:
            said.append(name_of(_REASONS, record.decision.reasons[0].code))
        table.add_row(
            when,
            *(cell(*self._party(name)) for name in parties),
            cell(*map(", ".join, zip(*map(code_name, question.categories), strict=True))),
            cell(*code_name(question.purpose)),
            cell(*map(", ".join, zip(*said, strict=True))),
        )

    def _author(self, entry: Entry) -> tuple[str, str]:
        """Return who made an entry that is no access: the citizen, or whoever vouches for it."""
        if entry.author == "subject":
            return "본인", "the citizen"
        return self._party(entry.attested_by) if entry.attested_by else ("원장", "the ledger")


def _consent(categories: Sequence[str], holders: Sequence[str]) -> pb.Consent:
    """Return a consent to treatment by the hospital, for a year."""
    root = pb.Provision(
        effect=pb.EFFECT_PERMIT,
        actors=[HOSPITAL],
        holders=holders,
        purposes=["TREAT"],
        categories=categories,
        period=pb.Period(end_time_ms=time.time_ns() // 1_000_000 + YEAR_MS),
    )
    return pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko")
