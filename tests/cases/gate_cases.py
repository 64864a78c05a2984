"""Cases for the second reader of the policy table (``consentd/gate``): rows, questions, and the answers of the daemon.

``consentd/gate/table/src/bin/compare_answers.rs`` reads a file of cases. It begins with ``HEADER``. Items follow:
kind u8 ‖ length u32, big-endian ‖ body::

    K  the key of identifier hashes
    W  empty: the rows of another table follow
    R  length of the key u16 ‖ key ‖ stored value
    Q  emergency u8 ‖ now u64 ‖ length of the caller u16 ‖ caller ‖ length of the question u32 ‖ question
       ‖ answered u8 ‖ the Decision, or the reason why the question is refused

An empty caller is the person. *emergency*: the question is asked as AuthorizeAccess asks, which permits break-glass.
"""

import random
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b, sha256
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

from cases.gate_borders import at_border, opposed, used_often
from cases.policy_worlds import (
    ABROAD,
    BLIND,
    EARLIER,
    LEFT,
    MEMBERSHIPS,
    NUMBERS,
    PARTICIPANTS,
    PUBLISHED,
    VOCABULARY,
    Draw,
    World,
)
from cases.question_messages import message_of
from consentd.errors import RequestError
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.vocabulary import Vocabulary
from consentd.sequencer.commands.callers import person_id
from consentd.service.answerer import Answerer
from consentd.service.servicer import Services
from consentd.statements import decisions, values
from consentd.statements.delegations import delegation_message
from consentd.table.checked_rows import RowCheck, seal_row, spoil_row
from consentd.table.notice_keys import campaign_key
from consentd.table.participant_rows import encode_participant
from consentd.table.registry import RegistryCache
from consentd.table.view import FORMAT, REVISION, U32, U64, Snapshot, delegation_key
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

HEADER = b"consentd gate cases 1\n"
INDEX_KEY = b"index key of the cases of a gate"
DECISION_ID = "0" * 32
TAG = sha256(b"tag").digest()
ROOT = sha256(b"root").digest()
QUESTIONS = 8  # about one world
_MOST_SHARE = {"refused": 0.04, "unknown": 0.04}
"""Of all cases, of one kind; of every other kind, ``_EACH_SHARE``."""
_EACH_SHARE = 0.235
_MOST_DRAWS = 20
_CHECK = RowCheck()
_CHECK.damaged = 1  # so that the damaged rows of the cases are in no log
_IDS = [name for name in NUMBERS if "/" not in name and name != "SUBJECT"]


def identifier_hash(scheme: str, value: str) -> bytes:
    return blake2b(bytes([len(scheme)]) + scheme.encode() + value.encode(), key=INDEX_KEY, digest_size=32).digest()


