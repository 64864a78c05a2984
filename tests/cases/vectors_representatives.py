"""Who acts for a person: the representative of an authority that is in force and covers the act, or somebody else."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

from cases.ledgers import DAEMON
from cases.vectors_case import (
    BANK,
    CITIZEN,
    Document,
    Vector,
    b64,
    encode,
    evidence_vector,
    history_vector,
    to_document,
)
from cases.vectors_forged import ME, Forge, base, key_payload
from cases.vectors_pruned import STATED_MS, first_payload, pruning
from cases.vectors_repeats import document_after, person_document
from consentd.core import ed25519
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

FOREIGN_FIELD = b"\xf8\x3f\x01"
CONSENTING = [st.AUTHORITY_ACT_GRANT, st.AUTHORITY_ACT_AMEND, st.AUTHORITY_ACT_PAUSE, st.AUTHORITY_ACT_REVOKE]
KINDS = {
    EntryKind.GRANT: (st.GrantStatement, st.AUTHORITY_ACT_GRANT),
    EntryKind.AMEND: (st.AmendStatement, st.AUTHORITY_ACT_AMEND),
    EntryKind.PAUSE: (st.PauseStatement, st.AUTHORITY_ACT_PAUSE),
    EntryKind.RESUME: (st.ResumeStatement, st.AUTHORITY_ACT_PAUSE),
    EntryKind.REVOKE: (st.RevokeStatement, st.AUTHORITY_ACT_REVOKE),
}
SEOUL_MS = 9 * 3_600_000


def representatives() -> Iterator[Vector]:
    """Yield all of them."""
    yield from acts()
    yield from attesters()
    yield from places()
    yield from windows()
    yield from birthdays()
    yield from not_understood()
    yield from keys()
    yield from key_changes()
    yield from readings()
    yield from the_dead()
    yield from in_parts()
    yield from mutated()


def authority(**changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "participant_id": "guardian", "capacity": st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN, "acts": CONSENTING,
        "reason": st.AUTHORITY_REASON_INCAPACITATED, "attestation": st.Attestation(attested_by="hospital"),
        "evidence": [st.AuthorityEvidence(kind="court-decision", sha256=bytes(32))] * 2,
    }  # fmt: skip
    return st.AuthorityStatement(**{**fields, **changed}).SerializeToString(deterministic=True)


def ended(**changed: Any) -> bytes:
    attestation = st.Attestation(attested_by="hospital")
    return st.AuthorityStatement(ended=True, attestation=attestation, **changed).SerializeToString()


def act(kind: EntryKind, seq: int, by: str = "guardian") -> bytes:
    """Return the payload of an entry that somebody attests under the authority of entry *seq*."""
    message: Any = KINDS[kind][0](authority_seq=seq)
    if by:
        message.attestation.attested_by = by
    if kind in (EntryKind.GRANT, EntryKind.AMEND):
        nested = pb.Provision(labels=["HIV"], provisions=[pb.Provision(level="R", data_period=pb.Period())])
        root = pb.Provision(effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["TREAT"], provisions=[nested])
        message.consent.CopyFrom(
            pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko", policy_uris=["https://p.test/1"],
                       legal_basis_note="note")
        )  # fmt: skip
    return bytes(message.SerializeToString(deterministic=True))


def given(payload: bytes | None = None, forge: Forge | None = None) -> tuple[Forge, int]:
    """Return a ledger in which an authority is put, and the seq of its entry."""
    forge = base() if forge is None else forge
    forge.add(ME, EntryKind.AUTHORITY, DAEMON, authority() if payload is None else payload)
    return forge, len(forge.chains[ME])


def acted(
    forge: Forge, seq: int, kind: EntryKind = EntryKind.GRANT, by: str = "guardian",
    author: ed25519.KeyPair = DAEMON, later_ms: int = 1000,
) -> Forge:  # fmt: skip
    return forge.later(later_ms).add(ME, kind, author, act(kind, seq, by))


def both(name: str, want: str, forge: Forge) -> Iterator[Vector]:
    """Yield a person's history, and the same as evidence."""
    history = history_vector(f"representatives: {name}", want, to_document(forge.proof(ME)), tag=b64(ME))
    yield history
    yield evidence_vector(f"representatives: {name}", want, history.content)


