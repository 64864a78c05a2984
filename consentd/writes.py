"""Say what each write checks, and what it records.

A write is a value made by the service. The sequencer calls ``prepare`` on its own thread, at the write's place in
the ledger: what it reads there includes every entry before it, those of its own batch too. It raises
``RequestError`` before anything is appended, or returns a *plan*: drafts with their messages, and an answer.

The daemon signs ACCESS and REFUSAL, because the decision is its statement, and whatever a thin client brings; such
a statement says ``attested_by``. What an author signed is verified here, against the key in force at this place.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message

from consentd.core import codec, note
from consentd.core.kinds import AUTHORS, EntryKind, Owner
from consentd.errors import ConflictError, InvalidError, MalformedError, NotFoundError, SignatureError
from consentd.ledger import statement
from consentd.ledger.ledger import Draft, Turn
from consentd.ledger.table import TableTurn
from consentd.ledger.vault import Vault, clear_row
from consentd.policy import check, evaluate, model
from consentd.policy.codebook import Codebook, PackedQuestion, pack_question
from consentd.policy.compile import CompiledRules, compile_consent
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

MAX_AUTHOR_SKEW_MS = 10 * 60_000

Answer = Any
"""What a write says to its caller: a value of its own kind, or None."""


@dataclass(frozen=True, slots=True)
class Author:
    """The daemon as an author: its statement key, and where persons' statements are encrypted.

    Attributes:
        origin: the ledger's name, part of every signature.
        key: the daemon's statement key, registered in chain `ledger`; never the log key.
        random: CSPRNG for salts and decision ids.
    """

    origin: str
    key: note.KeyPair
    vault: Vault
    random: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a write is prepared: the turn it is part of, and the table as it stands at its place."""

    author: Author
    turn: Turn
    table: TableTurn

    def draft(self, entry: "Entry", request_key: bytes = b"", content: bytes = b"") -> tuple[Draft, Message]:
        """Sign or verify an entry, and commit to it.

        Raises:
            InvalidError: the payload is too large, or the author's signature or clock is not right.
        """
        if entry.signed is None:
            payload = statement.encode_payload(entry.message)
            made = self._sign(entry, payload)
        else:
            made = self._verify(entry, entry.signed)
        encoded, salt = codec.encode_statement(made), self.author.random(32)
        if entry.public:
            commit, stored = clear_row(salt, encoded)
        else:
            commit, stored = self.author.vault.encrypt(entry.kind, entry.tag, salt, encoded)
        draft = Draft(
            kind=entry.kind,
            tag=entry.tag,
            ref=entry.ref,
            commit=commit,
            stored=stored,
            request_key=request_key,
            content=content,
        )
        return draft, entry.message

    def _sign(self, entry: "Entry", payload: bytes) -> codec.Statement:
        signed = codec.signed_message(
            origin=self.author.origin,
            kind=entry.kind,
            tag=entry.tag,
            ref=entry.ref,
            request_id=entry.request_id,
            author_time_ms=self.turn.time_ms,
            payload=payload,
        )
        key = self.author.key
        return codec.Statement(key.public_key, key.sign(signed), entry.request_id, self.turn.time_ms, payload)

    def _verify(self, entry: "Entry", signed: pb.SignedStatement) -> codec.Statement:
        self.check_signature(
            kind=entry.kind,
            tag=entry.tag,
            ref=signed.ref,
            request_id=entry.request_id,
            author_time_ms=signed.author_time_ms,
            payload=signed.payload,
            key=signed.key,
            signature=signed.signature,
            owners=AUTHORS[EntryKind(entry.kind)] - {Owner.LEDGER},
            verified=entry.verified,
        )
        if signed.ref != entry.ref:
            raise ConflictError("signed ref is not what this write relies on", "REF_MOVED")
        return codec.Statement(signed.key, signed.signature, entry.request_id, signed.author_time_ms, signed.payload)

    def check_signature(
        self,
        *,
        kind: int,
        tag: bytes,
        ref: int,
        request_id: bytes,
        author_time_ms: int,
        payload: bytes,
        key: bytes,
        signature: bytes,
        owners: frozenset[Owner],
        verified: bytes = b"",
    ) -> None:
        """Check an author's signature: its clock, its key in force now and whose it is, and the bytes.

        Args:
            verified: what ``verify_ahead`` returned, where it was called: the very same signature over the very same
                message is then not verified again on the one thread that all writes share.

        Raises:
            InvalidError: AUTHOR_CLOCK, BAD_SIGNATURE or TOO_LARGE.
        """
        if len(payload) > codec.MAX_PAYLOAD:
            raise InvalidError(f"payload is over its limit of 16384 bytes: `{len(payload)}`", "TOO_LARGE")
        if abs(self.turn.time_ms - author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise InvalidError("author_time_ms is more than ten minutes from the ledger's clock", "AUTHOR_CLOCK")
        owner = self.table.key_owner(key)
        if owner is None or owner.kind not in owners or (owner.kind is Owner.SUBJECT and owner.tag != tag):
            raise InvalidError("author's key is not in force for this entry", "BAD_SIGNATURE")
        message = codec.signed_message(
            origin=self.author.origin,
            kind=kind,
            tag=tag,
            ref=ref,
            request_id=request_id,
            author_time_ms=author_time_ms,
            payload=payload,
        )
        if verified != _digest(key, message, signature):
            _verify(key, message, signature)


def verify_ahead(
    *, origin: str, kind: int, tag: bytes, request_id: bytes, signed: pb.SignedStatement | st.AskedQuestion
) -> bytes:
    """Verify an author's signature on the caller's own thread; returns what the sequencer recognises it by.

    It settles nothing about the key: whether that is in force is looked up at the write's place.

    Raises:
        InvalidError: BAD_SIGNATURE.
    """
    if isinstance(signed, pb.SignedStatement):
        ref, payload = signed.ref, signed.payload
    else:
        ref, payload = 0, signed.question
    message = codec.signed_message(
        origin=origin,
        kind=kind,
        tag=tag,
        ref=ref,
        request_id=request_id,
        author_time_ms=signed.author_time_ms,
        payload=payload,
    )
    _verify(signed.key, message, signed.signature)
    return _digest(signed.key, message, signed.signature)


def _verify(key: bytes, message: bytes, signature: bytes) -> None:
    try:
        note.verify(key, message, signature)
    except (SignatureError, MalformedError) as error:
        raise InvalidError("author's signature does not verify", "BAD_SIGNATURE") from error


def _digest(key: bytes, message: bytes, signature: bytes) -> bytes:
    return hashlib.sha256(b"".join((key, signature, message))).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry a write wants: where, what, and by whom signed (None: by the daemon).

    Attributes:
        verified: what ``verify_ahead`` returned for ``signed``, where it was called.
    """

    kind: EntryKind
    tag: bytes
    message: Message
    request_id: bytes
    ref: int = 0
    public: bool = False
    signed: pb.SignedStatement | None = None
    verified: bytes = b""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a write appends, in order, and what it says to its caller."""

    entries: tuple[tuple[Draft, Message], ...] = ()
    answer: Answer = None


class Write(Protocol):
    """What the sequencer asks of a write.

    Attributes:
        request_key: ``H(asker ‖ 0 ‖ request_id)``; empty: the write is not remembered.
        content: hash of what is asked, so that a repeat is told from a clash.
    """

    @property
    def request_key(self) -> bytes: ...

    @property
    def content(self) -> bytes: ...

    def prepare(self, desk: Desk) -> Plan:
        """Check and draft; ``RequestError`` where it is refused."""
        ...

    def replay(self, desk: Desk) -> Answer:
        """Answer a repeat of a recorded request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    request_id: bytes
    request_key: bytes
    content: bytes
    asker: str

    def replay(self, desk: Desk) -> Answer:
        """A repeat has nothing to add to its receipt."""
        return None


def request_key(asker: str, request_id: bytes) -> bytes:
    """Name a request: unique per authenticated asker."""
    return hashlib.sha256(b"".join((asker.encode(), b"\0", request_id))).digest()


# -- the registry ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicWrite(_Base):
    """An entry in a public chain.

    Attributes:
        name: the chain's name, ``participant/ID``.
        check: looks at the table before the entry is made; raises ``RequestError``.
    """

    name: str
    kind: EntryKind
    message: Message
    check: Callable[[TableTurn], None]

    def prepare(self, desk: Desk) -> Plan:
        self.check(desk.table)
        entry = Entry(
            kind=self.kind,
            tag=codec.public_tag(self.name),
            message=self.message,
            request_id=self.request_id,
            public=True,
        )
        return Plan((desk.draft(entry, self.request_key, self.content),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol(_Base):
    """A person's first entry, and their own key's where they have one. The vault holds tag and key already."""

    tag: bytes
    message: st.EnrolStatement
    subject_key: bytes = b""

    def prepare(self, desk: Desk) -> Plan:
        if desk.table.tag_of(self.message.identifier_hash) is not None:
            raise ConflictError("identifier is enrolled already", "SUBJECT_ENROLLED")
        first = Entry(kind=EntryKind.ENROL, tag=self.tag, message=self.message, request_id=self.request_id)
        entries = [desk.draft(first, self.request_key, self.content)]
        if self.subject_key:
            if desk.table.key_owner(self.subject_key) is not None:
                raise ConflictError("key is in force already")
            key = st.KeyStatement(key=self.subject_key, attestation=self.message.attestation)
            # The second entry of one request: its request_id is derived, for request ids are unique per entry.
            derived = hashlib.sha256(self.request_id + b"\1").digest()[:16]
            entries.append(
                desk.draft(Entry(kind=EntryKind.KEY, tag=self.tag, message=key, request_id=derived))
            )
        return Plan(tuple(entries), self.tag)

    def replay(self, desk: Desk) -> Answer:
        return self.tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """The first entries of a ledger: who it is, its vocabulary, its realm's rules."""

    ledger: st.LedgerStatement
    vocabulary: st.VocabularyStatement
    rules: st.RulesStatement
    request_key: bytes = b""
    content: bytes = b""

    def prepare(self, desk: Desk) -> Plan:
        if desk.turn.index:
            raise ConflictError("ledger has begun already")
        chains = (
            ("ledger", EntryKind.LEDGER, self.ledger),
            (f"vocabulary/{self.vocabulary.vocabulary_id}", EntryKind.VOCABULARY, self.vocabulary),
            (f"rules/{self.rules.realm_id}", EntryKind.RULES, self.rules),
        )
        entries = []
        for name, kind, message in chains:
            tag, request_id = codec.public_tag(name), desk.author.random(16)
            entries.append(
                desk.draft(Entry(kind=kind, tag=tag, message=message, request_id=request_id, public=True))
            )
        return Plan(tuple(entries))

    def replay(self, desk: Desk) -> Answer:
        raise AssertionError("the first entries are not remembered as a request")


# -- consents -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GrantAnswer:
    """How a grant or an amendment came out; lineage 0 where it was refused."""

    lineage: int
    version: int
    refused: st.RefusalStatement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _PersonWrite(_Base):
    identifier_hash: bytes
    signed: pb.SignedStatement | None = None
    verified: bytes = b""

    def tag(self, desk: Desk) -> bytes:
        tag = desk.table.tag_of(self.identifier_hash)
        if tag is None:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        return tag

    def entry(self, desk: Desk, kind: EntryKind, message: Message, ref: int = 0) -> tuple[Draft, Message]:
        # A REFUSAL is the daemon's own statement, whoever signed what is refused.
        signed = None if kind is EntryKind.REFUSAL else self.signed
        entry = Entry(
            kind=kind,
            tag=self.tag(desk),
            message=message,
            request_id=self.request_id,
            ref=ref,
            signed=signed,
            verified=self.verified,
        )
        return desk.draft(entry, self.request_key, self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(_PersonWrite):
    """A new lineage; one that lacks legal items becomes a REFUSAL, which is an answer."""

    message: st.GrantStatement

    def prepare(self, desk: Desk) -> Plan:
        statement.check_no_unknown_fields(self.message)
        refusal = check_consent(desk, self.message.consent, self.tag(desk))
        if refusal is not None:
            refusal.grant.CopyFrom(self.message)
            return Plan((self.entry(desk, EntryKind.REFUSAL, refusal),), GrantAnswer(0, 0, refusal))
        count, _ = desk.turn.head(self.tag(desk))
        return Plan((self.entry(desk, EntryKind.GRANT, self.message),), GrantAnswer(count + 1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend(_PersonWrite):
    """The next version of a lineage."""

    consent_id: bytes
    based_on_version: int
    message: st.AmendStatement

    def prepare(self, desk: Desk) -> Plan:
        tag = self.tag(desk)
        standing = desk.table.standing(tag, self.consent_id)
        if standing.version != self.based_on_version:
            raise ConflictError(f"another version is in force: `{standing.version}`", "VERSION_CONFLICT")
        message = st.AmendStatement()
        message.CopyFrom(self.message)
        message.lineage_seq, message.version = standing.lineage, standing.version + 1
        if self.signed is not None and message != self.message:
            raise ConflictError("signed lineage or version is not what this write makes", "REF_MOVED")
        statement.check_no_unknown_fields(message)
        refusal = check_consent(desk, message.consent, tag)
        if refusal is not None:
            refusal.grant.consent.CopyFrom(message.consent)
            refusal.grant.attestation.CopyFrom(message.attestation)
            return Plan((self.entry(desk, EntryKind.REFUSAL, refusal),), GrantAnswer(0, 0, refusal))
        entry = self.entry(desk, EntryKind.AMEND, message, standing.seq)
        return Plan((entry,), GrantAnswer(standing.lineage, message.version))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(_PersonWrite):
    """PAUSE, RESUME or REVOKE of a lineage; ref is the version in force."""

    kind: EntryKind
    consent_id: bytes
    message: st.PauseStatement | st.ResumeStatement | st.RevokeStatement

    def prepare(self, desk: Desk) -> Plan:
        standing = desk.table.standing(self.tag(desk), self.consent_id)
        if self.kind is EntryKind.PAUSE and standing.paused:
            raise ConflictError("consent is paused already", "WRONG_STATE")
        if self.kind is EntryKind.RESUME and not standing.paused:
            raise ConflictError("consent is not paused", "WRONG_STATE")
        message = type(self.message)()
        message.CopyFrom(self.message)  # type: ignore[arg-type]  # both are of the one type in this instance
        message.lineage_seq = standing.lineage
        if self.signed is not None and message != self.message:
            raise ConflictError("signed lineage is not what this write changes", "REF_MOVED")
        return Plan((self.entry(desk, self.kind, message, standing.seq),), standing)


def check_consent(desk: Desk, message: pb.Consent, tag: bytes) -> st.RefusalStatement | None:
    """Check a consent against vocabulary, participants and notices; a refusal where legal items are missing.

    Raises:
        InvalidError: it is not well formed, or names what does not exist.
    """
    consent = statement.consent_value(message)
    if consent.authority and not desk.table.has_authority(tag, consent.authority):
        raise InvalidError("consent rests on an authority that is not recorded", "UNKNOWN_AUTHORITY")
    if consent.notice and not desk.table.has_notice(consent.notice, consent.notice_version):
        raise InvalidError(f"notice version is not published: `{consent.notice}`", "UNKNOWN_NOTICE")
    registry = desk.table.registry()
    refused = check.check_consent(consent, registry.codebook.vocabulary)
    if refused is not None:
        return st.RefusalStatement(reason=statement.to_enum(refused), missing=check.missing_items(consent))
    # Compiling is how participants that nobody registered are found; the table compiles the same again.
    standing = model.Standing(lineage=1, seq=1, version=1, consent=consent)
    compile_consent(standing, registry.codebook.vocabulary, registry.numbers)
    return None


# -- accesses -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authorized:
    """How an access came out: the recorded decision, and the entry's seq; 0 where nothing is recorded."""

    decision: pb.Decision
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorize(_Base):
    """Decide a question at its place in the ledger, and record the answer.

    Attributes:
        question: its value; ``asked`` carries the bytes and who asked.
        tag: the tag a signed question was signed for; empty: not signed.
    """

    identifier_hash: bytes
    question: model.Question
    asked: st.AskedQuestion
    tag: bytes = b""
    verified: bytes = b""

    def prepare(self, desk: Desk) -> Plan:
        tag = desk.table.tag_of(self.identifier_hash)
        if self.asked.signature:
            self._check_signature(desk, tag)
        decision = self._decide(desk, tag)
        if tag is None:
            return Plan(answer=Authorized(decision, 0))
        record = st.AccessStatement(asked=self.asked, decision=decision)
        kind: EntryKind
        message: Message
        if decision.outcome in (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL):
            kind, message = EntryKind.ACCESS, record
        else:
            kind, message = EntryKind.REFUSAL, st.RefusalStatement(access=record)
        entry = Entry(kind=kind, tag=tag, message=message, request_id=self.request_id, ref=decision.ref)
        seq = desk.turn.head(tag)[0] + 1
        return Plan((desk.draft(entry, self.request_key, self.content),), Authorized(decision, seq))

    def replay(self, desk: Desk) -> Answer:
        """A repeat gets a decision taken now, which governs; the receipt is the recorded entry's."""
        return Authorized(self._decide(desk, desk.table.tag_of(self.identifier_hash)), 0)

    def _decide(self, desk: Desk, tag: bytes | None) -> pb.Decision:
        codebook, now_ms = desk.table.codebook(), desk.turn.time_ms
        rules, packed = desk.table.rules(), pack_question(self.question, codebook)
        if self.question.break_glass is not None and not self._may_break_glass(desk):
            decision = _no_break_glass(packed, codebook, rules)
        else:
            value = None if tag is None else desk.table.subject(tag)
            decision = evaluate.decision(evaluate.evaluate(value, packed, rules, now_ms), packed, codebook, rules)
        message = statement.decision_message(decision, tag or b"")
        message.revision.tree_size = desk.turn.index
        message.decided_time_ms = now_ms
        message.decision_id = desk.author.random(16)
        return message

    def _may_break_glass(self, desk: Desk) -> bool:
        actor = desk.table.participant(self.question.actor.organisation)
        return actor is not None and actor.active and st.PARTICIPANT_RIGHT_BREAK_GLASS in actor.rights

    def _check_signature(self, desk: Desk, tag: bytes | None) -> None:
        if tag != self.tag:
            raise ConflictError("signed tag is not the subject's", "REF_MOVED")
        owner = desk.table.key_owner(self.asked.key)
        if owner is None or owner.name != self.asked.asker:
            raise InvalidError("asker's key is not in force for this caller", "BAD_SIGNATURE")
        desk.check_signature(
            kind=codec.QUESTION_KIND,
            tag=self.tag,
            ref=0,
            request_id=self.request_id,
            author_time_ms=self.asked.author_time_ms,
            payload=self.asked.question,
            key=self.asked.key,
            signature=self.asked.signature,
            owners=frozenset({Owner.PARTICIPANT}),
            verified=self.verified,
        )


def _no_break_glass(packed: PackedQuestion, codebook: Codebook, rules: CompiledRules) -> model.Decision:
    """Refuse an actor that was never enrolled to break the glass, whatever consents say."""
    return model.Decision(
        outcome=model.Outcome.DENY,
        denied=codebook.codes(packed.categories),
        unknown=packed.unknown,
        reasons=(model.Reason(model.ReasonCode.DENIED_BY_BREAK_GLASS, model.Effect.DENY),),
        vocabulary_version=codebook.vocabulary.version,
        combining=rules.combining,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(_Base):
    """What a permitted transfer did; ref is its ACCESS."""

    identifier_hash: bytes
    access_seq: int
    message: st.OutcomeStatement
    signed: pb.SignedStatement | None = None
    verified: bytes = b""

    def prepare(self, desk: Desk) -> Plan:
        tag = desk.table.tag_of(self.identifier_hash)
        if tag is None or desk.turn.kind_of(tag, self.access_seq) != EntryKind.ACCESS:
            raise NotFoundError("no such permitted access of this subject")
        if self.signed is not None:
            owner = desk.table.key_owner(self.signed.key)
            if owner is None or owner.name != self.asker:
                raise InvalidError("author's key is not in force for this caller", "BAD_SIGNATURE")
        entry = Entry(
            kind=EntryKind.OUTCOME,
            tag=tag,
            message=self.message,
            request_id=self.request_id,
            ref=self.access_seq,
            signed=self.signed,
            verified=self.verified,
        )
        return Plan((desk.draft(entry, self.request_key, self.content),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Writes that are recorded all or none; one of them refused refuses all.

    Its answer is the list of recorded indexes of repeats, None for those it appended.
    """

    writes: tuple[Outcome, ...]
    request_key: bytes = b""
    content: bytes = b""

    def prepare(self, desk: Desk) -> Plan:
        entries: list[tuple[Draft, Message]] = []
        recorded: list[int | None] = []
        if len({write.request_key for write in self.writes}) != len(self.writes):
            raise InvalidError("request_id stands twice in one batch", "INVALID_REQUEST_ID")
        for write in self.writes:
            found = desk.turn.recorded(write.request_key)
            if found is None:
                entries.extend(write.prepare(desk).entries)
                recorded.append(None)
            elif found[1] != write.content:
                raise ConflictError("request_id was used for other content", "REQUEST_ID_REUSED")
            else:
                recorded.append(found[0])
        return Plan(tuple(entries), recorded)

    def replay(self, desk: Desk) -> Answer:
        raise AssertionError("only its parts are remembered")
