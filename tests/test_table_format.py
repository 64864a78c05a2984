"""The table's rows are the ones that proto/table-format.md names, in the form it gives."""

import re
import struct
from pathlib import Path

from cases.daemons import Running, question, running_daemon
from cases.services import put_delegation, put_mandate
from consentd.policy.subject import decode_subject
from consentd.v1 import statement_pb2 as st

PAGE = (Path(__file__).resolve().parent.parent / "proto/table-format.md").read_text()
DOCUMENTED = set(re.findall(r"^\| `(.)` \|", PAGE, re.MULTILINE))


def _rows(running: Running) -> dict[str, list[tuple[bytes, bytes]]]:
    rows: dict[str, list[tuple[bytes, bytes]]] = {}
    with running.daemon.service_state.services.table.read() as snapshot:  # type: ignore[union-attr]
        for key, value in snapshot.rows():
            rows.setdefault(chr(key[0]), []).append((key[1:], value))
        rows["H"] = [(b"", struct.pack(">Q", snapshot.heartbeat_ms()))]
    return rows


def test_every_row_is_documented_and_has_its_form(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        put_delegation(running, "clinic-b", "app")
        put_mandate(running, "pipc")
        rows = _rows(running)
        revision = running.check(question(subject)).revision
    assert set(rows) - {"n"} == DOCUMENTED - {"n", "g"}
    size, root, generation, form = struct.unpack(">Q32sQB", rows["R"][0][1])
    assert (size, root, form) == (revision.tree_size, revision.root_hash, 1)
    assert generation > 0
    ((identifier_hash, tag),) = rows["i"]
    ((person, value),) = rows["s"]
    assert (len(identifier_hash), person) == (32, tag)
    assert [lineage.version for lineage in decode_subject(value)] == [1]
    numbers = [struct.unpack_from(">I", row)[0] for _, row in rows["p"]]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert struct.unpack(">I", rows["#"][0][1]) == (len(numbers),)
    ((key, owner),) = rows["k"]
    assert len(key) == 32
    assert (owner[0], owner[9:17]) == (1, b"\xff" * 8)
    given = st.DelegationStatement.FromString(dict(rows["d"])[b"clinic-b\0app\0\1"])
    assert given.attestation.attested_by == "operator/main"
    ((auditor, mandate),) = rows["m"]
    assert (auditor, mandate[:8]) == (b"pipc", struct.pack(">Q", 2))
    assert st.MandateStatement.FromString(mandate[8:]).reason == "order 12"