def acts() -> Iterator[Vector]:
    """Yield acts that the authority covers, or not."""
    for kind, (_, needed) in KINDS.items():
        yield from both(f"{kind.name} under an authority", "ok", acted(*given(), kind))
        for name, have in (("with", [needed]), ("without", [one for one in CONSENTING if one != needed])):
            forge, seq = given(authority(acts=have))
            want = "ok" if name == "with" else "signature"
            yield from both(f"{kind.name} {name} its act", want, acted(forge, seq, kind))
    forge, seq = given(authority(acts=[]))
    yield from both("GRANT under an authority for nothing", "signature", acted(forge, seq))
    forge, seq = given(authority(acts=[1 + (1 << 30), 5, 6]))
    yield from both("GRANT under an authority for acts of later versions", "signature", acted(forge, seq))


def attesters() -> Iterator[Vector]:
    """Yield acts of the representative, and of others."""
    for by in ("hospital", "guardia", "guardian2", "operator/main", ""):
        yield from both(f"attested by `{by}`", "signature", acted(*given(), by=by))
    key = base().add(ME, EntryKind.KEY, DAEMON, key_payload(CITIZEN.public_key)).later()
    forge, seq = given(forge=key)
    yield from both("signed by the person", "signature", acted(forge, seq, author=CITIZEN, by=""))
    key = base().add(ME, EntryKind.KEY, DAEMON, key_payload(CITIZEN.public_key)).later()
    forge, seq = given(forge=key)
    signed = acted(forge, seq, author=CITIZEN)
    yield from both("signed by the person, attested by the representative", "signature", signed)
    forge, seq = given(authority(participant_id=""))
    yield from both("under an authority of nobody, attested by nobody", "signature", acted(forge, seq, by=""))
    key = base().add(ME, EntryKind.KEY, DAEMON, key_payload(CITIZEN.public_key)).later()
    agent = key.add(ME, EntryKind.AUTHORITY, CITIZEN, authority(capacity=2, reason=0, evidence=[]))
    yield from both("under a power of attorney that the person signed", "ok", acted(agent, len(agent.chains[ME])))
    signed = base().add(ME, EntryKind.AUTHORITY, BANK, authority())
    yield from both("an authority that a participant signed", "signature", signed)


def places() -> Iterator[Vector]:
    """Yield acts under an entry that is no authority, or that was ended."""
    forge, seq = given()
    yield from both("under an entry of another kind", "signature", acted(forge, seq - 1))
    forge, seq = given()
    yield from both("under itself", "signature", acted(forge, seq + 1))
    forge, seq = given()
    yield from both("under an entry to come", "signature", acted(forge, 1 << 40))
    forge, seq = given()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    yield from both("under an authority that was ended", "signature", acted(forge, seq, later_ms=0))
    forge, seq = given()
    acted(forge, seq).add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    yield from both("under an authority that is ended afterwards", "ok", forge)
    forge, seq = given()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    yield from both("under the end of an authority", "signature", acted(forge, seq + 1))
    forge, seq = given()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=1)
    yield from both("under an authority while another entry is ended", "ok", acted(forge, seq))
    forge, seq = given()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, authority(), ref=seq)
    yield from both("under an authority to which another refers", "ok", acted(forge, seq))
    gone = base().add(ME, EntryKind.AUTHORITY, DAEMON, authority(), tombstone=True)
    seq = len(gone.chains[ME])
    acted(gone, seq, by="bank").add(ME, EntryKind.ERASURE, BANK)
    yield from both("under an authority that is gone", "ok", gone)


def windows() -> Iterator[Vector]:
    """Yield acts before, in and after the window of an authority."""
    now_ms = given()[0].time_ms
    for name, changed, after_ms, want in (
        ("one before its start", {"start_time_ms": now_ms + 10}, 9, "signature"),
        ("at its start", {"start_time_ms": now_ms + 10}, 10, "ok"),
        ("at its entry, whose start is earlier", {"start_time_ms": 1}, 0, "ok"),
        ("one before its end", {"end_time_ms": now_ms + 10}, 9, "ok"),
        ("at its end", {"end_time_ms": now_ms + 10}, 10, "signature"),
        ("after an end before 1970, which is none", {"end_time_ms": -1}, 5, "ok"),
        ("with a start before 1970", {"start_time_ms": -1}, 5, "ok"),
    ):
        forge, seq = given(authority(**changed))
        yield from both(name, want, acted(forge, seq, later_ms=after_ms))


