"""Registry, enrolments and acts of operators, signed by everybody: the daemon alone may, and of a record its owner."""

from collections.abc import Iterator, Mapping

from google.protobuf.message import Message

from cases.ledgers import DAEMON, ORIGIN
from cases.vectors_case import BANK, CITIZEN, STRANGER, Vector, b64, evidence_vector, history_vector, to_document
from cases.vectors_forged import ME, OTHER, Forge, key_payload
from cases.vectors_givers import COURT, FOREIGN_FIELD, PIPC, begun
from consentd.core import codec, ed25519
from consentd.core.kinds import EntryKind
from consentd.v1 import statement_pb2 as st

BY_OPERATOR = st.Attestation(attested_by="operator/main")
ENTRIES: Mapping[EntryKind, tuple[str | bytes, Message]] = {
    EntryKind.PARTICIPANT: ("participant/bank", st.ParticipantStatement(participant_id="bank", active=True)),
    EntryKind.VOCABULARY: ("vocabulary/own", st.VocabularyStatement(vocabulary_id="own", version=1)),
    EntryKind.NOTICE: ("notice/own", st.NoticeStatement(notice_id="own", version=1)),
    EntryKind.RULES: ("rules/realm", st.RulesStatement(realm_id="realm", version=1)),
    EntryKind.ADMINISTRATION: ("administration", st.AdministrationStatement(
        credential_added=st.CredentialAdded(credential_id="ab" * 16, caller="operator/x", roles=[st.OPERATOR_ROLE_RUN])
    )),
    EntryKind.ENROL: (OTHER, st.EnrolStatement(identifier_hash=bytes(32), scheme="test")),
}
"""An entry of each kind, and the chain to which it belongs: the participant's own, and a person's first."""
SIGNERS: Mapping[str, tuple[str, ed25519.KeyPair]] = {
    "the daemon": ("ok", DAEMON), "a participant": ("signature", BANK), "a public authority": ("signature", COURT),
    "an auditor": ("signature", PIPC), "a person": ("signature", CITIZEN), "nobody": ("signature", STRANGER),
}  # fmt: skip


def registry() -> Iterator[Vector]:
    """Yield all of them: each kind by each signer, attested and not."""
    for kind, (chain, message) in ENTRIES.items():
        payload = message.SerializeToString(deterministic=True)
        attested = payload + type(message)(attestation=BY_OPERATOR).SerializeToString()  # type: ignore[call-arg]
        for who, (want, key) in SIGNERS.items():
            if (kind, who) == (EntryKind.PARTICIPANT, "a participant"):
                want = "ok"  # the chain is its own
            yield from shown(f"{kind.name} by {who}", want, begun().add(chain, kind, key, payload), chain)
            yield from shown(f"{kind.name} by {who}, attested", want, begun().add(chain, kind, key, attested), chain)
        of_both = st.LedgerStatement(origin=ORIGIN, statement_key=BANK.public_key).SerializeToString()
        forge = begun().add("ledger", EntryKind.LEDGER, DAEMON, of_both).later()
        yield from shown(f"{kind.name} by a key of a participant and the daemon", "ok",
                         forge.add(chain, kind, BANK, payload), chain)  # fmt: skip
    yield from records()
    yield from notices()
    own = begun().add(OTHER, EntryKind.ENROL, STRANGER)
    own.add(OTHER, EntryKind.KEY, DAEMON, key_payload(STRANGER.public_key))
    yield from shown("ENROL by the person who is enrolled", "signature", own, OTHER)
    again = begun().add(ME, EntryKind.ENROL, CITIZEN)
    yield from shown("a second ENROL by the person", "signature", again, ME)


def records() -> Iterator[Vector]:
    """Yield records that a participant signs with a key that is not in force, or that is another's too."""
    chain, (_, message) = "participant/bank", ENTRIES[EntryKind.PARTICIPANT]
    payload = message.SerializeToString(deterministic=True)
    retired = begun().add(chain, EntryKind.KEY, BANK, key_payload(BANK.public_key, retired=True)).later(1)
    yield from shown("a record by a retired key", "signature", retired.add(chain, EntryKind.PARTICIPANT, BANK, payload),
                     chain)  # fmt: skip
    replaced = begun().add(chain, EntryKind.KEY, BANK, key_payload(STRANGER.public_key)).later()
    yield from shown("a record by a key that the owner added", "ok",
                     replaced.add(chain, EntryKind.PARTICIPANT, STRANGER, payload), chain)  # fmt: skip
    shared = begun().add("participant/court", EntryKind.KEY, DAEMON, key_payload(BANK.public_key)).later()
    shared.add("participant/court", EntryKind.PARTICIPANT, BANK, payload)
    yield from shown("a record by a key of two", "ok", shared, "participant/court")
    later = begun().add(chain, EntryKind.PARTICIPANT, BANK, payload + FOREIGN_FIELD)
    yield from shown("a record of a later version", "ok", later, chain)
    twice = begun()
    for request in (b"r" * 16, b"r" * 16):
        twice.add(chain, EntryKind.PARTICIPANT, BANK, payload, request_id=request)
    yield from shown("a record twice", "proof", twice, chain)


def notices() -> Iterator[Vector]:
    """Yield notices of a participant, of another and of the realm, by each who might sign them."""
    chain = "notice/own"
    own, courts, realms = (
        st.NoticeStatement(notice_id="own", version=1, participant_id=one).SerializeToString(deterministic=True)
        for one in ("bank", "court", "")
    )
    attested = own + st.NoticeStatement(attestation=BY_OPERATOR).SerializeToString()
    for name, want, key, payload in (
        ("by whose it is", "ok", BANK, own), ("by the daemon, attested", "ok", DAEMON, attested),
        ("by the daemon", "ok", DAEMON, own), ("by another participant", "signature", COURT, own),
        ("of another, by a participant", "signature", BANK, courts),
        ("of the realm, by a participant", "signature", BANK, realms), ("by a person", "signature", CITIZEN, own),
        ("by nobody", "signature", STRANGER, own), ("of a later version", "ok", BANK, own + FOREIGN_FIELD),
        ("of a later version, by another", "signature", COURT, own + FOREIGN_FIELD),
        ("that names two, the last signs", "ok", BANK, courts + own),
        ("that names two, the first signs", "signature", COURT, courts + own),
        ("by a participant, that does not decode", "signature", BANK, own + b"\xff"),
        ("by a participant, with a title that is no text", "signature", BANK, own + b"\x1a\x03\x0a\x01\xff"),
        ("by a participant, with a text of no language", "ok", BANK, own + b"\x3a\x04\x12\x02\x0a\x00"),
        ("by the daemon, that does not decode", "ok", DAEMON, b"\xff"),
    ):  # fmt: skip
        yield from shown(f"a notice {name}", want, begun().add(chain, EntryKind.NOTICE, key, payload), chain)


def shown(name: str, want: str, forge: Forge, chain: str | bytes) -> Iterator[Vector]:
    """Yield the history of a chain, and the same as evidence."""
    tag = codec.public_tag(chain) if isinstance(chain, str) else chain
    document = to_document(forge.proof(tag))
    first, *others = document["histories"]
    document["histories"] = [first, *(one for one in others if one["public_name"])]
    under = {"public_name": chain} if isinstance(chain, str) else {"tag": b64(tag)}
    history = history_vector(f"registry: {name}", want, document, **under)
    yield history
    yield evidence_vector(f"registry: {name}", want, history.content)
