"""Acts of operators are entries, which are written before the acts have effect."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.backups import section
from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, make_running, request_id, running_daemon
from cases.fakes import HANG_S
from cases.services import refusal, services
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key, write_private
from consentd.errors import DeniedError, OverloadedError, StorageError
from consentd.ledger import reads
from consentd.policy.dates import format_instant
from consentd.sequencer.loop import Sequencer
from consentd.service.auth import format_credential, make_token, token_hash
from consentd.service.credentials import Credentials
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st
from consentd_client import Client
from consentd_client.show import administration

HASH = b"\x0c" * 32
CHAIN = codec.public_tag("administration")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = make_running(tmp_path, checkpoint_interval_ms=10)
    yield made
    made.stop()


def client(running: Running, who: str = "operator") -> Client:
    return Client("", token=running.tokens[who], channel=running.channel, timeout_s=HANG_S)


def acts(running: Running) -> list[st.AdministrationStatement]:
    """Return the statements of chain `administration`, in order."""
    found = []
    for entry in reads.read_chain(services(running).ledger.store, CHAIN, 1):
        assert entry.event.kind == EntryKind.ADMINISTRATION
        assert entry.row is not None
        found.append(st.AdministrationStatement.FromString(codec.decode_statement(entry.row[33:]).payload))
    return found


def by(operator: str) -> st.Attestation:
    return st.Attestation(attested_by=operator)


def test_a_credential_is_stated_when_it_is_added_and_when_it_is_revoked(running: Running) -> None:
    roles = [st.OPERATOR_ROLE_READ_METRICS, st.OPERATOR_ROLE_RUN]
    added = client(running).add_credential("operator/x", roles=roles, expire_time_ms=4_000_000_000_000, label="night")
    card = client(running).add_credential("clinic-b", certificate_sha256=HASH)
    running.add_operator("operator/registrar", "ADMINISTER")
    client(running, "operator/registrar").revoke_credential(added.credential.credential_id)
    made, pinned, _, revoked = acts(running)  # the third states that the file has the registrar
    assert made == st.AdministrationStatement(
        credential_added=st.CredentialAdded(
            credential_id=added.credential.credential_id, caller="operator/x", roles=sorted(roles),
            expire_time_ms=4_000_000_000_000,
        ),
        attestation=by("operator/main"),
    )  # fmt: skip
    assert pinned.credential_added == st.CredentialAdded(
        credential_id=card.credential.credential_id, caller="clinic-b", is_certificate=True
    )
    assert revoked == st.AdministrationStatement(
        credential_revoked=st.CredentialRevoked(
            credential_id=added.credential.credential_id, caller="operator/x"
        ),
        attestation=by("operator/registrar"),
    )  # fmt: skip
    running.check_ledger()


def test_no_entry_has_a_token_or_the_hash_of_one(running: Running) -> None:
    added = client(running).add_credential("clinic-b")
    found = next(one for one, _ in services(running).credentials.all() if one.id == added.credential.credential_id)
    stated = b"".join(one.SerializeToString() for one in acts(running))
    assert found.id.encode() in stated
    for secret in (added.token.encode(), found.hash.encode(), bytes.fromhex(found.hash)):
        assert secret not in stated


def test_a_repeat_states_nothing_again_and_two_operators_may_use_one_id(running: Running) -> None:
    running.add_operator("operator/registrar", "ADMINISTER")
    asked = request_id()
    first = client(running).add_credential("clinic-b", request_id=asked)
    again = client(running).add_credential("clinic-b", request_id=asked)  # nobody got the first token
    other = client(running, "operator/registrar").add_credential("clinic-b", request_id=asked)
    assert first.credential.credential_id == again.credential.credential_id != other.credential.credential_id
    for _ in range(2):
        client(running).revoke_credential(first.credential.credential_id)
    client(running, "operator/registrar").revoke_credential(first.credential.credential_id)
    assert [one.WhichOneof("act") for one in acts(running)] == [
        "credentials_file_changed", "credential_added", "credential_added", "credential_revoked"
    ]  # fmt: skip
    assert [one.attestation.attested_by for one in acts(running)] == [
        "", "operator/main", "operator/registrar", "operator/main"
    ]  # fmt: skip
    running.check_ledger()


def test_what_is_refused_is_not_stated(running: Running) -> None:
    running.add_operator("operator/registrar", "ADMINISTER")
    client(running).add_credential("clinic-b", certificate_sha256=HASH)
    before = acts(running)
    for who, fields in (
        ("operator", {"caller": "clinic-b", "certificate_sha256": HASH}),
        ("operator", {"caller": "operator/x"}),
        ("operator", {"caller": "clinic-b", "expire_time_ms": 1}),
        ("operator/registrar", {"caller": "operator/x", "roles": [st.OPERATOR_ROLE_RUN]}),
        ("app", {"caller": "clinic-b"}),
    ):
        request = ad.AddCredentialRequest(request_id=request_id(), **fields)
        assert refusal(lambda who=who, request=request: running.admin.AddCredential(request, metadata=running.as_(who)))
    only = next(one for one in client(running).list_credentials() if one.caller == "operator/registrar")
    for credential_id in ("0" * 32, only.credential_id):
        with pytest.raises(DeniedError):
            client(running, "clinic-b").revoke_credential(credential_id)
    assert acts(running) == before


def test_a_rotation_of_the_vault_key_is_stated_before_it_begins(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, seen = request_id(), []
    vault = services(running).vault
    begin = vault.begin_rotation

    def begin_late() -> int:
        seen.extend(acts(running))
        return begin()

    monkeypatch.setattr(type(vault), "begin_rotation", lambda self: begin_late())
    client(running).rotate_vault_key(request_id=asked)
    client(running).rotate_vault_key(request_id=asked)
    expected = st.AdministrationStatement(
        vault_key_rotation_started=st.VaultKeyRotationStarted(), attestation=by("operator/main")
    )
    assert seen == acts(running) == [expected]
    running.check_ledger()


def test_a_backup_is_stated_and_has_its_own_entry(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section()) as running:
        made = client(running).back_up(name="one")
        assert acts(running) == [
            st.AdministrationStatement(backup_started=st.BackupStarted(), attestation=by("operator/main"))
        ]
        (entry,) = reads.read_chain(services(running).ledger.store, CHAIN, 1)
        assert entry.index < made.tree_size


def test_nothing_is_added_if_the_ledger_cannot_be_written(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    known = len(services(running).credentials.all())
    for error in (OverloadedError("too many writes wait", retry_after_ms=1), StorageError("disk is full")):

        def submit(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Sequencer, "submit", submit)
            request = ad.AddCredentialRequest(request_id=request_id(), caller="clinic-b")
            add, metadata = running.admin.AddCredential, running.as_("operator")
            assert refusal(lambda add=add, request=request, metadata=metadata: add(request, metadata=metadata))
    assert len(services(running).credentials.all()) == known
    assert acts(running) == []


def test_a_revocation_has_effect_if_the_ledger_cannot_be_written_and_a_repeat_states_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = client(running).add_credential("clinic-b")
    running.tokens["stolen"] = added.token

    def submit(*_: Any, **__: Any) -> Any:
        raise StorageError("disk is full")

    request = ad.RevokeCredentialRequest(credential_id=added.credential.credential_id)
    with monkeypatch.context() as patch:
        patch.setattr(Sequencer, "submit", submit)
        for _ in range(2):
            assert refusal(
                lambda: running.admin.RevokeCredential(request, metadata=running.as_("operator"))
            ) == "STORAGE"  # fmt: skip
    assert refusal(lambda: client_call(running, "stolen")) == "UNAUTHENTICATED"
    running.daemon.reload_credentials()
    assert refusal(lambda: client_call(running, "stolen")) == "UNAUTHENTICATED"
    assert "revoked=" in running.config.ledger.issued_credentials_path.read_text()  # so a restart knows it too
    assert len(acts(running)) == 1
    running.admin.RevokeCredential(request, metadata=running.as_("operator"))
    assert acts(running)[1].credential_revoked.credential_id == added.credential.credential_id


def write_line(running: Running, caller: str, **more: Any) -> tuple[str, str]:
    """Add a credential to the file, as a person with an editor does; return its token and its line."""
    token = make_token()
    line = format_credential(token, caller, **more)
    write_private(running.config.callers.credentials_file, line, append=True)
    return token, line


def test_a_change_of_the_credentials_file_is_stated_when_it_is_read_again(running: Running) -> None:
    path = running.config.callers.credentials_file
    running.daemon.reload_credentials()
    assert acts(running) == []  # nothing is other than at the start
    running.tokens["new"], line = write_line(running, "clinic-b")
    running.daemon.reload_credentials()
    client_call(running, "new")
    (added,) = acts(running)
    assert not added.HasField("attestation")
    (credential_id,) = added.credentials_file_changed.added_ids
    found = services(running).credentials.all()
    assert credential_id in {one.id for one, _ in found if one.caller == "clinic-b"}
    assert token_hash(running.tokens["new"]) not in str(added)
    running.daemon.reload_credentials()
    assert len(acts(running)) == 1
    path.write_text(path.read_text().replace(line.strip(), f"{line.strip()} label=night"))
    running.daemon.reload_credentials()
    assert len(acts(running)) == 1  # a label says nothing about who may call
    path.write_text(path.read_text().replace(f"{line.strip()} label=night", ""))
    running.daemon.reload_credentials()
    assert refusal(lambda: client_call(running, "new")) == "UNAUTHENTICATED"
    assert list(acts(running)[1].credentials_file_changed.removed_ids) == [credential_id]
    running.check_ledger()


def test_a_long_change_is_counted(running: Running) -> None:
    for _ in range(103):
        write_line(running, "clinic-b")
    running.daemon.reload_credentials()
    changed = acts(running)[0].credentials_file_changed
    assert (len(changed.added_ids), changed.more_count) == (100, 3)


def test_what_ends_in_the_file_ends_also_if_the_ledger_cannot_be_written_and_nothing_begins(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = running.config.callers.credentials_file
    running.tokens["old"], line = write_line(running, "clinic-b")
    running.daemon.reload_credentials()
    path.write_text(path.read_text().replace(line, ""))
    running.tokens["new"], _ = write_line(running, "clinic-b")

    def submit(*_: Any, **__: Any) -> Any:
        raise StorageError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Sequencer, "submit", submit)
        with pytest.raises(StorageError):
            running.daemon.reload_credentials()
        for who in ("old", "new"):
            assert refusal(lambda who=who: client_call(running, who)) == "UNAUTHENTICATED"
    running.daemon.reload_credentials()
    client_call(running, "new")
    assert len(acts(running)[1].credentials_file_changed.added_ids) == 1


def client_call(running: Running, who: str) -> Any:
    from consentd.v1 import registry_service_pb2 as rs

    return running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_(who))


def test_an_entry_without_the_act_is_no_fault_and_the_act_can_be_repeated(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash between the two."""
    asked = request_id()

    def fail(*_: Any) -> None:
        raise StorageError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Credentials, "_write", fail)
        request = ad.AddCredentialRequest(request_id=asked, caller="clinic-b")
        assert refusal(lambda: running.admin.AddCredential(request, metadata=running.as_("operator"))) == "STORAGE"
    assert len(acts(running)) == 1
    added = client(running).add_credential("clinic-b", request_id=asked)
    assert acts(running)[0].credential_added.credential_id == added.credential.credential_id
    assert len(acts(running)) == 1
    running.check_ledger()