def birthdays() -> Iterator[Vector]:
    """Yield acts for a minor beside the 18th birthday, at midnight in Seoul."""
    for born, grown in (
        ("2008-11-27", date(2026, 11, 27)), ("2012-02-29", date(2030, 3, 1)), ("2012-02-28", date(2030, 2, 28)),
        ("2014-02-28", date(2032, 2, 28)), ("2014-03-01", date(2032, 3, 1)), ("2020-12-31", date(2038, 12, 31)),
    ):  # fmt: skip
        end_ms = int(datetime(grown.year, grown.month, grown.day, tzinfo=UTC).timestamp()) * 1000 - SEOUL_MS
        for by_ms, want in ((-1, "ok"), (0, "signature"), (1, "signature")):
            forge, seq = given(authority(reason=st.AUTHORITY_REASON_MINOR, birth_date=born, verified_by=3))
            ahead_ms = end_ms + by_ms - forge.time_ms
            if ahead_ms >= 0:
                beside = acted(forge, seq, later_ms=ahead_ms)
                yield from both(f"born {born}, {by_ms} ms after the birthday", want, beside)
    for born in ("", "2012-02-30", "2012-13-01", "2012-99-05", "2012-00-10", "2012-02-00", "2012-2-28", "2012-02",
                 "9990-01-01", "9982-01-01", "0000-01-01", "2012-02-28x", "2012-02-28\n", "2012-W09-2", "+012-02-28",
                 "20120228", "２０１２-02-28", "1900-01-01", "1900-02-29"):  # fmt: skip
        forge, seq = given(authority(reason=st.AUTHORITY_REASON_MINOR, birth_date=born))
        yield from both(f"born `{born}`", "signature", acted(forge, seq))
    for born in ("9981-12-31", "9980-02-29"):
        forge, seq = given(authority(reason=st.AUTHORITY_REASON_MINOR, birth_date=born))
        yield from both(f"born {born}, the last year", "ok", acted(forge, seq))
    forge, seq = given(authority(birth_date="2012-02-30"))
    yield from both("a birth date of somebody who is no minor", "ok", acted(forge, seq))
    minor = {"reason": st.AUTHORITY_REASON_MINOR, "birth_date": "2020-02-28"}
    now_ms = given()[0].time_ms
    for after_ms, want in ((9, "ok"), (10, "signature")):
        forge, seq = given(authority(end_time_ms=now_ms + 10, **minor))
        yield from both(f"a minor, {after_ms} ms, stated end", want, acted(forge, seq, later_ms=after_ms))


def not_understood() -> Iterator[Vector]:
    """Yield entries of a later version. Nothing follows from them."""
    forge, seq = given(authority(participant_id="other") + FOREIGN_FIELD)
    yield from both("an authority of a later version", "ok", acted(forge, seq))
    forge, seq = given(b"\xff")
    yield from both("an authority that does not decode", "ok", acted(forge, seq))
    forge, seq = given()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended() + FOREIGN_FIELD, ref=seq)
    yield from both("an authority whose end is of a later version", "ok", acted(forge, seq))
    for kind in KINDS:
        for name, more in (("of a later version", FOREIGN_FIELD), ("that does not decode", b"\xff")):
            forge, seq = given()
            forge.later().add(ME, kind, DAEMON, act(kind, seq, "bank") + more)
            yield from both(f"{kind.name} {name}", "ok", forge)
    second = st.AuthorityStatement(participant_id="guardian").SerializeToString()
    forge, seq = given(authority(participant_id="other") + second)
    yield from both("an authority that names two, the last counts", "ok", acted(forge, seq))
    forge, seq = given(authority(acts=[]) + b"\x20\x01")
    yield from both("an authority with an act that is not packed", "ok", acted(forge, seq))


MOTHER, FATHER = ed25519.KeyPair(b"\x31" * 32), ed25519.KeyPair(b"\x32" * 32)


def mothers_key(seq: int, key: ed25519.KeyPair = MOTHER, **changed: Any) -> bytes:
    return st.KeyStatement(key=key.public_key, authority_seq=seq, **changed).SerializeToString(deterministic=True)


