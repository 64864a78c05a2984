"""Encode and decode leaves and statements: the ledger's own binary formats. No other module takes leaf bytes apart.

A leaf is an event, which commits to a signed *statement*, or a *seal*. Events with the same *tag* form a chain, and a
seal commits to the last event of every chain. The tree hashes exactly the bytes of a leaf that an entry bundle stores.
Decoding is strict: length and version must be exact. Integers are big-endian. Source: ledger-format.md, "Leaves".
"""

import hashlib
from dataclasses import dataclass
from struct import Struct

from consentd import limits
from consentd.errors import MalformedError

LEAF_VERSION = 1
SEAL_KIND = 0
QUESTION_KIND = 255
"""The kind byte of a signed message whose payload is a question. No leaf has this kind."""

MAX_PAYLOAD = limits.STATEMENT_BYTES
MAX_SEQ = (1 << 63) - 1
"""The largest seq (an event's number in its chain, from 1). A tree cannot have more leaves than this."""
ZERO_HASH = bytes(32)
ALG_ED25519 = 1

_EVENT = Struct(">BBQ32sQ32s32sQ")
_SEAL = Struct(">BBQQ32sQ32s")
_STATEMENT = Struct(">B32s64s16sQ")
_SIGNED = Struct(">32sB32sQ16sQ32s")
_HEAD = Struct(">32sQ32s")

_CHAIN = b"consentd/chain/v1\0"
_COMMIT = b"consentd/commit/v1\0"
_ENTRY = b"consentd/entry/v1\0"
_PUBLIC = b"consentd/public/v1\0"
_SUBJECT = b"consentd/subject/v1\0"
_HEAD_VALUE = b"consentd/head/v1\0"
_CONSENT = b"consentd/consent/v1\0"
_PAYLOAD = b"consentd/payload/v1\0"
ROTATION_PREFIX = b"consentd/rotation/v1\0"
"""How the bytes that the new key of a rotation signs begin (``core.rotation``)."""

EVENT_LENGTH = _EVENT.size  # 122
SEAL_LENGTH = _SEAL.size  # 90
STATEMENT_OVERHEAD = _STATEMENT.size  # 121


@dataclass(frozen=True, slots=True)
class Event:
    """An event leaf. *kind* is 1…254, a ``consentd.v1.EntryKind``; hashes and the tag are 32 bytes.

    Attributes:
        time_ms: POSIX milliseconds, never less than the time of the previous leaf.
        tag: identifies the chain.
        seq: 1, 2, 3 … within the chain.
        prev: chain hash of the chain's previous leaf; zeros in the chain's first leaf.
        commit: commitment to the statement.
        ref: seq of an earlier leaf of the chain that this leaf rests on, such as an access on a consent; 0: none.
    """

    kind: int
    time_ms: int
    tag: bytes
    seq: int
    prev: bytes
    commit: bytes
    ref: int


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal leaf: it commits to the *heads* (last events) of all chains.

    Attributes:
        covers: number of leaves before the seal, which is also the index of the seal.
        map_root: root of the map (a Patricia tree) over all tags, 32 bytes.
        tags: number of keys in the map.
        prev_seal: chain hash of the previous seal; zeros in the first seal.
    """

    time_ms: int
    covers: int
    map_root: bytes
    tags: int
    prev_seal: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """The signed content to which an event leaf commits.

    Attributes:
        key, signature: the author's Ed25519 public key, and the signature over ``signed_message``.
        request_id: 16 bytes, usually chosen at random by the client.
        author_time_ms: the time by the author's clock.
        payload: a serialised ``consentd.v1`` message, as received.
    """

    key: bytes
    signature: bytes
    request_id: bytes
    author_time_ms: int
    payload: bytes


def encode_event(event: Event) -> bytes:
    """Encode an event leaf to its 122 bytes."""
    return _EVENT.pack(
        LEAF_VERSION, event.kind, event.time_ms, event.tag, event.seq, event.prev, event.commit, event.ref
    )


def encode_seal(seal: Seal) -> bytes:
    """Encode a seal leaf to its 90 bytes."""
    return _SEAL.pack(LEAF_VERSION, SEAL_KIND, seal.time_ms, seal.covers, seal.map_root, seal.tags, seal.prev_seal)


def decode_leaf(leaf: bytes) -> Event | Seal:
    """Decode a leaf.

    Raises:
        MalformedError: the version is unknown, the length is wrong for the kind, or a field has an impossible value.
    """
    if len(leaf) < 2:
        raise MalformedError("leaf is too short")
    if leaf[0] != LEAF_VERSION:
        raise MalformedError(f"leaf version unknown: `{leaf[0]}`")
    if leaf[1] == SEAL_KIND:
        if len(leaf) != SEAL_LENGTH:
            raise MalformedError(f"seal leaf has the wrong length: `{len(leaf)}`")
        _, _, time_ms, covers, map_root, tags, prev_seal = _SEAL.unpack(leaf)
        return Seal(time_ms, covers, map_root, tags, prev_seal)
    if len(leaf) != EVENT_LENGTH:
        raise MalformedError(f"event leaf has the wrong length: `{len(leaf)}`")
    _, kind, time_ms, tag, seq, prev, commit, ref = _EVENT.unpack(leaf)
    if kind == QUESTION_KIND:
        raise MalformedError("leaf kind 255 is reserved")
    if seq == 0 or ref >= seq:
        raise MalformedError("event leaf has an impossible seq or ref")
    if (seq == 1) != (prev == ZERO_HASH):
        raise MalformedError("event leaf has a prev with seq 1, or no prev with another seq")
    return Event(kind, time_ms, tag, seq, prev, commit, ref)


def kind_of(leaf: bytes) -> int | None:
    """Return the kind byte of a leaf that was not decoded; None if the bytes are too short to have one."""
    return leaf[1] if len(leaf) > 1 else None


def time_of(leaf: bytes) -> int | None:
    """Return the ``time_ms`` of a leaf that was not decoded; None if the bytes are too short to have one."""
    return int.from_bytes(leaf[2:10]) if len(leaf) >= 10 else None


def tag_of(leaf: bytes) -> bytes:
    """Return the tag of an event leaf that was not decoded. The caller must know that the leaf is an event leaf."""
    return leaf[10:42]


def chain_hash(leaf: bytes) -> bytes:
    """Return a leaf's chain hash, ``H("consentd/chain/v1\\0" ‖ leaf)``. Unlike the leaf hash, it is never public."""
    return hashlib.sha256(_CHAIN + leaf).digest()


