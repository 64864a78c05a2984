"""What only a bad log can make: histories in which all that signs and commits fits, and one rule is broken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cases import ed25519_points
from cases.ledgers import DAEMON, LOG, ORIGIN, START_MS, flip
from cases.vectors_case import BANK, CITIZEN, STRANGER, TRUST, Vector, b64, history_vector, to_document
from consentd.core import bucketed, checkpoint, codec, ed25519, merkle, note, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof
from consentd.core.kinds import AUTHORS, PUBLIC, EntryKind, Owner
from consentd.v1 import statement_pb2 as st


@dataclass(slots=True)
class Forge:
    """A small ledger made by hand and signed by the log, in which nothing need be right.

    Attributes:
        chains: entries by tag, in the order in which they are proven.
        heads: what the map says where that is not what the chain says.
        seal: changes the seal before it is hashed; ``point`` the checkpoint before it is signed.
        grown: leaves of the tree that this one begins with, seals too; ``leaves``: of the last tree that was proven.
    """

    chains: dict[bytes, list[HistoryEntry]] = field(default_factory=dict)
    names: dict[bytes, str] = field(default_factory=dict)
    heads: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    time_ms: int = START_MS
    seal: Callable[[codec.Seal], codec.Seal] = lambda seal: seal
    seal_time_ms: int | None = None
    after: list[bytes] = field(default_factory=list)
    seal_leaf: Callable[[bytes], bytes] = lambda leaf: leaf
    grown: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)

    def add(
        self,
        tag: bytes | str,
        kind: int,
        author: ed25519.KeyPair,
        payload: bytes = b"",
        *,
        origin: str = ORIGIN,
        skew_ms: int = 0,
        salt: bytes = b"s" * 32,
        event: Callable[[codec.Event], codec.Event] = lambda event: event,
        leaf: Callable[[bytes], bytes] = lambda leaf: leaf,
        made: Callable[[bytes], bytes] = lambda made: made,
        signature: Callable[[bytes], bytes] = lambda signature: signature,
        key: bytes | None = None,
        signed_kind: int | None = None,
        tombstone: bool = False,
        ref: int = 0,
        request_id: bytes | None = None,
    ) -> "Forge":
        """Add an entry that is right but for what is changed. The request_id is another for each entry of a chain."""
        name, tag = (tag, codec.public_tag(tag)) if isinstance(tag, str) else ("", tag)
        self.names[tag] = name
        chain = self.chains.setdefault(tag, [])
        request_id = len(chain).to_bytes(16) if request_id is None else request_id
        author_time_ms = self.time_ms + skew_ms
        message = codec.signed_message(
            origin=origin, kind=kind if signed_kind is None else signed_kind, tag=tag, ref=ref, request_id=request_id,
            author_time_ms=author_time_ms, payload=payload,
        )  # fmt: skip
        public_key = author.public_key if key is None else key
        reported = codec.Statement(public_key, signature(author.sign(message)), request_id, author_time_ms, payload)
        stated = made(codec.encode_statement(reported))
        prev = codec.chain_hash(chain[-1].leaf) if chain else codec.ZERO_HASH
        whole = codec.Event(kind, self.time_ms, tag, len(chain) + 1, prev, codec.commit(salt, stated), ref)
        encoded = leaf(codec.encode_event(event(whole)))
        chain.append(HistoryEntry(encoded, None if tombstone else (salt, stated)))
        return self

    def later(self, ms: int = 1000) -> "Forge":
        self.time_ms += ms
        return self

    def proof(self, asked: bytes) -> HistoryProof:
        """Seal and sign; return the proof of all chains, *asked* first."""
        leaves = self.grown[:]
        leaves += [entry.leaf for chain in self.chains.values() for entry in chain if entry.leaf not in self.grown]
        standing = {
            tag: self.heads.get(tag, (len(chain), codec.chain_hash(chain[-1].leaf)))
            for tag, chain in self.chains.items()
        }
        top, buckets = bucketed.Top(1), [b"", b""]
        for tag, (count, head) in standing.items():
            key = codec.map_key(tag)
            number = bucketed.bucket_of(key, 1)
            buckets[number] = bucketed.bucket_update(buckets[number], {key: codec.map_value(tag, count, head)})
            root = bucketed.bucket_root(buckets[number], 1)
            assert root is not None
            top.update({number: root})
        time_ms = self.time_ms if self.seal_time_ms is None else self.seal_time_ms
        seal = codec.Seal(time_ms, len(leaves), top.root(), len(standing), bytes(32))
        seal_leaf = self.seal_leaf(codec.encode_seal(self.seal(seal)))
        leaves += [seal_leaf, *self.after]
        edge, stored = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in leaves])
        size = len(leaves)
        location = leaves.index(seal_leaf)
        self.leaves = leaves

        def chain_of(tag: bytes) -> ChainProof:
            number = top.plan_neighbour(bucketed.bucket_of(codec.map_key(tag), 1))
            assert number is not None
            present, proof = bucketed.prove(codec.map_key(tag), buckets[number], top)
            count, head = standing.get(tag, (0, b""))
            assert present == (tag in standing)
            return ChainProof(
                tag=tag, public_name=self.names.get(tag, ""), count=count, head=head, map_proof=proof, first_seq=1,
                entries=tuple(self.chains.get(tag, ())),
            )  # fmt: skip

        return HistoryProof(
            checkpoint=checkpoint.sign_checkpoint(Checkpoint(ORIGIN, size, edge.root()), [LOG]),
            consistency=tuple(tiles.prove_consistency(len(self.grown), size, stored)) if self.grown else (),
            seal=seal_leaf,
            seal_inclusion=tuple(tiles.prove_inclusion(location, size, stored)),
            chains=tuple(chain_of(tag) for tag in dict.fromkeys([asked, *self.chains])),
        )


ME = b"\x55" * 32
OTHER = b"\x66" * 32


def ledger_payload(key: bytes = DAEMON.public_key, origin: str = ORIGIN, log_key: str = TRUST["log_key"]) -> bytes:
    return st.LedgerStatement(origin=origin, verifier_keys=[log_key], statement_key=key).SerializeToString()


def key_payload(key: bytes, retired: bool = False) -> bytes:
    return st.KeyStatement(key=key, retired=retired).SerializeToString(deterministic=True)


def base(ledger: bytes | None = None, **more: Any) -> Forge:
    """Return a ledger with the bank's key, and a person who has one too."""
    forge = Forge(**more).add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload() if ledger is None else ledger)
    forge.add("participant/bank", EntryKind.PARTICIPANT, DAEMON)
    forge.later().add("participant/bank", EntryKind.KEY, DAEMON, key_payload(BANK.public_key))
    forge.later().add(ME, EntryKind.ENROL, DAEMON).add(ME, EntryKind.KEY, DAEMON, key_payload(CITIZEN.public_key))
    return forge.later()