def pinned(forge: Forge | None = None, key: ed25519.KeyPair = MOTHER, **changed: Any) -> tuple[Forge, int]:
    """Return a ledger in which an authority pins a key, which a KEY entry puts in force; and the authority's seq."""
    stated = authority(**{"participant_id": "", "key": key.public_key, **changed})
    forge, seq = given(stated, forge)
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, key))
    return forge, seq


def keys() -> Iterator[Vector]:
    """Yield what is signed with the key that an authority pins, or should be."""
    for kind in KINDS:
        forge, seq = pinned()
        signed = acted(forge, seq, kind, by="", author=MOTHER)
        yield from both(f"{kind.name} signed by the representative", "ok", signed)
        forge, seq = pinned(acts=[])
        signed = acted(forge, seq, kind, by="", author=MOTHER)
        yield from both(f"{kind.name} signed by a representative without its act", "signature", signed)
    for by in ("", "hospital", "guardian"):
        forge, seq = pinned()
        yield from both(f"under a pinned key, attested by `{by}`", "signature", acted(forge, seq, by=by))
    forge, seq = pinned()
    yield from both("under a pinned key, signed by the person", "signature", acted(forge, seq, by="", author=CITIZEN))
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
    yield from both("a pinned key that no KEY puts in force", "signature", acted(forge, seq, by="", author=MOTHER))
    forge, seq = pinned()
    yield from both("a pinned key, naming nothing", "signature", acted(forge, 0, by="", author=MOTHER))
    forge, seq = pinned()
    _, other = pinned(forge.later(), FATHER)
    yield from both("a pinned key, naming another's authority", "signature", acted(forge, other, by="", author=MOTHER))
    forge, seq = pinned()
    elsewhere = bytes([7]) * 32
    forge.later().add(elsewhere, EntryKind.ENROL, DAEMON).add(elsewhere, EntryKind.AUTHORITY, DAEMON, authority())
    forge.add(elsewhere, EntryKind.GRANT, MOTHER, act(EntryKind.GRANT, 2, ""))
    forge.chains[ME], forge.chains[elsewhere] = forge.chains[ME], forge.chains[elsewhere]
    yield history_vector(
        "representatives: a pinned key in the chain of another person", "signature", _of(forge, elsewhere),
        tag=b64(elsewhere),
    )  # fmt: skip
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.SERVED, MOTHER, st.ServedStatement(notice_id="n").SerializeToString())
    yield from both("SERVED signed by a representative, naming nothing", "signature", forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.OUTCOME, MOTHER, st.OutcomeStatement(status=1).SerializeToString())
    yield from both("OUTCOME signed by a representative", "signature", forge)
    for name, payload, ref_of, want in (
        ("the end of the authority", ended(), 0, "ok"),
        ("the end of another authority", ended(), 1, "signature"),
        ("another authority", authority(), None, "signature"),
    ):
        forge, seq = pinned()
        ref = 0 if ref_of is None else seq - ref_of
        forge.later().add(ME, EntryKind.AUTHORITY, MOTHER, payload, ref=ref)
        yield from both(f"{name}, signed by the representative", want, forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.AUTHORITY, MOTHER, ended(), ref=seq)
    yield from both("a pinned key after the end", "signature", acted(forge, seq, by="", author=MOTHER))
    forge, seq = pinned(participant_id="guardian")
    yield from both("an authority with both forms, attested", "signature", acted(forge, seq))
    for capacity, want in ((8, "ok"), (9, "signature"), (-1, "signature")):
        forge, seq = given(authority(capacity=capacity))
        yield from both(f"an authority in capacity {capacity}", want, acted(forge, seq))
    forge, seq = pinned()
    known = act(EntryKind.GRANT, seq, "") + FOREIGN_FIELD
    yield from both("a GRANT of a later version, signed by the representative", "ok",
                    forge.later().add(ME, EntryKind.GRANT, MOTHER, known))  # fmt: skip
    forge, seq = pinned()
    group = act(EntryKind.GRANT, seq, "") + b"\xfb\x3f\xfb\x3f\xfc\x3f\xfc\x3f"
    yield from both("a GRANT with groups, signed by the representative", "ok",
                    forge.later().add(ME, EntryKind.GRANT, MOTHER, group))  # fmt: skip
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.GRANT, MOTHER, act(EntryKind.GRANT, seq, "") + b"\xff")
    yield from both("a GRANT that does not decode, signed by the representative", "signature", forge)
    forge, seq = pinned()
    forge.later().add(ME, 99, MOTHER, b"")
    yield from both("an entry of a later version, signed by the representative", "any", forge)
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq) + FOREIGN_FIELD)
    signed = acted(forge, seq, by="", author=MOTHER)
    yield from both("a pinned key in a KEY of a later version", "unknown_key", signed)