def public_tag(name: str) -> bytes:
    """Return the tag of a public chain: ``H("consentd/public/v1\\0" ‖ name)``."""
    return hashlib.sha256(_PUBLIC + name.encode()).digest()


VOCABULARY_PREFIX = "vocabulary/"
NOTICE_PREFIX = "notice/"
RULES_PREFIX = "rules/"
"""How the public names of these chains begin; an id follows. Participants: ``key_validity.PARTICIPANT_PREFIX``."""

ADMINISTRATION_CHAIN = "administration"
"""Public name of the chain of what operators did. It is not in chain `ledger`, which every history has as a whole."""

LEDGER_TAG = public_tag("ledger")
"""Tag of the ledger's own chain."""


def map_key(tag: bytes) -> bytes:
    """Return a tag's key in the map that seals commit to: ``H("consentd/subject/v1\\0" ‖ tag)``."""
    return hashlib.sha256(_SUBJECT + tag).digest()


def map_value(tag: bytes, count: int, head: bytes) -> bytes:
    """Return a tag's value in the map: ``H("consentd/head/v1\\0" ‖ tag ‖ count u64 ‖ head)``."""
    return hashlib.sha256(_HEAD_VALUE + _HEAD.pack(tag, count, head)).digest()


def consent_id(tag: bytes, lineage: int) -> bytes:
    """Return a consent's ID: ``H("consentd/consent/v1\\0" ‖ tag ‖ lineage u64)[:16]``. *lineage*: seq of its GRANT."""
    return hashlib.sha256(_CONSENT + tag + lineage.to_bytes(8, "big")).digest()[:16]


def payload_aad(kind: int, tag: bytes, commit: bytes) -> bytes:
    """Return the AEAD additional data of a person's statement: ``"consentd/payload/v1\\0" ‖ kind ‖ tag ‖ commit``."""
    return b"".join((_PAYLOAD, bytes((kind,)), tag, commit))


def encode_statement(statement: Statement) -> bytes:
    """Encode a statement: ``alg ‖ key ‖ signature ‖ request_id ‖ author_time_ms ‖ payload``."""
    one = statement
    return _STATEMENT.pack(ALG_ED25519, one.key, one.signature, one.request_id, one.author_time_ms) + one.payload


def decode_statement(data: bytes) -> Statement:
    """Decode a statement. The payload is not decoded: the caller decodes it after the signature was verified.

    Raises:
        MalformedError: the bytes are too few or too many, or the algorithm is unknown.
    """
    if not STATEMENT_OVERHEAD <= len(data) <= STATEMENT_OVERHEAD + MAX_PAYLOAD:
        raise MalformedError(f"statement has an impossible length: `{len(data)}`")
    alg, key, signature, request_id, author_time_ms = _STATEMENT.unpack_from(data)
    if alg != ALG_ED25519:
        raise MalformedError(f"statement algorithm unknown: `{alg}`")
    return Statement(key, signature, request_id, author_time_ms, data[STATEMENT_OVERHEAD:])


def commit(salt: bytes, statement: bytes) -> bytes:
    """Commit to a statement: ``H("consentd/commit/v1\\0" ‖ salt[32] ‖ statement)``."""
    return hashlib.sha256(b"".join((_COMMIT, salt, statement))).digest()


def signed_message(
    *, origin: str, kind: int, tag: bytes, ref: int, request_id: bytes, author_time_ms: int, payload: bytes
) -> bytes:
    """Return the bytes that an author signs.

    ``"consentd/entry/v1\\0" ‖ H(origin) ‖ kind ‖ tag ‖ ref ‖ request_id ‖ author_time_ms ‖ H(payload)``;
    for a question, kind is 255 and ref is 0.
    """
    origin_hash, payload_hash = hashlib.sha256(origin.encode()).digest(), hashlib.sha256(payload).digest()
    return _ENTRY + _SIGNED.pack(origin_hash, kind, tag, ref, request_id, author_time_ms, payload_hash)