def forgeries() -> Iterator[Vector]:
    """Yield histories that are right but for one rule, with all that signs and commits made to fit."""

    def vector(name: str, want: str, forge: Forge, **under: Any) -> Vector:
        return history_vector(f"forged: {name}", want, to_document(forge.proof(ME)), tag=b64(ME), **under)

    def grant(**changes: Any) -> Forge:
        return base().add(ME, EntryKind.GRANT, CITIZEN, **changes)

    yield vector("nothing", "ok", grant())
    yield from forged_leaves(vector, grant)
    yield from forged_authors(vector, grant)
    yield from forged_ledgers(vector)
    strict = forged_signatures(vector)
    yield from strict


def forged_leaves(vector: Callable[..., Vector], grant: Callable[..., Forge]) -> Iterator[Vector]:
    for name, want, change in (
        ("seq with a gap", "proof", lambda e: replace(e, seq=e.seq + 1)),
        ("seq again", "proof", lambda e: replace(e, seq=e.seq - 1)),
        ("prev of another", "proof", lambda e: replace(e, prev=flip(0)(e.prev))),
        ("tag of another", "proof", lambda e: replace(e, tag=OTHER)),
        ("time running back", "proof", lambda e: replace(e, time_ms=e.time_ms - 1001)),
        ("time after the seal", "proof", lambda e: replace(e, time_ms=e.time_ms + 1)),
        ("another commitment", "proof", lambda e: replace(e, commit=flip(0)(e.commit))),
        ("ref to itself", "malformed", lambda e: replace(e, ref=e.seq)),
        ("ref that is not the signed one", "signature", lambda e: replace(e, ref=1)),
        ("kind 255", "malformed", lambda e: replace(e, kind=255)),
        ("kind that is not the signed one", "signature", lambda e: replace(e, kind=int(EntryKind.AMEND))),
        ("seq 0", "malformed", lambda e: replace(e, seq=0)),
        ("seq 1 with a prev", "malformed", lambda e: replace(e, seq=1)),
        ("no prev", "malformed", lambda e: replace(e, prev=bytes(32))),
        ("the largest seq", "proof", lambda e: replace(e, seq=2**64 - 1)),
    ):  # fmt: skip
        yield vector(name, want, grant(event=change))
    for name, change in (
        ("version 0", lambda leaf: b"\0" + leaf[1:]), ("version 2", lambda leaf: b"\2" + leaf[1:]),
        ("a byte more", lambda leaf: leaf + b"\0"), ("a byte less", lambda leaf: leaf[:-1]),
        ("kind 0", lambda leaf: leaf[:1] + b"\0" + leaf[2:]), ("no bytes", lambda leaf: b""),
        ("one byte", lambda leaf: leaf[:1]),
    ):  # fmt: skip
        yield vector(f"leaf: {name}", "malformed", grant(leaf=change))
    seal = codec.encode_seal(codec.Seal(START_MS, 5, bytes(32), 1, bytes(32)))
    yield vector("leaf: a seal", "proof", grant(leaf=lambda leaf: seal))
    for name, want, change in (
        ("algorithm 0", "malformed", lambda made: b"\0" + made[1:]),
        ("algorithm 2", "malformed", lambda made: b"\2" + made[1:]),
        ("too short", "malformed", lambda made: made[:120]),
        ("no bytes", "malformed", lambda made: b""),
        ("a payload too long", "malformed", lambda made: made + bytes(codec.MAX_PAYLOAD + 1)),
        ("a payload that is not the signed one", "signature", lambda made: made + b"\0"),
        ("another request", "signature", lambda made: made[:100] + b"\1" + made[101:]),
    ):  # fmt: skip
        yield vector(f"statement: {name}", want, grant(made=change))
    longest = base().add(ME, EntryKind.GRANT, CITIZEN, bytes(codec.MAX_PAYLOAD))
    yield vector("statement: the longest payload", "ok", longest)
    for size in (0, 31, 33, 64):
        yield vector(f"salt of {size} bytes", "malformed", grant(salt=bytes(size)))
    yield vector("a tombstone", "proof", grant(tombstone=True))
    erased = grant(tombstone=True)
    yield vector("a tombstone and an ERASURE", "ok", erased.add(ME, EntryKind.ERASURE, BANK))
    yield vector("an ERASURE alone", "ok", base().add(ME, EntryKind.ERASURE, DAEMON))
    yield vector("an ERASURE that is a tombstone", "proof", grant().add(ME, EntryKind.ERASURE, BANK, tombstone=True))
    after = grant(tombstone=True).add(ME, EntryKind.ERASURE, BANK).add(ME, EntryKind.SERVED, BANK)
    yield vector("an entry after the ERASURE", "proof", after)
    twice = grant().add(ME, EntryKind.ERASURE, BANK).add(ME, EntryKind.ERASURE, BANK)
    yield vector("two ERASUREs", "proof", twice)
    for kind in (40, 100, 200, 254):
        for author in (DAEMON, BANK, CITIZEN):
            yield vector(f"kind {kind}", "ok", base().add(ME, kind, author))
        yield vector(f"kind {kind} by a stranger", "signature", base().add(ME, kind, STRANGER))


