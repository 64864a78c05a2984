"""Credentials: the two files and their writers, ends, revocations, and the day of last use."""

import hashlib
import itertools
import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cases.certificates import make_authority, make_certificate
from cases.fakes import HANG_S, FakeClock
from consentd.core.pruned import DAY_MS
from consentd.cosigning.keyfiles import write_private
from consentd.errors import (
    AlreadyExistsError,
    DeniedError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    StorageError,
)
from consentd.service import credentials as module
from consentd.service.auth import (
    Credential,
    CredentialKind,
    format_credential,
    format_lines,
    is_label,
    parse_lines,
    token_hash,
)
from consentd.service.credentials import Credentials
from consentd.service.operator_roles import ALL_ROLES, NO_ROLES, OperatorRole, Roles, check_may_give

MAIN, HASH = "operator/main", b"\x0c" * 32
FILE = Path("file")


class Case:
    """A directory with both files, and the credentials as a daemon holds them. ``again`` opens them anew."""

    def __init__(self, directory: Path, *, has_certificates: bool = False) -> None:
        self.path, self.issued_path = directory / "credentials", directory / "issued-credentials"
        self.clock = FakeClock()
        self._has_certificates = has_certificates
        self.later: list[Callable[[], None]] = []
        write_private(self.path, format_credential("first", MAIN))
        self.credentials = self._open()

    def _open(self) -> Credentials:
        return Credentials(
            self.path, self.issued_path, clock=self.clock, has_certificates=self._has_certificates,
            later=self.later.append,
        )  # fmt: skip

    def again(self) -> Credentials:
        """Return the credentials after a restart of the daemon."""
        self.credentials.close()
        self.credentials = self._open()
        return self.credentials

    def caller(self, token: str) -> str:
        return self.credentials.authenticate([("authorization", f"Bearer {token}")], None).caller

    def reason(self, token: str) -> str:
        return self.credentials.refusal([("authorization", f"Bearer {token}")], None).reason

    def add(self, caller: str = "clinic-b", **more: object) -> tuple[Credential, str]:
        roles = ALL_ROLES if caller.startswith("operator/") else NO_ROLES
        fields = {"operator": MAIN, "request_id": os.urandom(16), "roles": roles, **more}
        return self.credentials.add(caller, **fields)  # type: ignore[arg-type]

    def id_of(self, token: str) -> str:
        (found,) = (one.id for one, _ in self.credentials.all() if one.hash == token_hash(token))
        return found


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


# -- adding ---------------------------------------------------------------------------------------------------


def test_a_token_that_is_added_is_valid_at_once_and_after_a_restart(case: Case) -> None:
    added, token = case.add("clinic-b", label="gateway 2 # 한글", end_ms=case.clock.wall_ms() + DAY_MS)
    assert case.caller(token) == "clinic-b"
    assert (added.created_by, added.created_ms, added.kind) == (MAIN, case.clock.wall_ms(), CredentialKind.TOKEN)
    assert case.issued_path.stat().st_mode & 0o777 == 0o600
    assert token not in case.issued_path.read_text() + case.path.read_text() + repr(added)
    assert added.hash not in repr(added)
    before = case.credentials.all()
    case.again()
    assert case.credentials.all() == before
    assert case.caller(token) == "clinic-b"
    assert case.caller("first") == MAIN


def test_a_certificate_is_added_by_its_fingerprint_once(tmp_path: Path) -> None:
    case = Case(tmp_path)
    certificate = make_certificate(make_authority(), "clinic-b")
    found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.pem)).digest()
    added, token = case.add(certificate_hash=found)
    assert (token, added.kind) == ("", CredentialKind.CERTIFICATE)
    assert case.credentials.authenticate([], certificate.pem.encode()).caller == "clinic-b"
    for caller in ("clinic-b", "er"):
        with pytest.raises(AlreadyExistsError):
            case.add(caller, certificate_hash=found)
    case.credentials.revoke(added.id, operator=MAIN)
    assert case.credentials.authenticate([], certificate.pem.encode()).caller == ""
    with pytest.raises(AlreadyExistsError):
        case.add(certificate_hash=found)


