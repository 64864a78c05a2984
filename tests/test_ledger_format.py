"""The worked example of proto/ledger-format.md: every byte it shows is computed again, and none goes unchecked.

The example's inputs are its payloads, which the text has, and what ``World`` fixes: seeds, salts, times. All else
follows by the core alone, so the author of a verifier in another language can do the same. The tables of the
text (kinds, offsets, prefixes) are held to the code too.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from struct import Struct, calcsize

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consentd import clock
from consentd.core import bucketed, checkpoint, codec, ed25519, history, merkle, note, patricia, tiles
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS, KeyChange, KeyValidity, valid_keys, verify_authors
from consentd.core.kinds import AUTHORS, EntryKind, Owner
from consentd.core.replay import Replay
from consentd.errors import MalformedError, ProofError, SignatureError
from consentd.ledger import layout
from consentd.ledger.kek import SoftwareKek
from consentd.ledger.vault import Vault
from consentd.statements import payloads, values
from consentd.store.memory import MemoryStore
from consentd.v1 import statement_pb2 as st

SPEC = Path(__file__).parents[1] / "proto" / "ledger-format.md"

ORIGIN = "consent.example.org/spec"
LOG = note.Signer(ORIGIN, ed25519.KeyPair(b"\x01" * 32))
DAEMON, CLINIC, PERSON = (ed25519.KeyPair(bytes([number]) * 32) for number in (2, 3, 4))
PERSON_TAG = b"\xaa" * 32
STRANGER_TAG = b"\xdd" * 32
DATA_KEY = b"\xbb" * 32
NONCE = b"\xcc" * 12
START_MS = 1_760_000_000_000

LEDGER_TAG = codec.public_tag("ledger")
CLINIC_TAG = codec.public_tag("participant/clinic-b")

# index: (kind, tag, ref, author, ms after the start, lag of the author's clock in ms)
ENTRIES: dict[int, tuple[EntryKind, bytes, int, ed25519.KeyPair, int, int]] = {
    0: (EntryKind.LEDGER, LEDGER_TAG, 0, DAEMON, 0, 0),
    1: (EntryKind.VOCABULARY, codec.public_tag("vocabulary/example"), 0, DAEMON, 0, 0),
    2: (EntryKind.RULES, codec.public_tag("rules/realm"), 0, DAEMON, 0, 0),
    4: (EntryKind.PARTICIPANT, CLINIC_TAG, 0, DAEMON, 5_000, 0),
    5: (EntryKind.KEY, CLINIC_TAG, 0, DAEMON, 6_000, 0),
    6: (EntryKind.ENROL, PERSON_TAG, 0, DAEMON, 7_000, 0),
    7: (EntryKind.KEY, PERSON_TAG, 0, DAEMON, 7_000, 0),
    8: (EntryKind.GRANT, PERSON_TAG, 0, PERSON, 8_000, 350),
    9: (EntryKind.ACCESS, PERSON_TAG, 3, DAEMON, 9_000, 0),
}
SEALS = {3: 200, 10: 9_200}
SIZE = 11


def salt(index: int) -> bytes:
    return bytes([0x40 + index]) * 32


def request_id(index: int) -> bytes:
    if index == 7:  # the second entry of one request
        return hashlib.sha256(request_id(6) + b"\x01").digest()[:16]
    return bytes([0x60 + index]) * 16


class World:
    """The example's ledger, built from its payloads."""

    def __init__(self, payloads: dict[int, bytes]) -> None:
        self.payloads = payloads
        self.leaves: list[bytes] = []
        self.statements: dict[int, bytes] = {}
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.map = bucketed.Top(1)
        self.buckets = [b"", b""]
        prev_seal = codec.ZERO_HASH
        for index in range(SIZE):
            if index in SEALS:
                self._fill_map()
                time_ms = START_MS + SEALS[index]
                seal = codec.Seal(time_ms, index, self.map.root(), len(self.heads), prev_seal)
                self.leaves.append(codec.encode_seal(seal))
                prev_seal = codec.chain_hash(self.leaves[-1])
            else:
                self.leaves.append(self._event(index))
        edge, self.tiles = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves])
        self.root = edge.root()
        self.note = checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, SIZE, self.root), [LOG])

    def _event(self, index: int) -> bytes:
        kind, tag, ref, author, after_ms, behind_ms = ENTRIES[index]
        time_ms, payload = START_MS + after_ms, self.payloads[index]
        signature = author.sign(self.message(index))
        made = codec.Statement(author.public_key, signature, request_id(index), time_ms - behind_ms, payload)
        self.statements[index] = codec.encode_statement(made)
        count, head = self.heads.get(tag, (0, codec.ZERO_HASH))
        commit = codec.commit(salt(index), self.statements[index])
        leaf = codec.encode_event(codec.Event(kind, time_ms, tag, count + 1, head, commit, ref))
        self.heads[tag] = (count + 1, codec.chain_hash(leaf))
        return leaf

    def message(self, index: int) -> bytes:
        kind, tag, ref, _, after_ms, behind_ms = ENTRIES[index]
        return codec.signed_message(
            origin=ORIGIN,
            kind=kind,
            tag=tag,
            ref=ref,
            request_id=request_id(index),
            author_time_ms=START_MS + after_ms - behind_ms,
            payload=self.payloads[index],
        )

    def _fill_map(self) -> None:
        for tag, head in self.heads.items():
            key = codec.map_key(tag)
            location = bucketed.bucket_of(key, 1)
            self.buckets[location] = bucketed.bucket_update(self.buckets[location], {key: codec.map_value(tag, *head)})
            root = bucketed.bucket_root(self.buckets[location], 1)
            assert root is not None
            self.map.update({location: root})

    def map_proof(self, tag: bytes) -> bytes:
        key = codec.map_key(tag)
        location = self.map.plan_neighbour(bucketed.bucket_of(key, 1))
        assert location is not None
        present, proof = bucketed.prove(key, self.buckets[location], self.map)
        assert present == (tag in self.heads)
        return proof

    def question(self) -> tuple[bytes, bytes]:
        """Return the question inside the ACCESS, and the message its signature covers."""
        asked = payloads.parse(st.AccessStatement, self.payloads[9]).asked
        return asked.question, codec.signed_message(
            origin=ORIGIN,
            kind=codec.QUESTION_KIND,
            tag=PERSON_TAG,
            ref=0,
            request_id=request_id(9),
            author_time_ms=asked.author_time_ms,
            payload=asked.question,
        )

    def receipt(self) -> bytes:
        proof = tuple(tiles.prove_inclusion(8, SIZE, self.tiles))
        return checkpoint.format_proof(checkpoint.ProofBundle(b"", 8, proof, self.note))

    def values(self) -> dict[str, bytes]:
        """Return every value that the example shows in hex, by its name, payloads left out."""
        found: dict[str, bytes] = {
            "tag of ledger": LEDGER_TAG,
            "tag of vocabulary/example": codec.public_tag("vocabulary/example"),
            "tag of rules/realm": codec.public_tag("rules/realm"),
            "tag of participant/clinic-b": CLINIC_TAG,
            "statement key": DAEMON.public_key,
            "key of clinic-b": CLINIC.public_key,
            "key of the person": PERSON.public_key,
        }
        for index, encoded in self.statements.items():
            found[f"signature {index}"] = codec.decode_statement(encoded).signature
            found[f"commit {index}"] = codec.commit(salt(index), encoded)
        found["request_id 7"] = request_id(7)
        found["message 8"] = self.message(8)
        found["statement 8"] = self.statements[8]
        aad = codec.payload_aad(EntryKind.GRANT, PERSON_TAG, codec.commit(salt(8), self.statements[8]))
        found["aad 8"] = aad
        found["row 8"] = (
            bytes([layout.ENCRYPTED]) + NONCE + AESGCM(DATA_KEY).encrypt(NONCE, salt(8) + self.statements[8], aad)
        )
        found["question"], found["question message"] = self.question()
        found["question signature"] = CLINIC.sign(found["question message"])
        found["consent id"] = codec.consent_id(PERSON_TAG, 3)
        for index, leaf in enumerate(self.leaves):
            found[f"leaf {index}"] = leaf
            found[f"leaf hash {index}"] = merkle.leaf_hash(leaf)
            found[f"chain hash {index}"] = codec.chain_hash(leaf)
        for name, tag in (
            ("ledger", LEDGER_TAG),
            ("vocabulary/example", codec.public_tag("vocabulary/example")),
            ("rules/realm", codec.public_tag("rules/realm")),
            ("participant/clinic-b", CLINIC_TAG),
            ("the person", PERSON_TAG),
        ):
            found[f"map key of {name}"] = codec.map_key(tag)
            found[f"map value of {name}"] = codec.map_value(tag, *self.heads[tag])
        found["map root"] = self.map.root()
        found["map proof of the person"] = self.map_proof(PERSON_TAG)
        found["map key of the stranger"] = codec.map_key(STRANGER_TAG)
        found["map proof of the stranger"] = self.map_proof(STRANGER_TAG)
        found["root"] = self.root
        found["inclusion of the seal"] = b"".join(tiles.prove_inclusion(SIZE - 1, SIZE, self.tiles))
        found["consistency from 4"] = b"".join(tiles.prove_consistency(4, SIZE, self.tiles))
        return found

    def texts(self) -> dict[str, str]:
        """Return every text that the example shows, by its name."""
        return {
            "vkey": note.format_vkey(LOG.verifier) + "\n",
            "log.key": note.format_signing_key(LOG) + "\n",
            "statement.key": DAEMON.seed.hex() + "\n",
            "checkpoint": self.note.decode(),
            "receipt": self.receipt().decode(),
        }