def test_everybody_can_read_and_verify_what_operators_did(running: Running) -> None:
    client(running).add_credential("operator/x", roles=[st.OPERATOR_ROLE_RUN])
    running.wait_published()
    vkey = format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    run = CommandLine({"CONSENTD_TARGET": f"127.0.0.1:{running.daemon.grpc_port}"})
    shown = run("history", "--public", "administration", "--log-key", vkey, "--origin", ORIGIN, "--new", "--lang", "en")
    assert shown.status == 0
    assert "operator/main: credential added operator/x RUN" in shown.out


def test_an_act_is_described_in_one_line() -> None:
    added = st.CredentialAdded(caller="operator/x", roles=[1, 3], expire_time_ms=1_000_000_000_000)
    until = format_instant(added.expire_time_ms)
    for act, text in (
        ({"credential_added": added}, f"operator/main: credential added operator/x RUN+ADMINISTER ~ {until}"),
        ({"credential_revoked": {"caller": "clinic-b"}}, "operator/main: credential revoked clinic-b"),
        ({"vault_key_rotation_started": {}}, "operator/main: rotation of the vault key started"),
        ({"backup_started": {}}, "operator/main: backup started"),
    ):
        message = st.AdministrationStatement(**act, attestation=by("operator/main"))  # type: ignore[arg-type]
        assert administration(message, "en") == text
    changed = st.CredentialsFileChanged(added_ids=["a", "b"], removed_ids=["c"], more_count=7)
    message = st.AdministrationStatement(credentials_file_changed=changed)
    assert administration(message, "en") == "?: credentials file changed +2 -1 ±0 …7"
