"""Who may sign a participant's keys, and who a mandate: with all that commits made to fit."""

from collections.abc import Iterator
from typing import Any

from cases.ledgers import DAEMON
from cases.vectors_case import BANK, CITIZEN, STRANGER, Vector, evidence_vector, history_vector, to_document
from cases.vectors_forged import Forge, base, key_payload
from consentd.core import codec, ed25519
from consentd.core.kinds import EntryKind
from consentd.v1 import statement_pb2 as st

COURT = ed25519.KeyPair(b"\x41" * 32)
PIPC = ed25519.KeyPair(b"\x42" * 32)
AUTHORITY, AUDITOR = st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY, st.PARTICIPANT_ROLE_AUDITOR
FOREIGN_FIELD = b"\xf8\x3f\x01"
COURTS, AUDITORS = "participant/court", "participant/pipc"


def givers() -> Iterator[Vector]:
    """Yield all of them."""
    yield from mandates()
    yield from roles()
    yield from own_keys()


def described(name: str, roles: list[int], *, active: bool = True) -> bytes:
    return st.ParticipantStatement(
        participant_id=name, roles=roles, active=active, name={"en": name},
        attestation=st.Attestation(attested_by="operator/main"),
    ).SerializeToString()  # type: ignore[arg-type]  # fmt: skip


def begun(*described_as: bytes) -> Forge:
    """Return a ledger with a court, described by one entry each, and an auditor; both have keys."""
    forge = base()
    for payload in described_as or (described("court", [AUTHORITY]),):
        forge.add(COURTS, EntryKind.PARTICIPANT, DAEMON, payload).later()
    forge.add(COURTS, EntryKind.KEY, DAEMON, key_payload(COURT.public_key)).later()
    forge.add(AUDITORS, EntryKind.PARTICIPANT, DAEMON, described("pipc", [AUDITOR, AUTHORITY]))
    return forge.add(AUDITORS, EntryKind.KEY, DAEMON, key_payload(PIPC.public_key)).later()


def mandate(giver: str = "court", **fields: Any) -> bytes:
    stated = {"auditor": "pipc", "scope": "all", "reason": "order 12", "end_time_ms": 9, "giver": giver, **fields}
    return st.MandateStatement(**stated).SerializeToString(deterministic=True)


def both(name: str, want: str, forge: Forge, asked: str = AUDITORS) -> Iterator[Vector]:
    """Yield the history of a public chain, and the same as evidence."""
    document = to_document(forge.proof(codec.public_tag(asked)))
    document["histories"] = [chain for chain in document["histories"] if chain["public_name"]]
    history = history_vector(f"givers: {name}", want, document, public_name=asked)
    yield history
    yield evidence_vector(f"givers: {name}", want, history.content)


def mandates() -> Iterator[Vector]:
    by_operator = {"attestation": st.Attestation(attested_by="operator/main")}
    for name, want, author, payload in (
        ("by its giver", "ok", COURT, mandate()),
        ("ended by its giver", "ok", COURT, st.MandateStatement(auditor="pipc", giver="court", ended=True)
            .SerializeToString()),
        ("by the daemon, of no giver", "ok", DAEMON, mandate("", **by_operator)),
        ("by the daemon, of a giver", "signature", DAEMON, mandate()),
        ("by the daemon, of a giver and attested", "signature", DAEMON, mandate(**by_operator)),
        ("by a participant, of no giver", "signature", COURT, mandate("", **by_operator)),
        ("by another participant than its giver", "signature", BANK, mandate()),
        ("of another giver than who signs it", "signature", COURT, mandate("bank")),
        ("of a giver with a longer name", "signature", COURT, mandate("court2")),
        ("by a giver that is no authority", "signature", BANK, mandate("bank")),
        ("by the auditor itself", "signature", PIPC, mandate("pipc")),
        ("by the auditor, in the name of the court", "signature", PIPC, mandate()),
        ("by a person", "signature", CITIZEN, mandate()),
        ("by a stranger", "signature", STRANGER, mandate()),
        ("of a later version", "ok", COURT, mandate() + FOREIGN_FIELD),
        ("of a later version, by another", "signature", BANK, mandate() + FOREIGN_FIELD),
        ("that names two givers, the last signs", "ok", COURT, mandate("bank") + mandate()),
        ("that names two givers, the first signs", "signature", COURT, mandate() + mandate("bank")),
        ("by a participant, that does not decode", "signature", COURT, b"\xff"),
        ("by the daemon, that does not decode", "ok", DAEMON, b"\xff"),
    ):  # fmt: skip
        yield from both(f"a mandate {name}", want, begun().add(AUDITORS, EntryKind.MANDATE, author, payload))
    elsewhere = begun().add(COURTS, EntryKind.MANDATE, COURT, mandate())
    yield from both("a mandate in the chain of its giver", "signature", elsewhere, COURTS)
    alone = begun().add(AUDITORS, EntryKind.MANDATE, COURT, mandate())
    document = to_document(alone.proof(codec.public_tag(AUDITORS)))
    kept = [chain for chain in document["histories"] if chain["public_name"] not in ("", COURTS)]
    without = {**document, "histories": kept}
    yield history_vector("givers: without the giver's chain", "signature", without, public_name=AUDITORS)
    retired = begun().add(COURTS, EntryKind.KEY, COURT, key_payload(COURT.public_key, retired=True)).later(1)
    retired.add(AUDITORS, EntryKind.MANDATE, COURT, mandate())
    yield from both("a mandate by a retired key", "signature", retired)
    twice = begun()
    for request in (b"r" * 16, b"r" * 16):
        twice.add(AUDITORS, EntryKind.MANDATE, COURT, mandate(), request_id=request)
    yield from both("a mandate twice", "proof", twice)
    shared = begun().add("participant/bank", EntryKind.KEY, DAEMON, key_payload(COURT.public_key)).later()
    yield from both("a mandate by a key of two", "ok", shared.add(AUDITORS, EntryKind.MANDATE, COURT, mandate()))
    nameless = begun().add("participant/", EntryKind.PARTICIPANT, DAEMON, described("", [AUTHORITY]))
    nameless.add("participant/", EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key)).later()
    nameless.add(AUDITORS, EntryKind.MANDATE, STRANGER, mandate(""))
    yield from both("a mandate by a participant without a name", "signature", nameless)