def test_a_repeat_gets_a_new_token_for_the_same_credential_and_the_first_is_void(case: Case) -> None:
    asked = {"request_id": b"\1" * 16, "label": "night"}
    (first, lost), before_ms = case.add(**asked), case.clock.wall_ms()
    case.clock.advance(5)
    case.again()  # a repeat may come after a restart
    second, token = case.add(**asked)
    assert (second.id, second.created_ms) == (first.id, before_ms)
    assert (case.caller(lost), case.caller(token)) == ("", "clinic-b")
    with pytest.raises(PreconditionError) as used:
        case.add(**asked)  # somebody has the token now
    assert used.value.reason == "REQUEST_ID_REUSED"
    for other in ({"label": "day"}, {"end_ms": case.clock.wall_ms() + 1}, {"certificate_hash": HASH}):
        with pytest.raises(PreconditionError) as reused:
            case.add(**{**asked, **other})
        assert reused.value.reason == "REQUEST_ID_REUSED"
    third, _ = case.add(**asked, operator="operator/night")  # request_ids are each operator's own
    assert third.id != first.id
    case.credentials.revoke(third.id, operator=MAIN)
    with pytest.raises(PreconditionError):
        case.add(**asked, operator="operator/night")
    same, _ = case.add(request_id=b"\2" * 16, certificate_hash=HASH)
    assert case.add(request_id=b"\2" * 16, certificate_hash=HASH) == (same, "")


