"""The table's rows are the ones that proto/table-format.md names, in the form it gives."""

import re
import struct
from pathlib import Path

from cases.authorities import put_authority
from cases.daemons import consent, question, request_id, running_daemon
from cases.erasures import put_hold
from cases.ledgers import LedgerCase
from cases.notices import publish_notice
from cases.services import add_key, proof_of, put_delegation, put_mandate, register, services
from cases.stored_rows import rows_of
from cases.writes import Raw
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.policy.subject import decode_subject
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

PAGE = (Path(__file__).resolve().parent.parent / "proto/table-format.md").read_text()
CLINIC_KEY, PERSON_KEY = KeyPair(b"\x61" * 32), KeyPair(b"\x62" * 32)
CLINIC, PERSON = CLINIC_KEY.public_key, PERSON_KEY.public_key
DOCUMENTED = set(re.findall(r"^\| `(.)` \|", PAGE, re.MULTILINE))


def test_every_row_is_documented_and_has_its_form(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        publish_notice(running, "visit")
        told = consent()
        told.notice_id, told.notice_version = "visit", 1
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=told)
        )
        running.consents.GrantConsent(request, metadata=running.as_("app"))
        publish_notice(running, "visit", 2, reconsent_by_time_ms=2**42)
        hold_seq = put_hold(running, subject, 2**42)
        authority_seq = put_authority(running, subject, participant_id="clinic-b", end_time_ms=2**42)
        put_delegation(running, "clinic-b", "app")
        put_mandate(running, "pipc")
        joined = register(running, "clinic-b", [st.PARTICIPANT_ROLE_RECIPIENT], groups=["group/b", "group/a"])
        roles, names = [st.PARTICIPANT_ROLE_RECIPIENT], ["dns:b.example"]
        left = register(running, "clinic-b", roles, groups=["group/b"], certificate_names=names)
        add_key(running, "clinic-b", CLINIC_KEY)
        adding = rs.AddKeyRequest(
            request_id=request_id(), subject=subject, attested=st.KeyStatement(key=PERSON),
            possession=proof_of(PERSON_KEY, subject),
        )  # fmt: skip
        running.registry.AddKey(adding, metadata=running.as_("app"))
        table = services(running).table
        rows = {kind: list(rows_of(table, kind).items()) for kind in sorted(DOCUMENTED)}
        decision = running.check(question(subject))
        last_ms = services(running).ledger.state.time_ms
    assert {kind for kind, found in rows.items() if not found} == {"e", "~"}
    size, root, generation, time_ms, form = struct.unpack(">Q32sQQB", rows["R"][0][1])
    assert (size, root, form) == (decision.revision.tree_size, decision.revision.root_hash, 5)
    assert (time_ms, generation > 0) == (last_ms, True)
    heartbeat_ms, mended = struct.unpack(">QQ", rows["H"][0][1])
    assert (heartbeat_ms >= time_ms, mended) == (True, 0)
    ((identifier_hash, tag),) = rows["i"]
    ((person, value),) = rows["s"]
    assert (len(identifier_hash), person) == (32, tag)
    assert [lineage.version for lineage in decode_subject(value)] == [1]
    numbers = [struct.unpack_from(">I", row)[0] for _, row in rows["p"]]
    groups = {name: struct.unpack(">I", row)[0] for name, row in rows["g"]}
    assert list(groups) == [b"group/a", b"group/b"]
    notices = dict(rows["n"])
    versions = [b"visit\0" + struct.pack(">I", version) for version in (1, 2)]
    assert [st.NoticeStatement.FromString(notices[key][4:]).version for key in versions] == [1, 2]
    first, second = (struct.unpack_from(">I", notices[key])[0] for key in versions)
    assert sorted([*numbers, *groups.values(), first, second]) == list(range(1, len(numbers) + 5))
    assert struct.unpack(">I", rows["#"][0][1]) == (len(numbers) + 4,)
    assert rows["w"] == [(struct.pack(">I", first), struct.pack(">Q", 2**42) + b"visit")]
    assert rows["t"] == [(struct.pack(">I", first), struct.pack(">Q", 1))]
    assert [lineage.notice for lineage in decode_subject(value)] == [first]
    assert rows["h"] == [(tag + struct.pack(">Q", hold_seq), struct.pack(">QB", 2**42, 1))]
    member, still = dict(rows["p"])[b"clinic-b"], (1 << 64) - 1
    memberships = [(groups[b"group/b"], joined.index, still), (groups[b"group/a"], joined.index, left.index)]
    assert struct.unpack_from(">IIQQIQQ", member, 4) == (2, *memberships[0], *memberships[1])
    assert st.ParticipantStatement.FromString(member[48:]).groups == ["group/b"]
    keys = dict(rows["k"])
    owners = {key: (owner[0], owner[9:17], owner[17:]) for key, owner in keys.items()}
    assert owners.pop(PERSON) == (3, b"\xff" * 8, tag)
    assert rows["q"] == [(tag + PERSON, b"")]
    assert owners.pop(CLINIC) == (2, b"\xff" * 8, b"clinic-b")
    assert list(owners.values()) == [(1, b"\xff" * 8, b"")]
    assert rows["o"] == [(b"clinic-b\0" + CLINIC, b"")]
    given = st.DelegationStatement.FromString(dict(rows["d"])[b"clinic-b\0app\0\1"])
    assert given.attestation.attested_by == "operator/main"
    ((key, value),) = rows["a"]
    assert key == tag + struct.pack(">Q", authority_seq)
    acts, start, *ends, ended_seq, capacity, form = struct.unpack_from(">QQQQQBB", value)
    assert (acts, ends, ended_seq, capacity, form, value[42:]) == (0b11110, [2**42] * 2, 0, 1, 0, b"clinic-b")
    assert start <= last_ms
    assert rows["x"] == [(b"dns:b.example", b"clinic-b")]
    ((auditor, mandate),) = rows["m"]
    assert (auditor, mandate[:8]) == (b"pipc", struct.pack(">Q", 2))
    assert st.MandateStatement.FromString(mandate[8:]).reason == "order 12"


def test_an_erasure_is_noted(case: LedgerCase) -> None:
    gone = case.enrol("somebody")
    assert case.table is not None
    with case.table.read() as snapshot:
        assert snapshot.last_erasure() is None
    index = case.ledger.state.size
    case.write(Raw(kind=EntryKind.ERASURE, tag=gone.tag))
    assert list(rows_of(case.table, "e").values()) == [struct.pack(">Q", index)]
    with case.table.read() as snapshot:
        assert snapshot.last_erasure() == index