def forged_authors(vector: Callable[..., Vector], grant: Callable[..., Forge]) -> Iterator[Vector]:
    owners = {Owner.LEDGER: DAEMON, Owner.PARTICIPANT: BANK, Owner.SUBJECT: CITIZEN}
    for kind, allowed in AUTHORS.items():
        payload = ledger_payload() if kind is EntryKind.LEDGER else b""
        tag = "participant/bank" if kind in PUBLIC else ME
        for owner, pair in owners.items():
            # A participant's key signs no KEY of a person, and a MANDATE or NOTICE only if it names this participant.
            not_theirs = owner is Owner.PARTICIPANT and kind in (EntryKind.KEY, EntryKind.MANDATE, EntryKind.NOTICE)
            want = "ok" if owner in allowed and not not_theirs else "signature"
            yield vector(f"{kind.name} by {owner.name}", want, base().add(tag, kind, pair, payload))
        yield vector(f"{kind.name} by a stranger", "signature", base().add(tag, kind, STRANGER, payload))
    for giver, want in (("bank", "ok"), ("shop", "signature"), ("ban", "signature"), ("", "signature")):
        given = base().add(f"participant/{giver}", EntryKind.DELEGATION, BANK)
        yield vector(f"DELEGATION by bank in the chain of participant `{giver}`", want, given)
        by_daemon = base().add(f"participant/{giver}", EntryKind.DELEGATION, DAEMON)
        yield vector(f"DELEGATION by the daemon in the chain of participant `{giver}`", "ok", by_daemon)
    for skew in (600_000, -600_000):
        yield vector(f"a clock {skew} ms apart", "ok", grant(skew_ms=skew))
        yield vector(f"a clock {skew} ms and one more apart", "signature", grant(skew_ms=skew + skew // 600_000))
    yield vector("signed for another ledger", "signature", grant(origin="ledger.example/other"))
    yield vector("signed as a question", "signature", grant(signed_kind=codec.QUESTION_KIND))
    yield vector("signed by another than it says", "signature", grant(key=DAEMON.public_key))
    for at in (0, 31, 32, 63):
        yield vector(f"signature with byte {at} changed", "signature", grant(signature=flip(at)))

    def served() -> Forge:
        return base().add(ME, EntryKind.SERVED, BANK)

    retired = key_payload(BANK.public_key, retired=True)
    yield vector("a key retired later", "ok", served().later().add("participant/bank", EntryKind.KEY, DAEMON, retired))
    same_time = base().add("participant/bank", EntryKind.KEY, DAEMON, retired)
    yield vector("a key retired in that millisecond", "ok", same_time.add(ME, EntryKind.SERVED, BANK))
    gone = base().add("participant/bank", EntryKind.KEY, DAEMON, retired).later(1)
    yield vector("a retired key", "signature", gone.add(ME, EntryKind.SERVED, BANK))
    again = base().add("participant/bank", EntryKind.KEY, DAEMON, retired).later()
    again.add("participant/bank", EntryKind.KEY, DAEMON, key_payload(BANK.public_key)).later()
    yield vector("a key in force again", "ok", again.add(ME, EntryKind.SERVED, BANK))
    twice = base().add("participant/bank", EntryKind.KEY, DAEMON, key_payload(BANK.public_key)).later()
    twice.add("participant/bank", EntryKind.KEY, DAEMON, retired).later()
    yield vector("a key put in force twice and retired once", "signature", twice.add(ME, EntryKind.SERVED, BANK))
    between = base().add("participant/bank", EntryKind.KEY, DAEMON, retired).later(5)
    between.add(ME, EntryKind.SERVED, BANK).later(5)
    between.add("participant/bank", EntryKind.KEY, DAEMON, key_payload(BANK.public_key))
    yield vector("a key between two terms", "signature", between)
    elsewhere = base().add("participant/shop", EntryKind.KEY, DAEMON, retired).later()
    yield vector("a key retired in another's chain", "ok", elsewhere.add(ME, EntryKind.SERVED, BANK))
    mine = base().add(ME, EntryKind.KEY, DAEMON, retired).later()
    yield vector("a key retired in the person's chain", "ok", mine.add(ME, EntryKind.SERVED, BANK))
    daemon = base().add(ME, EntryKind.KEY, DAEMON, key_payload(DAEMON.public_key, retired=True)).later()
    yield vector("the daemon's key retired in the person's chain", "ok", daemon.add(ME, EntryKind.ACCESS, DAEMON))
    own = base().add(ME, EntryKind.KEY, CITIZEN, key_payload(CITIZEN.public_key, retired=True)).later(1)
    yield vector("the person's key retired by itself", "signature", own.add(ME, EntryKind.GRANT, CITIZEN))
    early = Forge().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload()).add(ME, EntryKind.SERVED, BANK).later(1)
    early.add("participant/bank", EntryKind.KEY, DAEMON, key_payload(BANK.public_key))
    yield vector("a key before its entry", "signature", early)
    foreign = base().add("participant/shop", EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key))
    yield vector("another participant's key", "ok", foreign.add(ME, EntryKind.SERVED, STRANGER))
    yield from self_made(vector)
    both = base().add(ME, EntryKind.KEY, DAEMON, key_payload(BANK.public_key)).add(ME, EntryKind.GRANT, BANK)
    yield vector("one key of two owners", "ok", both)
    for name, want, payload in (
        ("with a field not known", "unknown_key", key_payload(STRANGER.public_key) + b"\x28\x01"),
        ("cut", "unknown_key", key_payload(STRANGER.public_key)[:-1]),
        ("of 31 bytes", "signature", key_payload(STRANGER.public_key[:-1])),
        ("of 33 bytes", "signature", key_payload(STRANGER.public_key + b"\0")),
        ("that is empty", "signature", b""),
    ):
        unread = base().add(ME, EntryKind.KEY, DAEMON, payload)
        yield vector(f"a KEY {name}", "ok", unread)
        unread = base().add(ME, EntryKind.KEY, DAEMON, payload)
        yield vector(f"signed by a KEY {name}", want, unread.add(ME, EntryKind.GRANT, STRANGER))
    login = st.Authentication(issuer="https://login.example", acr="loa2", amr=["pwd", "otp"], auth_time_ms=START_MS)
    attested = st.KeyStatement(
        key=STRANGER.public_key, attestation=st.Attestation(attested_by="app", method="login", authentication=login)
    )
    logged_in = base().add(ME, EntryKind.KEY, DAEMON, attested.SerializeToString()).later()
    yield vector("a KEY that is attested under a login", "ok", logged_in.add(ME, EntryKind.GRANT, STRANGER))
    payload = key_payload(STRANGER.public_key) + key_payload(BANK.public_key)
    for name, want, author in (("first", "signature", STRANGER), ("last", "ok", BANK)):
        twice = base().add(ME, EntryKind.KEY, DAEMON, payload).add(ME, EntryKind.GRANT, author)
        yield vector(f"a KEY that says two keys, the {name}", want, twice)


