"""Play one citizen's story with the client library: consent, transfer, views, narrowing, refusal, withdrawal, history.

The citizen signs with the citizen's own key. The relay sends consents and questions: the institutions delegated that to
it. But it cannot forge the citizen's signatures. At the end the citizen calls without the relay, in calls that the same
key signs: to withdraw, and to read the history. ``Client.history`` raises if an entry is missing. A neighbour, who has
a key too, asks for the same history and is answered as if there were no such person.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from rich.table import Table

from consentd.core.ed25519 import KeyPair
from consentd.core.possession import person_owner, prove_possession
from consentd.core.pruned import DAY_MS
from consentd.demo.output import Output, Text
from consentd.demo.town import HOSPITAL, PUBLIC_HOLDERS, RELAY, Institution
from consentd.errors import NotFoundError
from consentd.policy.check import ITEMS_NOT_SPECIFIED
from consentd.policy.dates import SEOUL
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.language import best_text
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import AuthorizeAnswer, CallSigner, Client, Entry, History, StatementSigner
from consentd_client.labels import code_name, enum_name, label

CITIZEN = pb.Subject(scheme="mhid", value="SYN-900001")
NEIGHBOUR = pb.Subject(scheme="mhid", value="SYN-900002")
CLINIC = "clinic-01"
OTHER_CLINIC = "clinic-02"
HIRA = PUBLIC_HOLDERS[1][0]
MARKETING = "market-service"
YEAR_MS = 365 * DAY_MS

_COLUMNS = (
    ("때", "when"), ("누가", "who"), ("제공", "holder"), ("무엇을", "what"), ("목적", "purpose"), ("행위", "action"),
    ("결과", "outcome"),
)  # fmt: skip
_WORDS = DEFAULT_VOCABULARY
_CODES = {
    code.code: (best_text(code.name, "ko"), best_text(code.name, "en"))
    for code in (*_WORDS.purposes, *_WORDS.categories, *_WORDS.actions)
}
_CODES |= {"collect": ("전송", "transfer"), "access": ("열람", "view")}


class Story:
    """One citizen's story.

    *client* has the relay's token and a pinned log key. *institutions* have names to show. *open_own* returns a client
    whose calls are signed by a person.
    """

    def __init__(
        self, client: Client, institutions: Sequence[Institution], *, origin: str,
        open_own: Callable[[CallSigner], Client], out: Output,
    ) -> None:  # fmt: skip
        self._client = client
        self._open_own = open_own
        self._out = out
        self._origin = origin
        self._names = {institution.id: (institution.ko, institution.en) for institution in institutions}

    def run(self) -> History:
        """Make the calls and print their results; return the citizen's verified history.

        Raises:
            ConsentdError: a call failed, or the history does not verify.
        """
        client, step, why = self._client, self._step, self._out.why
        key = KeyPair(secrets.token_bytes(32))
        tag = self._enrol(CITIZEN, key)
        signer = StatementSigner(key=key, origin=self._origin, tag=tag)
        step(1, ("동의", "consent"), ("병원에, 진료 목적으로", "to a hospital, for treatment"))
        why(
            "본인의 키로 서명하므로 중계기관도 지어낼 수 없습니다.",
            "The citizen signs with a key of their own, so the relay cannot invent it.",
        )
        given = client.grant(CITIZEN, _consent(("CLIN", "INS"), (HIRA, CLINIC)), signer=signer)
        step(2, ("전송", "transfer"))
        why("기록된 허용 없이는 정보가 나가지 않습니다.", "No data leave the holder without a recorded permission.")
        for holder, category in ((HIRA, "INS.RX"), (CLINIC, "CLIN.DX")):
            self._record(self._ask(HOSPITAL, holder, "TREAT", category), category)
        step(3, ("열람만 허용", "a view only"), ("다른 의원에, 모든 정보를", "to another clinic, all data"))
        why("‘모든 정보’에도 민감정보는 들지 않습니다.", "Sensitive data are not in “all data”: they must be named.")
        view = client.grant(CITIZEN, _consent(("*",), (HOSPITAL,), OTHER_CLINIC, actions=("access",)), signer=signer)
        self._ask(OTHER_CLINIC, HOSPITAL, "TREAT", "CLIN.DX", action="access")
        self._ask(OTHER_CLINIC, HOSPITAL, "TREAT", "CLIN.DX")
        self._ask(OTHER_CLINIC, HOSPITAL, "TREAT", "GEN.TEST", action="access")
        why("유전자검사를 이름으로 허용하면 볼 수 있습니다.", "Once the citizen names genetic tests, they may be seen.")
        named = _consent(("GEN.TEST",), (HOSPITAL,), OTHER_CLINIC, actions=("access",), labels=("GDIS",))
        client.amend(CITIZEN, view.consent_id, named, based_on_version=1, signer=signer)
        self._ask(OTHER_CLINIC, HOSPITAL, "TREAT", "GEN.TEST", action="access")
        step(4, ("동의 범위 축소", "consent narrowed"), ("투약이력만", "dispensing history only"))
        why("요청 한 번으로 바로 적용됩니다.", "One request narrows a consent, and it applies at once.")
        narrowed = _consent(("INS.RX",), (HIRA,))
        client.amend(CITIZEN, given.consent_id, narrowed, based_on_version=1, signer=signer)
        self._record(self._ask(HOSPITAL, HIRA, "TREAT", "INS.RX"), "INS.RX")
        step(5, ("거절과 그 사유", "refusals, and why"))
        why("거절도 사유와 함께 기록됩니다.", "A refusal is recorded with its reason.")
        self._ask(HOSPITAL, CLINIC, "TREAT", "CLIN.DX")
        self._ask(MARKETING, HIRA, "HMARKT", "INS.RX")
        self._request_without_legal_items(signer)
        step(6, ("철회", "withdrawal"), ("본인이 직접, 중계기관 없이", "by the citizen, without the relay"))
        why("철회가 확인된 뒤의 요청은 모두 거절됩니다.", "Every request after the confirmed withdrawal is refused.")
        with self._open_own(CallSigner(key=key, origin=self._origin)) as own:
            for consent_id in (given.consent_id, view.consent_id):
                own.revoke(CITIZEN, consent_id, signer=signer)
        self._ask(HOSPITAL, HIRA, "TREAT", "INS.RX", published=True)
        step(7, ("누가 내 정보를 봤나", "who looked at my data"))
        why("앱이 직접 검증하므로 서버를 믿지 않아도 됩니다.", "The app verifies it and need not trust us.")
        with self._open_own(CallSigner(key=key, origin=self._origin)) as own:
            history = own.history(CITIZEN, tag=tag)
        self._show(history)
        step(8, ("이웃이 같은 기록을 요청", "a neighbour asks for the same history"))
        why("남의 기록은 없는 사람처럼 답합니다.", "Somebody else is answered as if there were no such person.")
        self._ask_as_neighbour()
        return history

    def _enrol(self, citizen: pb.Subject, key: KeyPair) -> bytes:
        """Enrol a citizen, who proves to have the key; return the citizen's tag."""
        proof = prove_possession(key, origin=self._origin, owner=person_owner(citizen.scheme, citizen.value))
        return self._client.enrol(citizen, method="demo", subject_key=key.public_key, possession=proof).tag

    def _ask_as_neighbour(self) -> None:
        """Ask for the citizen's history with the key of somebody else, and print the refusal."""
        key = KeyPair(secrets.token_bytes(32))
        self._enrol(NEIGHBOUR, key)
        with self._open_own(CallSigner(key=key, origin=self._origin)) as neighbour:
            try:
                neighbour.history(CITIZEN)
            except NotFoundError as error:
                self._out.print(f"   [red]{self._out.text('거절', 'refused')}[/red]: {error.reason}")
                return
        raise AssertionError("a neighbour was shown the citizen's history")

    def _step(self, number: int, title: Text, detail: Text = ("", "")) -> None:
        more = f" — {self._out.text(*detail)}" if detail[0] else ""
        self._out.print(f"[bold]{number}. {self._out.text(*title)}[/bold]{more}")

    def _party(self, name: str) -> Text:
        return self._names.get(name, (name, name))

    def _ask(
        self, recipient: str, holder: str, purpose: str, category: str, *, action: str = "collect",
        published: bool = False,
    ) -> AuthorizeAnswer:  # fmt: skip
        """Ask for a transfer, or a view (*action* ``access``), and print the decision.

        *published*: wait until a checkpoint covers the decision.
        """
        question = pb.Question(
            subject=CITIZEN,
            actor=pb.Actor(organisation=recipient, relays=[RELAY[0]]),
            holder=holder,
            purpose=purpose,
            action=action,
            categories=[category],
        )
        answer = self._client.authorize_access(question, published=published)
        text = self._out.text
        outcome = text(*_label(pb.Outcome, answer.outcome, "OUTCOME_"))
        colour = "green" if answer else "red"
        self._out.print(
            f"   {text(*self._party(holder))} → {text(*self._party(recipient))}: {text(*_code(category))}, "
            f"{text(*_code(purpose))}, {text(*_code(action))}: [{colour}]{outcome}[/{colour}]"
        )
        return answer

    def _record(self, answer: AuthorizeAnswer, category: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        outcome = st.OutcomeStatement(
            status=st.TRANSFER_STATUS_RECEIVED, categories=[category], resource_count=3, happened_time_ms=now_ms
        )
        self._client.record_access(CITIZEN, answer.access_seq, outcome)

    def _request_without_legal_items(self, signer: StatementSigner) -> None:
        """Send a transfer request without end, recurrence and retention. By law the daemon must refuse the request."""
        request = _consent(("INS.RX",), (HIRA,))
        request.kind = pb.CONSENT_KIND_TRANSFER_REQUEST
        request.root.ClearField("period")
        refused = self._client.grant(CITIZEN, request, signer=signer).refused
        assert refused is not None, "a transfer request without its seven items is refused"
        assert refused.reason == ITEMS_NOT_SPECIFIED, "the ground for missing items"
        reason = self._out.text(*(code_name(refused.reason, lang) for lang in ("ko", "en")))
        title, missing = self._out.text("전송요구", "transfer request"), ", ".join(refused.missing)
        self._out.print(f"   {title}: [red]{reason}[/red]: {missing}")

    def _show(self, history: History) -> None:
        text = self._out.text
        table = Table(show_lines=self._out.language == "both")
        for title in _COLUMNS:
            table.add_column(text(*title), overflow="fold")
        for entry in history.entries:
            time_of_day = datetime.fromtimestamp(entry.time_ms / 1000, SEOUL).strftime("%H:%M:%S")
            table.add_row(time_of_day, *(self._out.cell(*cell) for cell in self._row(entry)))
        self._out.console.print(table)
        count, point = len(history.entries), history.checkpoint
        whole = text(
            f"{count}건 모두, 빠짐없이. 검증됨: 체크포인트 {point.size:,}",
            f"all {count} entries, none left out; verified against checkpoint {point.size:,}",
        )
        self._out.print(f"   [green]✓[/green] {whole}\n     root {point.root.hex()}")

    def _row(self, entry: Entry) -> list[Text]:
        """Return the table cells of an entry, without the cell for the entry's time."""
        record = entry.message.access if isinstance(entry.message, st.RefusalStatement) else entry.message
        if isinstance(record, st.OutcomeStatement):
            return [self._author(entry), ("", ""), _label(st.TransferStatus, record.status, "TRANSFER_STATUS_")]
        if not isinstance(record, st.AccessStatement) or not record.asked.question:
            return [self._author(entry), ("", ""), _label(st.EntryKind, entry.kind, "ENTRY_KIND_")]
        question = pb.Question.FromString(record.asked.question)
        who, caller = self._party(question.actor.organisation), self._party(record.asked.asker)
        return [
            (f"{who[0]} ({caller[0]} 요청)", f"{who[1]}, asked by {caller[1]}"),
            self._party(question.holder),
            _code(question.categories[0]),
            _code(question.purpose),
            _code(question.action),
            _label(pb.Outcome, record.decision.outcome, "OUTCOME_"),
        ]

    def _author(self, entry: Entry) -> Text:
        """Return the author of an entry: the citizen, the participant that attested the entry, or the ledger."""
        if entry.author == "subject":
            return "본인", "the citizen"
        return self._party(entry.attested_by) if entry.attested_by else ("원장", "the ledger")


def _label(enum: type, value: int, prefix: str) -> Text:
    code = enum_name(enum, value, prefix)
    return label(code, "ko"), label(code, "en")


def _code(code: str) -> Text:
    return _CODES.get(code, (code, code))


def _consent(
    categories: Sequence[str], holders: Sequence[str], recipient: str = HOSPITAL, *, actions: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> pb.Consent:  # fmt: skip
    """Return a consent that permits *recipient* to use these holders' data for treatment, for a year."""
    root = pb.Provision(
        effect=pb.EFFECT_PERMIT,
        actors=[recipient],
        holders=holders,
        purposes=["TREAT"],
        categories=categories,
        actions=actions,
        labels=labels,
        period=pb.Period(end_time_ms=time.time_ns() // 1_000_000 + YEAR_MS),
    )
    return pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko")
