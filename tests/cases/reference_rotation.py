"""A plain verifier of evidence of ledgers with rotations, written from proto/evidence-format.md 6 and 7 and
proto/ledger-format.md 3.6 and 3.9. Forms, hashes, maps and Ed25519 are those of ``consentd.core``; who may sign what,
and how rotations are followed, is written anew. Only the daemon signs entries in these files.
"""

import base64
import hashlib
from itertools import pairwise
from typing import Any

from consentd.core import codec, ed25519, history, merkle, note
from consentd.core.checkpoint import parse_checkpoint
from consentd.core.evidence import parse_evidence
from consentd.errors import VerificationError
from consentd.v1 import statement_pb2 as st

END = 1 << 64


class Refused(Exception):  # noqa: N818
    """The file is wrong."""


class Unknown(Exception):  # noqa: N818
    """A key is unknown, so nothing is determined."""


def require(holds: object) -> None:
    if not holds:
        raise Refused


def vkey_of(origin: str, key: bytes) -> str:
    key_id = hashlib.sha256(origin.encode() + b"\n\x01" + key).hexdigest()[:8]
    return f"{origin}+{key_id}+" + base64.b64encode(b"\x01" + key).decode()


def verify(content: bytes, *, origin: str, vkey: str, witness: str = "") -> tuple[str, list[str]]:
    """Return ``ok``, ``refused``, ``unknown_key`` or ``undetermined``, and the log keys from the pinned one on."""
    try:
        return _verify(content, origin, vkey, witness)
    except Unknown:
        return "unknown_key", []
    except (Refused, VerificationError):
        return "refused", []


def _verify(content: bytes, origin: str, vkey: str, witness: str) -> tuple[str, list[str]]:
    file = parse_evidence(content)
    proof, scope, steps = file.proof, file.scope, file.proof.rotations
    followed, before = [vkey], []
    points = [parse_checkpoint(note.parse_note(one.checkpoint).text) for one in (*steps, proof)]
    require(not steps or all(one.origin == origin for one in points))
    require(all(one.size < later.size for one, later in pairwise(points)))
    starts = [at for at, one in enumerate(steps) if lines_by(one.checkpoint, vkey)]
    for at in range(starts[0], len(steps)) if starts else ():
        point, later, chain = points[at], points[at + 1], steps[at].history
        seal = sealed(steps[at], point, origin, followed, witness)
        require(chain.tag == codec.LEDGER_TAG and chain.public_name == "ledger")
        found = history.verify_chain(chain, sealed=seal)
        logs = keys_of(found, origin, point.size, followed[-1])[1]
        require([one.event for one in found[: len(before)]] == before)
        reached = [vkey_of(origin, key) for first, key in logs if point.size < first <= later.size]
        require(reached)
        followed, before = [*followed, *reached], [one.event for one in found]
        merkle.verify_consistency(
            steps[at].consistency, size1=point.size, root1=point.root, size2=later.size, root2=later.root
        )
    point = points[-1]
    seal = sealed(proof, point, origin, followed, witness)
    require(not proof.consistency and (not scope.chain or proof.chains[0].tag == scope.chain))
    require(all(one.public_name == "ledger" or one.tag == scope.chain for one in proof.chains))
    chains = {one.tag: history.verify_chain(one, sealed=seal) for one in proof.chains}
    ledger = chains.get(codec.LEDGER_TAG, ())
    require(len(chains) == len(proof.chains) and ledger)
    terms, _, validity, unread = keys_of(ledger, origin, point.size, followed[-1])
    require([one.event for one in ledger[: len(before)]] == before)
    for tag, rows in chains.items():
        for row in rows if tag != codec.LEDGER_TAG else ():
            verify_author(row, validity, origin, unread)
    last_index, last_ms = -1, 0
    for one in file.entries:
        leaf, event = one.entry.leaf, codec.decode_leaf(one.entry.leaf)
        merkle.verify_inclusion(
            one.inclusion, index=one.index, size=point.size, leaf_hash=merkle.leaf_hash(leaf), root=point.root
        )
        require(last_index < one.index and last_ms <= event.time_ms <= seal.seal.time_ms)
        last_index, last_ms = one.index, event.time_ms
        if isinstance(event, codec.Seal):
            require(one.entry.opening is None and event.covers == one.index)
        elif one.entry.opening is not None:
            statement = history.open_statement(event, *one.entry.opening)
            verify_author(history.VerifiedEntry(event, statement), validity, origin, unread)
            first, end, _ = terms.get(statement.key, (0, END, True))
            require(first <= one.index < end)
    require(scope.last < point.size)
    require(sum(scope.first <= one.index <= scope.last for one in file.entries) == max(0, scope.last - scope.first + 1))
    return "undetermined" if unread else "ok", followed


def lines_by(checkpoint: bytes, vkey: str) -> list[note.NoteSignature]:
    name, key_id, _ = vkey.split("+", 2)
    return [one for one in note.parse_note(checkpoint).unverified if (one.name, one.key_id) == (name, int(key_id, 16))]