# -- reading the text -----------------------------------------------------------------------------------------


@cache
def spec() -> str:
    return SPEC.read_text(encoding="utf-8")


@cache
def shown() -> dict[str, bytes]:
    """Return the hex values of the text's example blocks, by name; no name occurs twice."""
    found: dict[str, bytes] = {}
    for block in re.findall(r"^```example\n(.*?)^```$", spec(), re.DOTALL | re.MULTILINE):
        for name, value in re.findall(r"^(\S[^:\n]*):((?: ?[0-9a-f]+)?(?:\n  [0-9a-f]+)*)$", block, re.MULTILINE):
            assert name not in found, name
            found[name] = bytes.fromhex("".join(value.split()))
        lines = re.sub(r"^(\S[^:\n]*:( [0-9a-f]+)?|  [0-9a-f]+)\n", "", block, flags=re.MULTILINE)
        assert not lines, f"example block has lines that are not read: {lines}"
    return found


@cache
def shown_texts() -> dict[str, str]:
    blocks = re.findall(r"^```example-text (\S+)\n(.*?)^```$", spec(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == len({name for name, _ in blocks})
    return dict(blocks)


@cache
def world() -> World:
    return World({index: shown()[f"payload {index}"] for index in ENTRIES})


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below *heading*, its head left out."""
    _, _, below = spec().partition(heading)
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table, heading
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[0].splitlines()[2:]]


# -- the example ----------------------------------------------------------------------------------------------


def test_the_text_shows_each_value_and_no_other() -> None:
    assert set(shown()) == set(world().values()) | {f"payload {index}" for index in ENTRIES}
    assert set(shown_texts()) == set(world().texts())


@pytest.mark.parametrize("name", sorted(World.values(world())))
def test_a_value_is_what_the_code_computes(name: str) -> None:
    assert shown()[name] == world().values()[name]


@pytest.mark.parametrize("name", sorted(World.texts(world())))
def test_a_text_is_what_the_code_computes(name: str) -> None:
    assert shown_texts()[name] == world().texts()[name]


def test_payloads_are_messages_of_their_kinds_and_say_what_the_text_says() -> None:
    kinds_and_payloads = ((ENTRIES[index][0], index, payload) for index, payload in world().payloads.items())
    reported = {index: payloads.decode_payload(kind, payload) for kind, index, payload in kinds_and_payloads}
    ledger, vocabulary, rules, access = reported[0], reported[1], reported[2], reported[9]
    assert isinstance(ledger, st.LedgerStatement)
    assert isinstance(vocabulary, st.VocabularyStatement)
    assert isinstance(rules, st.RulesStatement)
    assert isinstance(access, st.AccessStatement)
    assert (ledger.origin, ledger.statement_key, ledger.map_bits) == (ORIGIN, DAEMON.public_key, 17)
    assert list(ledger.verifier_keys) == [note.format_vkey(LOG.verifier)]
    assert [code.code for code in vocabulary.codes] == ["TREAT", "CLIN", "disclose"]
    assert values.rules_value(rules).implicit_policy == 1
    assert reported[4].participant_id == "clinic-b"  # type: ignore[attr-defined]
    assert reported[5].key == CLINIC.public_key  # type: ignore[attr-defined]
    assert reported[6].identifier_hash == b"\xee" * 32  # type: ignore[attr-defined]
    assert reported[7].key == PERSON.public_key  # type: ignore[attr-defined]
    assert not reported[8].HasField("attestation")
    assert (access.asked.author_time_ms, access.asked.key) == (1_760_000_008_880, CLINIC.public_key)
    assert access.asked.signature == shown()["question signature"]
    assert access.decision.reasons[0].consent_id == shown()["consent id"].hex()
    assert [reported[index].attestation.attested_by for index in (4, 5, 6, 7)] == [  # type: ignore[attr-defined]
        "operator/main",
        "operator/main",
        "clinic-b",
        "clinic-b",
    ]


def test_every_signature_of_the_example_verifies() -> None:
    for index, (*_, author, _, _) in ENTRIES.items():
        ed25519.verify(author.public_key, world().message(index), shown()[f"signature {index}"])
    ed25519.verify(CLINIC.public_key, shown()["question message"], shown()["question signature"])
    verifier = note.parse_vkey(shown_texts()["vkey"].strip())
    point, _ = checkpoint.open_checkpoint(shown_texts()["checkpoint"].encode(), ORIGIN, verifier)
    assert point == checkpoint.Checkpoint(ORIGIN, SIZE, shown()["root"])
    receipt = shown_texts()["receipt"].encode()
    hashed = merkle.leaf_hash(shown()["leaf 8"])
    assert checkpoint.verify_proof(receipt, leaf_hash=hashed, origin=ORIGIN, log_verifier=verifier) == point


def hashes(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[at : at + 32] for at in range(0, len(joined), 32))


def test_the_proofs_of_the_example_verify() -> None:
    value, root = shown(), shown()["root"]
    merkle.verify_inclusion(
        hashes(value["inclusion of the seal"]), index=10, size=SIZE, leaf_hash=value["leaf hash 10"], root=root
    )
    first, _ = tiles.Edge().append([value[f"leaf hash {index}"] for index in range(4)])
    merkle.verify_consistency(
        hashes(value["consistency from 4"]), size1=4, root1=first.root(), size2=SIZE, root2=root
    )
    key, map_value = value["map key of the person"], value["map value of the person"]
    patricia.verify_presence(value["map root"], key, map_value, value["map proof of the person"])
    stranger, absent = value["map key of the stranger"], value["map proof of the stranger"]
    patricia.verify_absence(value["map root"], stranger, absent)
    with pytest.raises(ProofError):
        patricia.verify_absence(value["map root"], key, absent)


def test_the_example_replays() -> None:
    again = Replay()
    for index in range(SIZE):
        again.add(shown()[f"leaf {index}"])
    assert (again.root(), again.map_root()) == (shown()["root"], shown()["map root"])
    assert again.seal_hash == shown()["chain hash 10"]


def chain(tag: bytes, name: str, indexes: list[int]) -> history.ChainProof:
    value = shown()
    entries = [
        history.HistoryEntry(value[f"leaf {index}"], (salt(index), world().statements[index])) for index in indexes
    ]
    return history.ChainProof(
        tag=tag,
        public_name=name,
        count=len(indexes),
        head=value[f"chain hash {indexes[-1]}"],
        map_proof=world().map_proof(tag),
        first_seq=1,
        entries=tuple(entries),
    )


def person_history() -> history.HistoryProof:
    return history.HistoryProof(
        checkpoint=shown_texts()["checkpoint"].encode(),
        consistency=(),
        seal=shown()["leaf 10"],
        seal_inclusion=hashes(shown()["inclusion of the seal"]),
        chains=(chain(PERSON_TAG, "", [6, 7, 8, 9]), chain(LEDGER_TAG, "ledger", [0])),
    )


def test_the_history_proof_of_the_example_verifies() -> None:
    proof = person_history()
    sealed = history.verify_sealed_checkpoint(proof, origin=ORIGIN, log_verifier=LOG.verifier, held=None)
    facts = [
        KeyChange(key=DAEMON.public_key, owner=Owner.LEDGER, tag_or_name="", time_ms=START_MS),
        KeyChange(
            key=PERSON.public_key, owner=Owner.SUBJECT, tag_or_name=PERSON_TAG, time_ms=START_MS + 7_000
        ),
    ]
    keys = valid_keys(facts)
    for each in proof.chains:
        entries = history.verify_chain(each, sealed=sealed)
        verify_authors(entries, origin=ORIGIN, keys=keys)


@pytest.mark.parametrize("left_out", [0, 1, 2, 3])
def test_no_entry_can_be_left_out_of_it(left_out: int) -> None:
    proof = person_history()
    sealed = history.verify_sealed_checkpoint(proof, origin=ORIGIN, log_verifier=LOG.verifier, held=None)
    whole = proof.chains[0]
    entries = whole.entries[:left_out] + whole.entries[left_out + 1 :]
    with pytest.raises(ProofError):
        history.verify_chain(replace(whole, entries=entries), sealed=sealed)
    with pytest.raises(ProofError):
        history.verify_chain(replace(whole, entries=entries, count=3), sealed=sealed)


def test_the_ends_of_a_keys_term_are_included() -> None:
    proof = person_history()
    sealed = history.verify_sealed_checkpoint(proof, origin=ORIGIN, log_verifier=LOG.verifier, held=None)
    grant = history.verify_chain(proof.chains[0], sealed=sealed)[2:3]
    for from_ms, until_ms, holds in ((8_000, 8_000, True), (8_001, 9_000, False), (7_000, 7_999, False)):
        term = KeyValidity(Owner.SUBJECT, START_MS + from_ms, START_MS + until_ms, PERSON_TAG)
        keys = {PERSON.public_key: (term,)}
        if holds:
            verify_authors(grant, origin=ORIGIN, keys=keys)
        else:
            with pytest.raises(SignatureError):
                verify_authors(grant, origin=ORIGIN, keys=keys)


def test_the_stored_row_is_what_the_vault_reads() -> None:
    supply = iter([b"\x0d" * 32, b"\xef" * 12, b"\x0f" * 32, b"\xf0" * 12, PERSON_TAG, DATA_KEY, b"\xf1" * 12, NONCE])
    vault = Vault(MemoryStore(), [SoftwareKek("test", b"\x0e" * 32)], random=lambda size: next(supply))
    assert vault.create(b"\xee" * 32) == PERSON_TAG
    commit, row = vault.encrypt(EntryKind.GRANT, PERSON_TAG, salt(8), world().statements[8])
    assert (commit, row) == (shown()["commit 8"], shown()["row 8"])
    event = codec.decode_leaf(shown()["leaf 8"])
    assert isinstance(event, codec.Event)
    assert vault.decrypt(event, row) == (salt(8), shown()["statement 8"])


# -- the rest of the text -------------------------------------------------------------------------------------


def test_the_example_at_the_top_is_leaf_8() -> None:
    leaf = shown()["leaf 8"]
    parts = [leaf[start:end].hex() for start, end in ((0, 1), (1, 2), (2, 10), (10, 42), (42, 50), (50, 82), (82, 114))]
    parts.append(leaf[114:].hex())
    short = [part if len(part) <= 16 else f"{part[:4]}…{part[-4:]}" for part in parts]
    short[3] = "aa…aa"
    assert f"\n{' '.join(short)}\n" in spec()


def test_the_table_of_kinds_is_that_of_the_code() -> None:
    letters = {Owner.LEDGER: "D", Owner.PARTICIPANT: "P", Owner.SUBJECT: "S", Owner.REPRESENTATIVE: "R"}
    expected = [
        (str(kind.value), kind.name, " ".join(letters[owner] for owner in sorted(AUTHORS[kind]))) for kind in EntryKind
    ]
    assert [(row[0], row[1], row[3]) for row in rows("### 2.3 Kinds")] == expected


@pytest.mark.parametrize(
    ("heading", "form", "length"),
    [("An **event leaf**", codec._EVENT, codec.EVENT_LENGTH), ("A **seal leaf**", codec._SEAL, codec.SEAL_LENGTH)],
)
def test_the_tables_of_offsets_are_those_of_the_code(heading: str, form: Struct, length: int) -> None:
    fields = re.findall(r"\d*[BQs]", form.format.removeprefix(">"))
    widths = [calcsize(">" + field) for field in fields]
    ends = list(accumulate(widths))
    expected = [[str(end - width), str(width)] for end, width in zip(ends, widths, strict=True)]
    assert [row[:2] for row in rows(heading)] == expected
    assert ends[-1] == length


def test_the_prefixes_are_those_of_the_code() -> None:
    ours = {value for value in vars(codec).values() if isinstance(value, bytes) and value.startswith(b"consentd/")}
    assert {row[0].strip("`").replace("\\0", "\0").encode() for row in rows("begins with a prefix of its own")} == ours


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("version", lambda leaf: b"\x02" + leaf[1:]),
        ("shorter", lambda leaf: leaf[:-1]),
        ("longer", lambda leaf: leaf + b"\0"),
        ("kind 255", lambda leaf: leaf[:1] + b"\xff" + leaf[2:]),
        ("a seal of this length", lambda leaf: leaf[:1] + b"\0" + leaf[2:]),
        ("seq 0", lambda leaf: leaf[:42] + bytes(8) + leaf[50:]),
        ("ref not less than seq", lambda leaf: leaf[:114] + leaf[42:50]),
        ("no prev where seq is not 1", lambda leaf: leaf[:50] + bytes(32) + leaf[82:]),
        ("prev where seq is 1", lambda leaf: leaf[:42] + (1).to_bytes(8) + leaf[50:]),
    ],
)
def test_what_the_text_calls_malformed_is(name: str, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(MalformedError):
        codec.decode_leaf(change(shown()["leaf 8"]))


def test_a_kind_that_is_not_known_decodes() -> None:
    leaf = shown()["leaf 8"]
    event = codec.decode_leaf(leaf[:1] + b"\x16" + leaf[2:])
    assert isinstance(event, codec.Event)
    assert event.kind == 22


def test_the_text_says_the_limits_of_the_code() -> None:
    for limit in (codec.MAX_PAYLOAD, MAX_AUTHOR_SKEW_MS, note.MAX_NOTE_SIZE, clock.MAX_BEHIND_MS):
        assert f"{limit:,}" in spec()
    assert f"{clock.MAX_AHEAD_MS:,}" in spec()
    assert f"by at most {clock.FOLLOWED_PER_S_MS} ms per second" in spec()
    assert f"{note.MAX_SIGNATURES} signatures" in spec()


def test_what_the_text_refers_to_exists() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in spec().splitlines()
        if line.startswith("#")
    }
    assert all(target in anchors for target in re.findall(r"\]\(#([^)]+)\)", spec()))
    numbers = set(re.findall(r"^#+ ([\d.]+?)\.? ", spec(), re.MULTILINE))
    assert set(re.findall(r"sections? (\d+(?:\.\d+)?)", spec())) <= numbers