def self_made(vector: Callable[..., Vector]) -> Iterator[Vector]:
    """Yield keys that rest on themselves, or on each other, and those of one millisecond that do not."""
    stranger, citizen = key_payload(STRANGER.public_key), key_payload(CITIZEN.public_key)
    for tag in ("participant/shop", ME):
        whose = tag if isinstance(tag, str) else "the person"
        alone = base().add(tag, EntryKind.KEY, STRANGER, stranger)
        yield vector(f"a key that vouches for itself, of {whose}", "signature", alone)
        signs = base().add(tag, EntryKind.KEY, STRANGER, stranger).later()
        yield vector(f"signed by such a key, of {whose}", "signature", signs.add(ME, EntryKind.SERVED, STRANGER))
    ledger = base().add("ledger", EntryKind.LEDGER, STRANGER, ledger_payload(STRANGER.public_key))
    yield vector("a statement key that vouches for itself", "signature", ledger)
    instead = base().add("ledger", EntryKind.KEY, STRANGER, stranger)
    yield vector("a key that vouches for itself, of the ledger", "signature", instead)
    each = base().add("participant/shop", EntryKind.KEY, ed25519.KeyPair(b"\x31" * 32), stranger)
    each.add("participant/mall", EntryKind.KEY, STRANGER, key_payload(ed25519.KeyPair(b"\x31" * 32).public_key))
    yield vector("two keys that vouch for each other", "signature", each)
    chain = base().add("participant/bank", EntryKind.KEY, BANK, stranger)
    yield vector("a key by another of its owner", "ok", chain.later().add(ME, EntryKind.SERVED, STRANGER))
    one, two = (ed25519.KeyPair(bytes([number]) * 32) for number in (0x32, 0x33))
    for name, order in (("in order", "abc"), ("out of order", "bca")):
        forge = base()
        steps = {
            "a": ("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(STRANGER.public_key)),
            "b": ("participant/b", EntryKind.KEY, STRANGER, key_payload(one.public_key)),
            "c": ("participant/b", EntryKind.KEY, one, key_payload(two.public_key)),
        }
        for step in order:
            forge.add(*steps[step])
        forge.later().add(ME, EntryKind.SERVED, two)
        yield vector(f"three keys of one millisecond, {name}", "ok", forge)
    retiring = base().add("participant/bank", EntryKind.KEY, BANK, key_payload(BANK.public_key, retired=True))
    yield vector("a key that retires itself", "ok", retiring)
    late = base().add("participant/shop", EntryKind.KEY, STRANGER, citizen).later(1)
    late.add("participant/mall", EntryKind.KEY, DAEMON, stranger)
    yield vector("a key by one that comes later", "signature", late)


def forged_ledgers(vector: Callable[..., Vector]) -> Iterator[Vector]:
    other = note.format_vkey(note.Signer(ORIGIN, STRANGER).verifier)
    for name, want, payload in (
        ("names another origin", "proof", ledger_payload(origin="ledger.example/other")),
        ("names another log key", "proof", ledger_payload(log_key=other)),
        ("names a key that is none", "proof", ledger_payload(log_key="x")),
        ("names another statement key", "signature", ledger_payload(STRANGER.public_key)),
        ("has a field not known", "unknown_key", ledger_payload() + b"\x78\x01"),
        ("is no message", "unknown_key", b"\xff"),
        ("is empty", "signature", b""),
    ):
        yield vector(f"leaf 0 {name}", want, base(payload))
    rotated = base().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(STRANGER.public_key)).later()
    yield vector("a statement key that came later", "ok", rotated.add(ME, EntryKind.ACCESS, STRANGER))
    early = base().add(ME, EntryKind.ACCESS, STRANGER).later(1)
    early.add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(STRANGER.public_key))
    yield vector("a statement key that comes later still", "signature", early)
    moved = base().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(origin="ledger.example/moved"))
    yield vector("a later origin", "proof", moved)
    for name, payload in (
        ("is empty", b""), ("states a key alone", st.LedgerStatement(statement_key=BANK.public_key).SerializeToString())
    ):
        nameless = base().add("ledger", EntryKind.LEDGER, DAEMON, payload)
        yield vector(f"a later LEDGER entry {name}, without an origin", "proof", nameless)
    for length, want in ((128, "ok"), (129, "malformed")):
        named = base().add("participant/".ljust(length, "n"), EntryKind.PARTICIPANT, DAEMON)
        yield vector(f"a public name of {length} characters", want, named)
    retired = base().add("ledger", EntryKind.KEY, DAEMON, key_payload(DAEMON.public_key, retired=True)).later(1)
    yield vector("a statement key retired", "signature", retired.add(ME, EntryKind.ACCESS, DAEMON))
    named = base().add("ledger", EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key)).later()
    yield vector("a KEY that puts a key of the daemon in force", "ok", named)
    named = base().add("ledger", EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key)).later()
    yield vector("a statement key that a KEY named", "signature", named.add(ME, EntryKind.ACCESS, STRANGER))
    both = base().add("ledger", EntryKind.LEDGER, DAEMON, ledger_payload(STRANGER.public_key))
    both.add("ledger", EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key, retired=True)).later()
    yield vector("a second statement key retired", "signature", both.add(ME, EntryKind.ACCESS, STRANGER))
    pretender = base().add("participant/bank", EntryKind.LEDGER, DAEMON, ledger_payload(STRANGER.public_key))
    yield vector("a person's key in a LEDGER entry", "signature", pretender.add(ME, EntryKind.GRANT, STRANGER))
    moved_payload = ledger_payload(origin="ledger.example/other")
    elsewhere = base().add("participant/bank", EntryKind.LEDGER, DAEMON, moved_payload)
    yield vector("another origin named elsewhere", "ok", elsewhere)
    pretender = base().add("participant/bank", EntryKind.LEDGER, DAEMON, ledger_payload(STRANGER.public_key))
    yield vector("a LEDGER entry elsewhere", "signature", pretender.add(ME, EntryKind.ACCESS, STRANGER))


def forged_signatures(vector: Callable[..., Vector]) -> Iterator[Vector]:
    """Yield statements whose signatures laxer verifiers let pass."""

    def longer(signature: bytes) -> bytes:
        s = int.from_bytes(signature[32:], "little") + ed25519_points.L
        return signature[:32] + s.to_bytes(32, "little")

    yield vector("S + L", "signature", base().add(ME, EntryKind.GRANT, CITIZEN, signature=longer))
    for name, key in (
        ("the neutral key", (1).to_bytes(32, "little")),
        ("a key of order 8", ed25519_points.encoded(ed25519_points.TORSION)),
        ("a key that is not canonical", (ed25519_points.P + 1).to_bytes(32, "little")),
        ("a key that is no point", (2).to_bytes(32, "little")),
    ):
        for put, signature in (("zeros", bytes(64)), ("the neutral R", (1).to_bytes(64, "little"))):
            forge = base().add(ME, EntryKind.KEY, DAEMON, key_payload(key))
            forge.add(ME, EntryKind.GRANT, CITIZEN, key=key, signature=lambda _, signature=signature: signature)
            yield vector(f"{name}, {put}", "signature", forge)