def _of(forge: Forge, tag: bytes) -> Any:
    """Return the history of one of two persons, without the chain of the other."""
    document = to_document(forge.proof(tag))
    first, *others = document["histories"]
    return {**document, "histories": [first, *(one for one in others if one["public_name"])]}


def key_changes() -> Iterator[Vector]:
    """Yield KEY entries of representatives."""
    for name, made, author, want in (
        ("another key, signed by the representative", {"key": FATHER}, MOTHER, "ok"),
        ("another key, stated by the daemon", {"key": FATHER}, DAEMON, "ok"),
        ("another key, signed by the person", {"key": FATHER}, CITIZEN, "signature"),
        ("another key, signed by a participant", {"key": FATHER}, BANK, "signature"),
        ("the pinned key retired by itself", {"retired": True}, MOTHER, "ok"),
        ("the pinned key retired by the person", {"retired": True}, CITIZEN, "signature"),
    ):
        forge, seq = pinned()
        fields: dict[str, Any] = made
        forge.later().add(ME, EntryKind.KEY, author, mothers_key(seq, **fields))
        yield from both(f"keys: {name}", want, forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.KEY, MOTHER, mothers_key(seq, FATHER)).later()
    forge.add(ME, EntryKind.KEY, FATHER, mothers_key(seq, retired=True))
    yield from both("keys: a new key in place of the old", "ok", acted(forge, seq, by="", author=FATHER))
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, retired=True))
    yield from both("keys: a retired key", "signature", acted(forge, seq, by="", author=MOTHER))
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.KEY, MOTHER, key_payload(FATHER.public_key))
    yield from both("keys: a key of the person, signed by the representative", "signature", forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.KEY, MOTHER, key_payload(CITIZEN.public_key, retired=True))
    yield from both("keys: a key of the person retired by the representative", "signature", forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.KEY, DAEMON, key_payload(MOTHER.public_key, retired=True))
    yield from both("keys: retired as the person's", "ok", acted(forge, seq, by="", author=MOTHER))
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, FATHER))
    yield from both("keys: the first is not the pinned one", "signature", forge)
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, retired=True))
    yield from both("keys: the first retires the pinned one", "signature", forge)
    forge, seq = given()
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq))
    yield from both("keys: of an authority of a participant", "signature", forge)
    for name, at in (("an entry of another kind", 1), ("itself", 3), ("an entry to come", 9)):
        forge = base().add(ME, EntryKind.KEY, DAEMON, mothers_key(at))
        yield from both(f"keys: of {name}", "signature", forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    forge.later().add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, retired=True))
    yield from both("keys: retired after the end", "ok", forge)
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    forge.later().add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, FATHER))
    yield from both("keys: put in force after the end", "signature", forge)
    forge, seq = pinned(forge=base(), end_time_ms=base().time_ms + 10)
    forge.later(10).add(ME, EntryKind.KEY, DAEMON, mothers_key(seq, FATHER))
    yield from both("keys: put in force at the end of the window", "signature", forge)
    forge = base().add("participant/shop", EntryKind.KEY, DAEMON, mothers_key(0))
    forge.later().add("participant/shop", EntryKind.KEY, DAEMON, mothers_key(1, FATHER))
    forge.later().add(ME, EntryKind.SERVED, FATHER)
    yield from both("keys: of a participant, with an authority", "signature", forge)
    forge, seq = pinned()
    request = b"r" * 16
    forge.later().add(ME, EntryKind.GRANT, MOTHER, act(EntryKind.GRANT, seq, ""), request_id=request)
    forge.later().add(ME, EntryKind.GRANT, MOTHER, act(EntryKind.GRANT, seq, ""), request_id=request)
    yield from both("keys: a statement recorded twice", "proof", forge)