def sealed(proof: Any, point: Any, origin: str, followed: list[str], witness: str) -> history.SealedCheckpoint:
    """Verify a checkpoint by the last of *followed*, the witness (if any) and the seal."""
    parsed, lines = note.parse_note(proof.checkpoint), lines_by(proof.checkpoint, followed[-1])
    if not lines and not any(lines_by(proof.checkpoint, one) for one in followed):
        raise Unknown if any(one.name == origin for one in parsed.unverified) else Refused
    cosigned = lines_by(proof.checkpoint, witness) if witness else []
    for line, vkey in [(one, followed[-1]) for one in lines] + [(one, witness) for one in cosigned]:
        note.parse_vkey(vkey).verify(parsed.text.encode(), line.signature)
    seal = codec.decode_leaf(proof.seal)
    require(lines and point.origin == origin and isinstance(seal, codec.Seal) and seal.covers == point.size - 1)
    leaf_hash, at = merkle.leaf_hash(proof.seal), point.size - 1
    merkle.verify_inclusion(proof.seal_inclusion, index=at, size=point.size, leaf_hash=leaf_hash, root=point.root)
    require(not witness or any(seal.time_ms <= (one.time_s + 60) * 1000 for one in cosigned))
    return history.SealedCheckpoint(point, seal)


def verify_author(row: Any, validity: dict[bytes, list[list[int]]], origin: str, unread: int) -> None:
    event, made = row.event, row.statement
    require(abs(made.author_time_ms - event.time_ms) <= 600_000)
    if not any(first <= event.time_ms <= last for first, last in validity.get(made.key, [])):
        raise Unknown if unread else Refused
    message = b"consentd/entry/v1\0" + hashlib.sha256(origin.encode()).digest() + bytes([event.kind]) + event.tag
    message += event.ref.to_bytes(8) + made.request_id + made.author_time_ms.to_bytes(8)
    ed25519.verify(made.key, message + hashlib.sha256(made.payload).digest(), made.signature)


def keys_of(rows: Any, origin: str, size: int, log_vkey: str) -> Any:
    """``ledger_keys`` of ledger-format.md 3.9, with the authors of the entries, and 3.6 item 7 for *log_vkey*."""
    named: list[str] = []
    logs: list[tuple[int, bytes]] = []
    terms: dict[bytes, tuple[int, int, bool]] = {}
    validity: dict[bytes, list[list[int]]] = {}
    messages = [read(row) for row in rows]
    unread = messages.count(None)
    for row, one in zip(rows, messages, strict=True):
        now, is_ledger = row.event.time_ms, isinstance(one, st.LedgerStatement)
        if is_ledger and row.event.seq == 1 and one.statement_key and not one.HasField("rotation"):
            validity[one.statement_key] = [[now, END]]
        verify_author(row, validity, origin, unread)
        if isinstance(one, st.KeyStatement) and one.retired and one.key in terms:
            terms[one.key], validity[one.key][-1][1] = (*terms[one.key][:2], False), now
        if not is_ledger:
            continue
        require(one.origin == origin)
        if not one.HasField("rotation"):
            require(not (one.verifier_keys and logs))
            named += one.verifier_keys
            if len(one.statement_key) == 32:
                require(all(end == END for _, end, _ in terms.values()))
                if not any(end == END for _, end in validity.get(one.statement_key, [])):
                    validity[one.statement_key] = [*validity.get(one.statement_key, []), [now, END]]
                terms[one.statement_key] = (0, END, True)
            continue
        it, new, old = one.rotation, one.rotation.new_key, one.rotation.old_key
        require(row.event.seq > 1 and one == st.LedgerStatement(origin=origin, rotation=it))
        ed25519.check_public_key(new)
        begin = vkey_of(origin, new)[: len(origin) + 10]
        used = [*named, *(vkey_of(origin, key) for _, key in logs)]
        require(new != old and new not in terms and not any(vkey.startswith(begin) for vkey in used))
        if it.role == 1:
            require(old == logs[-1][1] if logs else vkey_of(origin, old) in named)
            require(max(row.event.seq + 2, logs[-1][0] + 1 if logs else 0) <= it.from_size < 1 << 63)
            logs.append((it.from_size, new))
        else:
            require(terms.get(old, (0, 0, False))[2] and row.statement.key == old)
            require(row.event.seq <= it.from_size <= size - 1)
            terms[old], terms[new] = (terms[old][0], it.from_size, False), (it.from_size, END, True)
            validity[old][-1][1], validity[new] = now, [[now, END]]
        reason = it.reason.encode()
        message = b"consentd/rotation/v1\0" + hashlib.sha256(origin.encode()).digest() + bytes([it.role]) + old + new
        message += it.from_size.to_bytes(8) + len(reason).to_bytes(2) + reason
        ed25519.verify(new, message, it.new_signature)
    require(any(isinstance(one, st.LedgerStatement) for one in messages))
    last = [key for first, key in logs if first <= size]
    require(log_vkey == vkey_of(origin, last[-1]) if last else log_vkey in named)
    return terms, logs, validity, unread


def read(row: Any) -> Any:
    """Return the message of an entry of chain `ledger`; None if it is of a later version, and "" of another kind."""
    if row.event.kind not in (1, 3):
        return ""
    message: Any = (st.LedgerStatement if row.event.kind == 1 else st.KeyStatement)()
    try:
        message.ParseFromString(row.statement.payload)
    except Exception:  # noqa: BLE001
        return None
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    is_known_role = row.event.kind == 3 or not message.HasField("rotation") or message.rotation.role in (1, 2)
    return message if known.ByteSize() == message.ByteSize() and is_known_role else None