class Rows:
    """Stored rows in the place of a transaction."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows
        self.get = rows.get

    def scan(self, start: bytes, end: bytes | None, *, limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(self.rows)[:limit]:
            if key >= start and (end is None or key < end):
                yield key, self.rows[key]

    def end(self, error: BaseException | None) -> None:
        pass


class _Emergency(Answerer):
    """Answers questions of break-glass too, as they are answered with an entry."""

    def check(self, question: pb.Question) -> Any:
        return self._pack(question, decisions.form_of(question.SerializeToString()), cast(int, self._now_ms))


_SERVICES = cast(
    Services,
    SimpleNamespace(
        metrics=SimpleNamespace(unenrolled_questions=SimpleNamespace(inc=lambda: None)),
        vault=SimpleNamespace(identifier_hash=identifier_hash),
        sequencer=SimpleNamespace(quotas=SimpleNamespace(count_person=lambda *_, **__: None)),
    ),
)


class CaseWriter:
    """Draws cases from a seed.

    Attributes:
        kinds: how many answers of each kind were drawn so far.
    """

    def __init__(self, seed: int) -> None:
        self._draw = Draw(random.Random(f"gate {seed}"))
        self.kinds: Counter[str] = Counter()

    def encoded(self, count: int) -> Iterator[bytes]:
        """Yield the parts of a file of at least *count* questions."""
        yield HEADER + _item(b"K", INDEX_KEY)
        while self.kinds.total() < count:
            world = self._world()
            vocabulary = VOCABULARY
            if world.since < PUBLISHED and self._draw.random.random() < 0.15:
                vocabulary = EARLIER  # a reader that knows no later version
            rows = self._rows(world, vocabulary)
            yield _item(b"W", b"")
            for key, stored in rows.items():
                yield _item(b"R", len(key).to_bytes(2) + key + stored)
            cache = RegistryCache()
            for _ in range(QUESTIONS):
                yield from self._question(world, rows, cache)

    def _world(self) -> World:
        draw = self._draw
        world = draw.any_world()
        if draw.random.random() < 0.1:
            world = opposed(draw.random, world)
        if draw.random.random() < 0.2:
            world = draw.represented(world)
        kind = draw.random.random()
        if kind < 0.2:
            return draw.asked_again(world)
        if kind < 0.4:
            world = draw.recurring(world)
            return used_often(world) if draw.random.random() < 0.1 else world
        return world

    def _rows(self, world: World, vocabulary: Vocabulary) -> dict[bytes, bytes]:
        """Return the stored rows of a table that has the world's one person."""
        pick = self._draw.random
        rows = {
            b"R": REVISION.pack(pick.choice([1, 300, 1 << 40]), ROOT, pick.randrange(9), 0, FORMAT),
            b"v": values.vocabulary_message(vocabulary).SerializeToString(),
            b"c": world.compiled.encoded,
        }
        for name in PARTICIPANTS:
            if "/" in name:
                rows[b"g" + name.encode()] = U32.pack(NUMBERS[name])
        for name in _IDS:
            rows[b"p" + name.encode()] = _participant(name)
        for number, instant_ms in world.compiled.campaigns.items():
            rows[campaign_key(number)] = U64.pack(instant_ms) + b"notice/of-the-cases"
        for delegation in self._delegations():
            rows[delegation_key(delegation)] = delegation_message(delegation).SerializeToString()
        if world.value is not None:
            rows[b"i" + identifier_hash("mhid", "T-1")] = TAG
            rows[b"s" + TAG] = world.value
        stored = {key: seal_row(key, value) for key, value in rows.items()}
        if world.value is not None and pick.random() < 0.02:
            key = pick.choice([b"i" + identifier_hash("mhid", "T-1"), b"s" + TAG])
            stored[key] = spoil_row(key, rows[key])
            if key[:1] == b"s" and pick.random() < 0.5:
                del stored[key]
        return stored

    def _delegations(self) -> Iterator[Delegation]:
        """Draw delegations: mostly everyone's to everyone, else some, for some purposes and for some time."""
        pick = self._draw.random
        everyone = pick.random() < 0.8
        for giver, taker, capacity in product(_IDS, _IDS, Capacity):
            if giver == taker:
                continue
            if everyone:
                yield Delegation(giver=giver, taker=taker, capacity=capacity, break_glass=True)
            elif pick.random() < 0.5:
                window = self._draw.period() if pick.random() < 0.5 else None
                times = {} if window is None else {"start_ms": window.start_ms, "end_ms": window.end_ms}
                purposes = pick.choice([(), (), ("TREAT",), ("TREAT", "HRESCH", "HMARKT")])
                yield Delegation(
                    giver=giver, taker=taker, capacity=capacity, purposes=purposes,
                    break_glass=pick.random() < 0.7, **times,
                )  # fmt: skip

    def _question(self, world: World, rows: dict[bytes, bytes], cache: RegistryCache) -> Iterator[bytes]:
        """Draw questions until the answer to one is of a kind of which there are not too many; yield this one."""
        for _ in range(_MOST_DRAWS):
            case, kind = self._drawn(world, rows, cache)
            if self.kinds[kind] <= _MOST_SHARE.get(kind, _EACH_SHARE) * self.kinds.total():
                self.kinds[kind] += 1
                yield case
                return

    def _drawn(self, world: World, rows: dict[bytes, bytes], cache: RegistryCache) -> tuple[bytes, str]:
        draw = self._draw
        question, now_ms = draw.question(world), draw.now(world)
        if draw.random.random() < 0.3:
            question = at_border(draw.random, world, question)
        caller = draw.caller(question) if draw.random.random() < 0.95 else ""
        emergency = question.purpose == "BTG" and draw.random.random() < 0.9
        message = message_of(question)
        if draw.random.random() < 0.03:
            _spoil(draw.random, message)
        encoded = message.SerializeToString()
        answer, kind = answered(rows, encoded, caller, now_ms, emergency=emergency, cache=cache)
        name = caller.encode()
        body = bytes([emergency]) + now_ms.to_bytes(8) + len(name).to_bytes(2) + name
        return _item(b"Q", body + len(encoded).to_bytes(4) + encoded + answer), kind


def answered(
    rows: dict[bytes, bytes], encoded: bytes, caller: str, now_ms: int, *, emergency: bool, cache: RegistryCache
) -> tuple[bytes, str]:
    """Answer a question as the daemon does. Return what a case says of it, and the kind of the answer."""
    with Snapshot(cache, _CHECK, Rows(rows)) as view:
        made = _Emergency if emergency else Answerer
        answerer = made(_SERVICES, view, caller or person_id(TAG), now_ms, lambda: DECISION_ID)
        question, decision = pb.Question.FromString(encoded), pb.Decision()
        try:
            answerer.answer(decision, answerer.check(question), question.subject)
        except RequestError as error:
            return b"\0" + error.reason.encode(), "refused"
    return b"\1" + decision.SerializeToString(), _kind(decision)


def _kind(decision: pb.Decision) -> str:
    if decision.residual:
        return "residual"
    kinds = {pb.OUTCOME_PERMIT: "permit", pb.OUTCOME_PARTIAL: "permit", pb.OUTCOME_DENY: "deny"}
    return kinds.get(decision.outcome, "none" if decision.outcome == pb.OUTCOME_NO_CONSENT else "unknown")


def _participant(name: str) -> bytes:
    statement = st.ParticipantStatement(
        participant_id=name, name={"en": name}, roles=[1, 2], rights=[1, 3] if name in BLIND else [1, 2, 3],
        active=name not in LEFT, country="DE" if name in ABROAD else "",
    )  # fmt: skip
    memberships = tuple((NUMBERS[one.group], one.start, one.end) for one in MEMBERSHIPS.get(name, ()))
    return encode_participant((NUMBERS[name], memberships, statement))


def _spoil(pick: random.Random, message: pb.Question) -> None:
    """Make a question one that is refused, or that has an unusual form."""
    match pick.randrange(8):
        case 0:
            message.purpose = "UNHEARD"
        case 1:
            message.action = "unheard"
        case 2:
            del message.categories[:]
        case 3:
            message.level = "X"
        case 4:
            message.resources.values.append("no reference")
        case 5:
            message.labels.values.append("UNHEARD")
        case 6:
            message.data_period.start_time_ms, message.data_period.end_time_ms = 7, 7
        case _:
            message.actor.organisation = pick.choice(["", "nobody", "group/g"])


def _item(kind: bytes, body: bytes) -> bytes:
    return kind + len(body).to_bytes(4) + body