def readings() -> Iterator[Vector]:
    """Yield READ entries of representatives."""
    for name, changed, reader, want in (
        ("with the act", {"acts": [5]}, "guardian", "ok"),
        ("without the act", {"acts": [1, 2, 3, 4, 6]}, "guardian", "signature"),
        ("by another", {"acts": [5]}, "hospital", "signature"),
        ("by nobody", {"acts": [5]}, "", "signature"),
        ("of a relative", {"acts": [5], "capacity": 5, "reason": 3}, "guardian", "ok"),
        ("by an app for a key", {"acts": [5], "participant_id": "", "key": MOTHER.public_key}, "app", "ok"),
    ):
        forge, seq = given(authority(**changed))
        read = st.ReadStatement(reader=reader, scope=1, authority_seq=seq)
        forge.later().add(ME, EntryKind.READ, DAEMON, read.SerializeToString(deterministic=True))
        yield from both(f"READ {name}", want, forge)
    forge, seq = given(authority(acts=[5]))
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    read = st.ReadStatement(reader="guardian", scope=1, authority_seq=seq)
    yield from both("READ after the end", "signature",
                    forge.later().add(ME, EntryKind.READ, DAEMON, read.SerializeToString()))  # fmt: skip


def in_parts() -> Iterator[Vector]:
    """Yield acts under an authority of an earlier part: as news to who holds this part, and as the next part."""
    death = authority(capacity=5, reason=st.AUTHORITY_REASON_DECEASED, acts=[5])
    for name, want, changed, between, last in (
        ("attested by the representative", "ok", {}, None, (EntryKind.GRANT, "guardian")),
        ("attested by another", "signature", {}, None, (EntryKind.GRANT, "hospital")),
        ("without the act", "signature", {"acts": [2]}, None, (EntryKind.GRANT, "guardian")),
        ("after the end", "signature", {}, (ended(), True), (EntryKind.GRANT, "guardian")),
        ("an agent, after the death", "signature", {"capacity": 2}, (death, False), (EntryKind.GRANT, "guardian")),
        ("a guardian, after the death", "ok", {}, (death, False), (EntryKind.GRANT, "guardian")),
    ):
        forge, seq = given(authority(**changed))
        if between is not None:
            forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, between[0], ref=seq if between[1] else 0)
        yield from _after_parts(f"in parts: {name}", want, forge, act(last[0], seq, last[1]))
    for name, want, payload, author in (
        ("a key replaced by the representative", "ok", {"key": FATHER}, MOTHER),
        ("a key retired", "ok", {"retired": True}, MOTHER),
    ):
        forge, seq = pinned()
        changed_key = mothers_key(seq, **payload)  # type: ignore[arg-type]  # of several types
        yield from _after_parts(f"in parts: {name}", want, forge, changed_key, EntryKind.KEY, author)
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
    yield from _after_parts("in parts: the first key is not the pinned one", "signature", forge,
                            mothers_key(seq, FATHER), EntryKind.KEY)  # fmt: skip
    forge, seq = pinned()
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(), ref=seq)
    yield from _after_parts("in parts: a key after the end", "signature", forge, mothers_key(seq, FATHER),
                            EntryKind.KEY)  # fmt: skip
    yield from first_keys_in_parts()


def first_keys_in_parts() -> Iterator[Vector]:
    """Yield KEY entries after an earlier part that has other entries after the AUTHORITY, and after one with a gap."""
    for name, key, want in (("the pinned one", MOTHER, "ok"), ("not the pinned one", FATHER, "signature")):
        for of_later in (False, True):
            forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
            first = [person_document(forge)] if of_later else []
            if of_later:
                forge.grown = forge.leaves
            for _ in range(3):
                forge.add(ME, EntryKind.ACCESS, DAEMON)
            parts = "three parts" if of_later else "parts"
            yield from _after_parts(f"in {parts}: the first key is {name}, other entries before it", want, forge,
                                    mothers_key(seq, key), EntryKind.KEY, before=first)  # fmt: skip
    for name, more in (("of a later version", FOREIGN_FIELD), ("that does not decode", b"\xff")):
        forge, seq = given(authority(participant_id="", key=MOTHER.public_key))
        forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq) + more).add(ME, EntryKind.ACCESS, DAEMON)
        yield from _after_parts(f"in parts: a key after a KEY {name}", "ok", forge, mothers_key(seq, FATHER),
                                EntryKind.KEY)  # fmt: skip
    # The first KEY is pruned between two readings.
    forge, seq = given(authority(participant_id="", key=MOTHER.public_key), base(first_payload()))
    first = [person_document(forge)]
    forge.grown = forge.leaves
    forge.add(ME, EntryKind.KEY, DAEMON, mothers_key(seq)).add(ME, EntryKind.ACCESS, DAEMON)
    forge.time_ms = STATED_MS
    forge.add("ledger", EntryKind.LEDGER, DAEMON, pruning())
    yield from _after_parts("in three parts: a key after a gap", "ok", forge, mothers_key(seq, FATHER), EntryKind.KEY,
                            before=first, pruned=1)  # fmt: skip


