"""The rows of credentials in the policy table, by which another process authenticates callers as the daemon does."""

import hashlib
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, make_running
from cases.services import services
from consentd.core.pruned import DAY_MS
from consentd.cosigning.keyfiles import write_private
from consentd.errors import StorageError
from consentd.server.daemon import Daemon
from consentd.service.auth import token_hash
from consentd.table.credential_rows import REVOKED, CredentialRow
from consentd.table.renewal import renew
from consentd.table.table import Table
from consentd.table.view import is_derived
from consentd.v1 import statement_pb2 as st
from consentd_client import Client

HASH = b"\x0c" * 32


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = make_running(tmp_path)
    yield made
    made.stop()


def rows(table: Table) -> dict[bytes, tuple[int, int, str]]:
    """Return kind and hash → end, roles and caller, as another process reads them."""
    with table.begin_read() as txn:
        found = list(txn.scan(b"u", b"v"))
    for key, value in found:
        assert value[-4:] == struct.pack(">I", zlib.crc32(key + value[:-4]))
    return {key[1:]: (*struct.unpack_from(">QB", value), value[9:-4].decode()) for key, value in found}


def of_token(token: str) -> bytes:
    return b"\1" + bytes.fromhex(token_hash(token))


def operator(running: Running) -> Client:
    return Client("", token=running.tokens["operator"], channel=running.channel)


def test_they_are_the_credentials_of_both_files(running: Running) -> None:
    table, clock = services(running).table, services(running).sequencer.clock
    ids = {"operator": "operator/main"}
    expected = {
        of_token(token): (0, 7 if name == "operator" else 0, ids.get(name, name))
        for name, token in running.tokens.items()
    }  # fmt: skip
    assert rows(table) == expected
    end_ms = clock.wall_ms() + DAY_MS
    added = operator(running).add_credential("clinic-b", expire_time_ms=end_ms)
    pinned = operator(running).add_credential("er", certificate_sha256=HASH)
    expected[of_token(added.token)] = (end_ms, 0, "clinic-b")
    assert rows(table) == {**expected, b"\2" + HASH: (0, 0, "er")}
    watch = operator(running).add_credential("operator/watch", roles=[st.OPERATOR_ROLE_READ_METRICS])
    assert rows(table)[of_token(watch.token)] == (0, 2, "operator/watch")
    for one in (added, pinned, watch):
        operator(running).revoke_credential(one.credential.credential_id)
    del expected[of_token(added.token)]
    running.check_ledger()  # `fsck` takes no row of a credential for a fault
    # A certificate that was revoked must not be accepted by the names in it.
    assert rows(table) == {**expected, b"\2" + HASH: (REVOKED, 0, "er")}


def test_a_reload_changes_them(running: Running) -> None:
    table, path = services(running).table, running.config.callers.credentials_file
    before, text = rows(table), path.read_text()
    write_private(path, f"token {'ab' * 32} clinic-b expires=2031-01-01T00:00:00Z\n", append=True)
    running.daemon.reload_credentials()
    assert rows(table) == {**before, b"\1" + b"\xab" * 32: (1_924_992_000_000, 0, "clinic-b")}
    path.write_text(text)
    running.daemon.reload_credentials()
    assert rows(table) == before


def test_a_start_writes_them_again_and_they_hold_no_secret(running: Running, tmp_path: Path) -> None:
    before = rows(services(running).table)
    services(running).sequencer.call(lambda: services(running).table.put_credentials([]))
    assert rows(services(running).table) == {}
    running.daemon.stop()
    data = b"".join(path.read_bytes() for path in running.config.table.path.iterdir())
    assert not any(token.encode() in data for token in running.tokens.values())
    running.daemon = Daemon(running.config)
    running.daemon.start()
    assert rows(services(running).table) == before
    running.channel.close()
    running.channel = grpc.insecure_channel(f"127.0.0.1:{running.daemon.grpc_port}")


def test_a_table_that_is_written_anew_has_the_last_of_them(running: Running) -> None:
    opened = services(running)
    table, changed = opened.table, list[int]()

    def revoke_all() -> None:
        """Change them while the rows are copied."""
        if not changed:
            changed.append(opened.sequencer.call(lambda: table.put_credentials([])))

    renew(table, opened.ledger.store, opened.vault, run_on_writer=opened.sequencer.call, rest=revoke_all)
    assert changed == [len(running.tokens)]
    assert rows(table) == {}


def test_the_scrub_puts_them_right(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    opened, before = services(running), rows(services(running).table)
    forged = CredentialRow(is_token=True, hash=hashlib.sha256(b"forged").digest(), caller="operator/evil", end_ms=0)
    opened.sequencer.call(lambda: opened.table.put_credentials([forged]))
    assert list(rows(opened.table).values()) == [(0, 0, "operator/evil")]
    scrubber = running.daemon._scrubber
    assert scrubber is not None
    with caplog.at_level(logging.WARNING):
        scrubber._pass()
    assert rows(opened.table) == before
    assert "scrub put credentials in the table right" in caplog.text


def test_a_ledger_that_stopped_still_revokes(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    added = operator(running).add_credential("clinic-b")
    services(running).sequencer.stop()
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError):  # the revocation has no entry
        operator(running).revoke_credential(added.credential.credential_id)
    assert "credentials are not in the table" in caplog.text
    assert services(running).credentials.authenticate(
        [("authorization", f"Bearer {added.token}")], None
    ).caller == ""  # fmt: skip


def test_other_rows_follow_from_the_ledger() -> None:
    assert not is_derived(b"H")
    assert not is_derived(b"u\1" + HASH)
    assert all(is_derived(key) for key in (b"H1", b"R", b"s" + HASH, b"v", b"t"))