def roles() -> Iterator[Vector]:
    """Yield mandates of a giver that has the role, or has not, when it signs."""
    court, bare = described("court", [AUTHORITY]), described("court", [st.PARTICIPANT_ROLE_HOLDER])
    left = described("court", [AUTHORITY], active=False)
    one_by_one = court.replace(b"\x1a\x01\x05", b"\x18\x05")  # the roles not packed: the same to protobuf
    assert one_by_one != court
    for name, want, descriptions in (
        ("has the role", "ok", (court,)), ("has another role", "signature", (bare,)),
        ("has left", "signature", (left,)), ("has come back", "ok", (left, court)),
        ("has lost the role", "signature", (court, bare)), ("got the role", "ok", (bare, court)),
        ("has two roles", "ok", (described("court", [st.PARTICIPANT_ROLE_HOLDER, AUTHORITY]),)),
        ("is described with roles one by one", "ok", (one_by_one,)),
        ("is described by a later version", "ok", (bare + FOREIGN_FIELD,)),
        ("is described by what does not decode", "ok", (b"\xff",)),
        ("is described by nothing", "signature", (b"",)),
    ):  # fmt: skip
        forge = begun(*descriptions).add(AUDITORS, EntryKind.MANDATE, COURT, mandate())
        yield from both(f"a giver that {name}", want, forge)
    unregistered = base().add(COURTS, EntryKind.KEY, DAEMON, key_payload(COURT.public_key)).later()
    unregistered.add(AUDITORS, EntryKind.MANDATE, COURT, mandate())
    yield from both("a giver that is not described", "signature", unregistered)
    for name, want, before, after in (
        ("gets the role in that millisecond", "ok", bare, court), ("loses it in that millisecond", "ok", court, bare),
        ("never has it", "signature", bare, left),
    ):  # fmt: skip
        same = begun(before).add(AUDITORS, EntryKind.MANDATE, COURT, mandate())
        yield from both(f"a giver that {name}", want, same.add(COURTS, EntryKind.PARTICIPANT, DAEMON, after))
        same.later(1).add(COURTS, EntryKind.PARTICIPANT, DAEMON, bare)
        yield from both(f"a giver that {name}, and something later", want, same)
    late = begun(bare).add(AUDITORS, EntryKind.MANDATE, COURT, mandate()).later(1)
    late.add(COURTS, EntryKind.PARTICIPANT, DAEMON, court)
    yield from both("a giver that gets the role later", "signature", late)


def own_keys() -> Iterator[Vector]:
    """Yield keys of a participant that it signs, or another."""
    new = key_payload(STRANGER.public_key)
    for name, want, tag, author in (
        ("by its owner", "ok", "participant/bank", BANK), ("by the daemon", "ok", "participant/bank", DAEMON),
        ("by another participant", "signature", COURTS, BANK),
        ("by a person", "signature", "participant/bank", CITIZEN),
        ("by a participant, in chain ledger", "signature", "ledger", BANK),
    ):  # fmt: skip
        yield from both(f"a key {name}", want, begun().add(tag, EntryKind.KEY, author, new), tag)
    retired = key_payload(BANK.public_key, retired=True)
    rolled = begun().add("participant/bank", EntryKind.KEY, BANK, new).later()
    rolled.add("participant/bank", EntryKind.KEY, STRANGER, retired).later(1)
    yield from both("a key retired by the key that follows it", "ok", rolled, "participant/bank")
    after = begun().add("participant/bank", EntryKind.KEY, BANK, retired).later(1)
    after.add("participant/bank", EntryKind.KEY, BANK, new)
    yield from both("a key by one that retired itself", "signature", after, "participant/bank")
    first = base().add("participant/shop", EntryKind.KEY, STRANGER, new)
    yield from both("a first key by itself", "signature", first, "participant/shop")
    theirs = begun().add("participant/bank", EntryKind.KEY, COURT, retired)
    yield from both("a key retired by another participant", "signature", theirs, "participant/bank")