def _after_parts(
    name: str, want: str, forge: Forge, payload: bytes, kind: EntryKind = EntryKind.GRANT,
    author: ed25519.KeyPair = DAEMON, before: Sequence[Document] = (), pruned: int = 0,
) -> Iterator[Vector]:  # fmt: skip
    """Yield an entry that follows what *forge* has so far: the reader holds that, or has read it as a part.

    *before*: histories that the reader read before that. *pruned*: how many of the entries after them are gone.
    """
    documents = [*before, person_document(forge)]
    forge.grown = forge.leaves
    forge.later().add(ME, kind, author, payload)
    documents.append(person_document(forge))
    counts = [one["histories"][0]["count"] for one in documents]
    parts = [documents[0], *(document_after(later, earlier) for earlier, later in pairwise(documents))]
    most = [counts[0], *(later - earlier for earlier, later in pairwise(counts))]
    if pruned:
        chain, *others = parts[1]["histories"]
        kept = {**chain, "first_seq": chain["first_seq"] + pruned, "entries": chain["entries"][pruned:]}
        parts[1], most[1] = {**parts[1], "histories": [kept, *others]}, most[1] - pruned
    under = {"before": [b64(encode(one)) for one in parts[:-1]], "tag": b64(ME)}
    yield history_vector(f"representatives: {name}: held", want, parts[-1], **under)
    yield history_vector(f"representatives: {name}", want, parts[-1], most=[*most[:-1], 0], **under)


def the_dead() -> Iterator[Vector]:
    """Yield acts of agents and others after the death of the person."""
    death = {"capacity": 5, "reason": st.AUTHORITY_REASON_DECEASED, "acts": [5]}
    for name, capacity, want in (("an agent", 2, "signature"), ("a guardian", 1, "ok")):
        forge, seq = given(authority(capacity=capacity))
        forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, authority(**death))
        yield from both(f"{name} after the death", want, acted(forge, seq))
        forge, seq = given(authority(capacity=capacity))
        acted(forge, seq).later().add(ME, EntryKind.AUTHORITY, DAEMON, authority(**death))
        yield from both(f"{name} before the death", "ok", forge)
    forge, seq = given(authority(capacity=2))
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, authority(**death) + FOREIGN_FIELD)
    yield from both("an agent after what a later version states", "ok", acted(forge, seq))
    forge, seq = given(authority(capacity=2))
    forge.later().add(ME, EntryKind.AUTHORITY, DAEMON, ended(reason=2), ref=1)
    yield from both("an agent after an end that states a death", "ok", acted(forge, seq))


def mutated() -> Iterator[Vector]:
    """Yield statements of a representative whose payload is changed before it is signed: readers decode alike."""
    pick = random.Random("payloads of representatives")
    for number in range(160):
        forge, seq = pinned(acts=[*CONSENTING, 5])
        kind, payload, ref = pick.choice([
            *((kind, act(kind, seq, ""), 0) for kind in KINDS),
            (EntryKind.KEY, mothers_key(seq, FATHER), 0),
            (EntryKind.AUTHORITY, ended(), seq),
            (EntryKind.SERVED, st.ServedStatement(notice_id="n", authority_seq=seq).SerializeToString(), 0),
        ])  # fmt: skip
        changed = bytearray(payload)
        for _ in range(pick.choice([1, 1, 2, 3])):
            at = pick.randrange(len(changed) + 1)
            kept = changed[at : at + pick.choice([0, 1])]
            changed[at : at + len(kept)] = pick.choice([b"", b"\0", bytes([pick.randrange(256)]), kept + kept])
        author = pick.choice([MOTHER, MOTHER, MOTHER, DAEMON])
        forge.later().add(ME, kind, author, bytes(changed), ref=ref)
        yield from both(f"changed payload {number}", "any", forge)