@pytest.mark.parametrize(
    ("caller", "fields"),
    [
        *((caller, {}) for caller in (
            "", "operator", "operator/", "Clinic", "clinic b", "clinic-b\n", "clinic\0b", "operator/a/b", "subject",
            "scraper/", "병원", "../x", "clinic-b id=" + "0" * 32, "#", "x" * 64,
        )),
        ("clinic-b", {"label": "two\nlines"}), ("clinic-b", {"label": "x" * 101}), ("clinic-b", {"label": "\u202e"}),
        ("clinic-b", {"end_ms": -1}), ("clinic-b", {"end_ms": 1}), ("clinic-b", {"end_ms": 1 << 62}),
        ("clinic-b", {"certificate_hash": b"short"}), ("clinic-b", {"request_id": b""}),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_and_writes_nothing(case: Case, caller: str, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        case.add(caller, **fields)
    assert not case.issued_path.exists()


@pytest.mark.parametrize("shown", [" {}", "{} ", "{}\n", "{}\0", "Bearer {}", "", "{}, {}"])
def test_a_token_counts_as_it_is_alone(case: Case, shown: str) -> None:
    _, token = case.add()
    assert case.caller(shown.format(token, token)) == ""
    assert case.credentials.authenticate([("authorization", token)], None).caller == ""
    assert case.credentials.authenticate([("authorization", b"Bearer " + token.encode())], None).caller == ""


# -- ends and revocations -------------------------------------------------------------------------------------


def test_an_expired_credential_is_refused_with_its_reason(case: Case) -> None:
    end_ms = case.clock.wall_ms() + 10
    _, token = case.add(end_ms=end_ms)
    assert case.credentials.next_end_s() == end_ms / 1000
    case.clock.advance(9)
    assert case.caller(token) == "clinic-b"
    case.clock.advance(1)
    assert (case.caller(token), case.reason(token)) == ("", "CREDENTIAL_EXPIRED")
    assert case.credentials.next_end_s() != case.credentials.next_end_s()  # NaN
    case.credentials.revoke(case.id_of(token), operator=MAIN)
    assert case.reason(token) == case.reason("no such token") == "UNAUTHENTICATED"


def test_a_line_of_the_file_may_state_its_end(case: Case) -> None:
    write_private(case.path, f"token {token_hash('old')} clinic-b expires=2020-01-01\n", append=True)
    write_private(case.path, f"token {token_hash('new')} clinic-b expires=2999-01-01T00:00:00Z label=x\n", append=True)
    assert case.credentials.reload() == (2, 0)
    assert (case.caller("old"), case.reason("old"), case.caller("new")) == ("", "CREDENTIAL_EXPIRED", "clinic-b")


def test_what_is_revoked_stays_revoked_whatever_is_written_into_the_file(case: Case) -> None:
    write_private(case.path, format_credential("b", "clinic-b"), append=True)
    case.credentials.reload()
    revoked = case.credentials.revoke(case.id_of("b"), operator=MAIN)
    assert (revoked.revoked_by, revoked.revoked_ms) == (MAIN, case.clock.wall_ms())
    assert case.caller("b") == ""
    written = case.issued_path.read_bytes()
    case.clock.advance(1)
    assert case.credentials.revoke(revoked.id, operator="operator/other") == revoked
    assert case.issued_path.read_bytes() == written
    for _ in range(2):
        write_private(case.path, format_credential("b", "clinic-b"), append=True)
        case.credentials.reload()
        assert (case.caller("b"), case.again().reload()) == ("", (1, 0))
    case.path.write_text(format_credential("first", MAIN))  # the line is gone, and the revocation is still listed
    case.credentials.reload()
    assert [one.revoked_by for one, _ in case.credentials.all() if one.id == revoked.id] == [MAIN]
    with pytest.raises(NotFoundError):
        case.credentials.revoke("0" * 32, operator=MAIN)


def test_the_last_credential_of_operators_cannot_be_revoked(tmp_path: Path) -> None:
    case = Case(tmp_path)
    first = case.id_of("first")
    case.add("scraper/one")
    case.add("operator/short", end_ms=case.clock.wall_ms() + 5)
    certificate, _ = case.add("operator/card", certificate_hash=HASH)
    case.clock.advance(5)
    with pytest.raises(PreconditionError) as refused:  # the others ended, operate nothing, or cannot be shown
        case.credentials.revoke(first, operator=MAIN)
    assert refused.value.reason == "LAST_OPERATOR_CREDENTIAL"
    assert case.caller("first") == MAIN
    second, token = case.add("operator/second")
    case.credentials.revoke(first, operator="operator/second")
    with pytest.raises(PreconditionError):
        case.credentials.revoke(second.id, operator="operator/second")
    case.credentials.revoke(certificate.id, operator="operator/second")
    assert case.caller(token) == "operator/second"


def test_the_last_credential_that_administers_stays_and_those_of_other_roles_end(case: Case) -> None:
    for role in (OperatorRole.RUN, OperatorRole.READ_METRICS):
        added, _ = case.add("operator/second", roles=frozenset({role}))
        with pytest.raises(PreconditionError):
            case.credentials.revoke(case.id_of("first"), operator=MAIN)
        case.credentials.revoke(added.id, operator=MAIN)
    registrar, _ = case.add("operator/second", roles=frozenset({OperatorRole.ADMINISTER}))
    case.credentials.revoke(case.id_of("first"), operator=MAIN)
    with pytest.raises(PreconditionError):
        case.credentials.revoke(registrar.id, operator=MAIN)


# -- roles ----------------------------------------------------------------------------------------------------


def roles_of(case: Case, token: str) -> Roles:
    return case.credentials.authenticate([("authorization", f"Bearer {token}")], None).roles


def test_a_credential_has_the_roles_it_was_given_also_after_a_restart(case: Case) -> None:
    assert roles_of(case, "first") == ALL_ROLES
    for size in (1, 2, 3):
        for roles in map(frozenset, itertools.combinations(OperatorRole, size)):
            _, token = case.add("operator/second", roles=roles)
            assert roles_of(case, token) == roles
            case.again()
            assert roles_of(case, token) == roles
    _, token = case.add("clinic-b")
    assert (roles_of(case, token), roles_of(case, "unknown")) == (NO_ROLES, NO_ROLES)


def test_an_operator_has_a_role_and_nobody_else_has_one(case: Case) -> None:
    for caller, roles in (("operator/x", NO_ROLES), ("clinic-b", ALL_ROLES), ("scraper/x", ALL_ROLES)):
        with pytest.raises(InvalidError):
            case.add(caller, roles=roles)
    case.add("operator/x", request_id=b"\1" * 16)
    with pytest.raises(PreconditionError) as reused:
        case.add("operator/x", request_id=b"\1" * 16, roles=frozenset({OperatorRole.RUN}))
    assert reused.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    "line",
    [
        "operator/x", "operator/x roles=", "operator/x roles=RUN,RUN", "operator/x roles=run", "operator/x roles=RUN,",
        "operator/x roles=RESTORE", "operator/x roles=RUN roles=RUN", "clinic-b roles=RUN", "scraper/x roles=RUN",
        "operator/x roles=UNSPECIFIED", "operator/x roles=RUN,ADMINISTER,RUN",
    ],
)  # fmt: skip
def test_a_line_without_roles_for_an_operator_or_with_other_ones_is_refused(line: str) -> None:
    with pytest.raises(InvalidError) as refused:
        parse_lines(f"# first\ntoken {'ab' * 32} {line}\n".encode(), FILE)
    assert "`2` of `file`" in str(refused.value)


def test_of_two_lines_about_one_credential_the_common_roles_count(case: Case) -> None:
    line = f"token {token_hash('b')} operator/b roles="
    case.path.write_text(format_credential("first", MAIN) + f"{line}RUN,ADMINISTER\n{line}RUN,READ_METRICS\n")
    case.credentials.reload()
    assert roles_of(case, "b") == {OperatorRole.RUN}
    case.credentials.revoke(case.id_of("b"), operator=MAIN)
    case.path.write_text(format_credential("first", MAIN) + f"{line}ADMINISTER\n")
    case.credentials.reload()  # what is revoked has no role to contradict
    assert case.caller("b") == ""
    assert case.again().reload() == (1, 0)
    case.path.write_text(format_credential("first", MAIN) + f"{line}ADMINISTER\n{line}RUN\n")
    with pytest.raises(InvalidError):
        case.credentials.reload()


def test_nobody_gives_a_role_that_they_do_not_have() -> None:
    run, watch, administer = (frozenset({role}) for role in OperatorRole)
    for giver in (run | administer, ALL_ROLES):
        check_may_give(giver, "operator/x", run)
        check_may_give(giver, "clinic-b", NO_ROLES)
    for roles in (run, watch, run | administer, ALL_ROLES):
        with pytest.raises(DeniedError) as refused:
            check_may_give(administer, "operator/x", roles)
        assert refused.value.reason == "ROLE_NOT_HELD"
    with pytest.raises(DeniedError):
        check_may_give(administer | run, "scraper/x", NO_ROLES)
    check_may_give(administer | watch, "scraper/x", NO_ROLES)


def test_a_certificate_of_an_operator_counts_where_clients_show_certificates(tmp_path: Path) -> None:
    case = Case(tmp_path, has_certificates=True)
    case.add("operator/card", certificate_hash=HASH)
    assert case.credentials.revoke(case.id_of("first"), operator=MAIN).revoked_ms


def test_two_operators_that_revoke_each_other_at_once_leave_one(case: Case) -> None:
    other, _ = case.add("operator/second")
    ids, refused, both = (case.id_of("first"), other.id), list[str](), threading.Barrier(2, timeout=HANG_S)

    def revoke(credential_id: str) -> None:
        both.wait()
        try:
            case.credentials.revoke(credential_id, operator=MAIN)
        except PreconditionError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=revoke, args=(each,)) for each in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert refused == ["LAST_OPERATOR_CREDENTIAL"]


# -- two writers ----------------------------------------------------------------------------------------------


def test_neither_writer_loses_a_line_of_the_other(case: Case) -> None:
    """An operator edits the file, and the daemon adds meanwhile: an editor that saves what it read before, too."""
    opened = case.path.read_text()
    tokens = {case.add(f"clinic-{number}")[1]: f"clinic-{number}" for number in range(3)}
    case.path.write_text(opened + format_credential("edited", "er"))
    tokens |= {case.add(f"later-{number}")[1]: f"later-{number}" for number in range(3)}
    case.credentials.reload()
    tokens["edited"] = "er"
    for _ in range(2):
        assert {token: case.caller(token) for token in tokens} == tokens
        case.again()
    assert case.path.read_text() == opened + format_credential("edited", "er")


def test_any_number_of_processes_append_to_the_file(case: Case) -> None:
    case.path.write_text(case.path.read_text().rstrip("\n"))  # an editor that leaves out the last line's end
    names = [f"clinic-{number}" for number in range(40)]
    threads = [
        threading.Thread(target=write_private, args=(case.path, format_credential(name, name)), kwargs={"append": True})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    case.credentials.reload()
    assert [case.caller(name) for name in names] == names
    assert case.caller("first") == MAIN


def test_garbage_in_the_file_changes_nothing_and_the_daemon_adds_on(case: Case) -> None:
    for garbage in (b"\xff\xfe", b"token", b"\0" * 500, b"token " + b"a" * 64 + b" Clinic\n"):
        case.path.write_bytes(garbage)
        with pytest.raises(InvalidError, match="`1`"):
            case.credentials.reload()
        _, token = case.add()
        assert (case.caller("first"), case.caller(token)) == (MAIN, "clinic-b")
    case.path.unlink()
    with pytest.raises(StorageError):
        case.credentials.reload()
    with pytest.raises(StorageError):
        case.again()


def test_a_credential_is_not_given_to_two_callers_by_two_files(case: Case) -> None:
    _, token = case.add("clinic-b")
    write_private(case.path, format_credential(token, "er"), append=True)
    with pytest.raises(InvalidError, match="another caller"):
        case.credentials.reload()
    assert case.caller(token) == "clinic-b"
    with pytest.raises(InvalidError):
        case.again()


# -- disks ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_not_added(case: Case) -> None:
    case.issued_path.mkdir()
    asked = {"request_id": b"\1" * 16}
    with pytest.raises(StorageError):
        case.add(**asked)
    assert len(case.credentials.all()) == 1
    case.issued_path.rmdir()
    assert case.caller(case.add(**asked)[1]) == "clinic-b"


def test_a_revocation_that_cannot_be_written_has_effect_and_is_stored_by_a_repeat(case: Case) -> None:
    added, token = case.add()
    case.issued_path.rename(case.issued_path.with_name("kept"))
    case.issued_path.mkdir()
    for _ in range(2):
        with pytest.raises(StorageError, match="repeat"):
            case.credentials.revoke(added.id, operator=MAIN)
        assert case.caller(token) == ""
    case.issued_path.rmdir()
    case.issued_path.with_name("kept").rename(case.issued_path)
    case.credentials.revoke(added.id, operator=MAIN)
    case.again()
    assert case.caller(token) == ""


def test_after_the_close_nothing_is_written(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    _, token = case.add()
    case.caller(token)
    case.credentials.close()
    written = case.issued_path.read_bytes()
    assert b"\nused " in written
    (late,) = case.later
    late()
    with pytest.raises(StorageError) as refused:
        case.add()
    assert refused.value.reason == "NOT_SERVING"
    assert case.issued_path.read_bytes() == written
    assert caplog.records == []


def test_too_many_credentials_are_refused_and_those_that_ended_are_forgotten(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ISSUED", 4)
    listed = "listed"
    write_private(case.path, format_credential(listed, "er"), append=True)
    case.credentials.reload()
    case.credentials.revoke(case.id_of(listed), operator=MAIN)
    added = [case.add() for _ in range(3)]
    with pytest.raises(PreconditionError, match="too many"):
        case.add()
    case.credentials.revoke(added[1][0].id, operator=MAIN)
    _, token = case.add()
    assert case.caller(token) == "clinic-b"
    assert added[1][0].id not in {one.id for one, _ in case.credentials.all()}
    case.again()
    assert case.caller(listed) == ""  # its line is still there, so its revocation is not forgotten


# -- last use -------------------------------------------------------------------------------------------------


def test_the_day_of_last_use_costs_one_write_and_no_call(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    added, token = case.add()

    def used() -> dict[str, int]:
        return {one.id: day for one, day in case.credentials.all() if day}

    assert used() == {}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_file", _never)
        for _ in range(5):
            case.caller(token)
            case.caller("first")
            case.caller("unknown")
    today = case.clock.wall_ms() // DAY_MS
    assert used() == {added.id: today, case.id_of("first"): today}
    assert len(case.later) == 1
    case.later.pop()()
    before = used()
    case.again()
    assert used() == before
    case.caller(token)
    assert case.later == []
    case.clock.advance(DAY_MS)
    case.caller(token)
    assert len(case.later) == 1
    assert used()[added.id] == today + 1


def _never(*_: object, **__: object) -> None:
    raise AssertionError("a call wrote a file")


def test_a_day_that_cannot_be_stored_is_logged_and_stored_later(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.caller("first")
    case.issued_path.mkdir()
    case.later.pop()()
    assert "not stored" in caplog.text
    case.issued_path.rmdir()
    case.add()
    case.again()
    assert [day for _, day in case.credentials.all() if day] == [case.clock.wall_ms() // DAY_MS]


def test_without_a_thread_the_day_is_noted(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    case.credentials._later = no_thread
    caplog.set_level(logging.ERROR)
    assert case.caller("first") == MAIN
    case.add()
    assert b"\nused " in case.issued_path.read_bytes()


# -- lines ----------------------------------------------------------------------------------------------------


LINE = f"token {'a' * 64} clinic-b"


@pytest.mark.parametrize(
    "bad",
    [
        f"{LINE} expires=tomorrow", f"{LINE} expires=0001-01-01", f"{LINE} expires=", f"{LINE} until=2027-01-01",
        f"{LINE} label=a label=b", f"{LINE} id=12", f"{LINE} by=Nobody", f"{LINE} label=%ff", f"{LINE} label=%0a",
        f"{LINE} extra", f"{LINE} =x", "used 12 2026-01-01", f"used {'0' * 32} 2026-02-30", f"{LINE.replace('a', 'A')}",
        f"{LINE} id={'0' * 32}\ntoken {'b' * 64} clinic-b id={'0' * 32}", f"{LINE}\ntoken {'a' * 64} er",
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number_alone(bad: str) -> None:
    with pytest.raises(InvalidError) as found:
        parse_lines(f"# a comment\n{bad}\n".encode(), FILE)
    assert f"`{3 if chr(10) in bad else 2}` of `file`" in str(found.value)
    assert "a" * 64 not in str(found.value)
    assert "tomorrow" not in str(found.value)
    assert found.value.__cause__ is None


@given(some.binary(max_size=200) | some.text(alphabet="token cert used a0-:=/#%\n", max_size=200).map(str.encode))
def test_any_bytes_are_lines_or_an_error_of_ours(content: bytes) -> None:
    try:
        found = parse_lines(content, FILE)
    except InvalidError:
        return
    assert parse_lines(format_lines(found).encode(), FILE) == found


@given(
    label=some.text(max_size=100).filter(is_label), created_ms=some.integers(1, 253_402_214_400_000),
    end_ms=some.integers(0, 253_402_214_400_000),
)  # fmt: skip
def test_what_is_written_is_read(label: str, created_ms: int, end_ms: int) -> None:
    one = Credential(
        kind=CredentialKind.CERTIFICATE, hash="ab" * 32, caller="scraper/x", id="cd" * 16, created_ms=created_ms,
        created_by=MAIN, end_ms=end_ms, label=label, revoked_ms=created_ms, revoked_by="operator/y",
    )  # fmt: skip
    lines = module.CredentialLines({one.key: one}, {one.id: created_ms // DAY_MS})
    assert parse_lines(format_lines(lines).encode(), FILE) == lines
