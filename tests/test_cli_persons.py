"""Persons use the command line by themselves: with a key of their own, or after a login."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import Running, make_running, request_id, serve
from cases.logins import Provider
from cases.notices import make_notice
from cases.services import new_identifier, now_ms
from consentd.core.ed25519 import KeyPair
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key, write_private
from consentd.v1 import registry_service_pb2 as rs
from consentd_client import ledger

DATA = ("--holder", "hospital-a", "--purpose", "TREAT")
CONSENT = ("--recipient", "clinic-b", "--recipient", "SUBJECT", *DATA, "--category", "CLIN")
ASK = ("--actor", "SUBJECT", *DATA, "--category", "CLIN.DX", "--action", "access")


@dataclass(frozen=True)
class World:
    """A daemon with an ID provider, and the command lines of its callers."""

    running: Running
    provider: Provider
    directory: Path
    bare: CommandLine

    def as_(self, who: str) -> CommandLine:
        return self.bare.given(CONSENTD_TOKEN=self.running.tokens[who])

    def token_file(self, person: str) -> Path:
        path = self.directory / f"{request_id().hex()}.token"
        write_private(path, self.provider.token(person.partition(":")[2], now_ms(self.running)))
        return path

    def key_file(self) -> Path:
        path = self.directory / f"{request_id().hex()}.key"
        assert self.bare("key", "new", path).status == 0
        return path

    def enrolled(self) -> tuple[str, Path, str]:
        """Enrol a person with a key; return the person, the key's file, and the tag."""
        person, path = f"mhid:{new_identifier()}", self.key_file()
        tag = self.as_("app")("enrol", person, "--key", path).out.strip()
        self.running.wait_published()
        return person, path, tag


def public_key(path: Path) -> str:
    return KeyPair(bytes.fromhex(path.read_text())).public_key.hex()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("daemon")
    provider = Provider(directory)
    running = make_running(directory, provider.config(), checkpoint_interval_ms=10)
    vkey = format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    bare = CommandLine(
        {"CONSENTD_TARGET": f"127.0.0.1:{running.daemon.grpc_port}", "CONSENTD_LOG_KEY": vkey, "LANG": "en_US.UTF-8"}
    )
    for _ in serve(running):
        yield World(running, provider, tmp_path_factory.mktemp("files"), bare)


def authors(world: World, person: str) -> list[tuple[str, str]]:
    """Return kind and author of the entries of a person, as the app reads them."""
    world.running.wait_published()
    found = world.as_("app")("history", person, "--json").objects
    return [(one["kind"], one["author"]) for one in found if one["type"] == "entry"]


def test_a_person_with_a_key_does_everything_and_signs_it(world: World) -> None:
    person, path, tag = world.enrolled()
    mine: Any = ("--subject-key", path)
    given = world.bare("grant", person, *CONSENT, *mine)
    assert given.status == 0, given.err
    consent_id = given.out.strip()
    assert world.bare("check", person, *ASK, *mine).status == 0
    assert world.bare("amend", person, consent_id, "--category", "CLIN.DX", *mine).status == 0
    for verb in ("pause", "resume", "revoke"):
        assert world.bare(verb, person, consent_id, *mine, "--tag", tag).status == 0
    assert world.bare("check", person, *ASK, *mine).status == 1
    kinds = ("GRANT", "AMEND", "PAUSE", "RESUME", "REVOKE")
    assert authors(world, person)[2:] == [(kind, "subject") for kind in kinds]
    assert world.bare("history", person, *mine, "--tag", tag).status == 0
    (shown,) = world.bare("consents", person, "--all", *mine).out.splitlines()
    assert consent_id in shown


def test_a_person_with_a_login_does_everything_on_the_word_of_its_provider(world: World) -> None:
    person = f"mhid:{new_identifier()}"
    mine: Any = ("--id-token-file", world.token_file(person))
    assert world.bare("enrol", person, *mine).status == 0
    consent_id = world.bare("grant", person, *CONSENT, *mine).out.strip()
    assert world.bare("check", person, *ASK, *mine).status == 0
    assert world.bare("amend", person, consent_id, "--category", "CLIN.DX", *mine).status == 0
    for verb in ("pause", "resume", "revoke"):
        assert world.bare(verb, person, consent_id, *mine).status == 0
    assert authors(world, person)[1:] == [
        (kind, "ledger") for kind in ("GRANT", "AMEND", "PAUSE", "RESUME", "REVOKE")
    ]
    token = Path(mine[1]).read_text()
    assert world.bare.given(CONSENTD_TOKEN=token)("history", person).status == 0


def test_a_person_reaches_nobody_else(world: World) -> None:
    person, path, tag = world.enrolled()
    other, _, other_tag = world.enrolled()
    for named in ((), ("--tag", tag), ("--tag", other_tag)):
        refused = world.bare("grant", other, *CONSENT, "--subject-key", path, *named)
        assert (refused.status, "(SUBJECT_NOT_FOUND)" in refused.err) == (2, True)
    refused = world.bare("grant", person, *CONSENT, "--subject-key", path, "--tag", other_tag)
    assert (refused.status, "(BAD_SIGNATURE)" in refused.err) == (2, True)
    assert [kind for kind, _ in authors(world, person)] == ["ENROL", "KEY"]


def test_what_a_signature_needs_is_asked_for_before_anything_is_written(world: World) -> None:
    person, path, tag = world.enrolled()
    no_pin = world.bare.given(CONSENTD_LOG_KEY="")
    grant = ("grant", person, *CONSENT)
    for words, line, more in (
        ("give its name with --origin", no_pin, ("--subject-key", path, "--tag", tag)),
        ("signature names the person's tag", no_pin, ("--subject-key", path, "--origin", "consent.test/1")),
        ("give --subject-key too", world.as_("app"), ("--tag", tag)),
        ("method", world.bare, ("--subject-key", path, "--method", "id-card")),
        ("not with both", world.bare, ("--subject-key", path, "--id-token-file", path)),
    ):
        refused = line(*grant, *more)
        assert (refused.status, words in refused.err) == (2, True), refused.err
    assert [kind for kind, _ in authors(world, person)] == ["ENROL", "KEY"]


def test_a_notice_that_the_app_showed_is_named_by_the_person_who_signs(world: World) -> None:
    person, path, _ = world.enrolled()
    notice = f"notice-{new_identifier().lower()}"
    statement = make_notice(notice)
    publish = rs.PublishNoticeRequest(request_id=request_id(), attested=statement)
    world.running.registry.PublishNotice(publish, metadata=world.running.as_("operator"))
    shown = ("--served-language", "ko", "--channel", "app")
    seq = world.as_("app")("served", person, f"{notice}@1", *shown, "--json").object["seq"]
    grant = ("grant", person, *CONSENT, "--notice", f"{notice}@1", "--subject-key", path)
    refused = world.bare(*grant, *shown)
    assert (refused.status, "--served-seq" in refused.err) == (2, True)
    assert world.bare(*grant, "--served-seq", seq).status == 0
    assert authors(world, person)[-2:] == [("SERVED", "ledger"), ("GRANT", "subject")]
    assert world.bare("served", person, f"{notice}@1", *shown, "--subject-key", path).status == 2


@pytest.mark.parametrize("change", [lambda pieces: pieces[:1], lambda pieces: pieces[::-1], lambda _: []])
@pytest.mark.parametrize("more", [(), ("--parts",), ("--save",)])
def test_a_stream_without_its_format_determines_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Any]], list[Any]],
    more: tuple[str, ...],
) -> None:  # fmt: skip
    person, path, _ = world.enrolled()
    collect = ledger.collect_proof
    monkeypatch.setattr(ledger, "collect_proof", lambda pieces: collect(change(list(pieces))))
    file = tmp_path / "file"
    found = world.bare("history", person, "--subject-key", path, *more, *((file,) if more else ()))
    assert (found.status, found.out, list(tmp_path.iterdir())) == (2, "", [])
    assert "could not be determined: history stream" in found.err


def test_a_question_is_signed_by_the_person_and_sent_by_a_relay(world: World) -> None:
    person, path, tag = world.enrolled()
    world.bare("grant", person, *CONSENT, "--subject-key", path)
    app, mine = world.as_("app"), ("--sign-with", path, "--tag", tag)
    asked = app("authorize", person, *ASK, *mine)
    assert asked.status == 0, asked.err + asked.out
    assert app("authorize", person, *ASK, "--tag", tag).status == 2
    _, theirs, _ = world.enrolled()
    assert app("authorize", person, *ASK, "--sign-with", theirs, "--tag", tag).status != 0
    own = world.as_("er")
    first = world.key_file()
    assert world.as_("operator")("key", "add", "er", first).status == 0
    question = ("--actor", "er", *DATA, "--category", "CLIN.DX")
    assert own("authorize", person, *question, "--sign-with", first).status == 1  # no consent for it
    assert own("authorize", person, *question, "--sign-with", theirs).status == 2


# -- keys -----------------------------------------------------------------------------------------------------


def in_force(line: CommandLine, owner: str, *more: object) -> list[str]:
    return [one["key"] for one in line("key", "list", owner, "--json", *more).objects if one["in_force"]]


def test_a_person_replaces_a_key(world: World) -> None:
    person, old, _ = world.enrolled()
    new = world.key_file()
    replaced = world.bare("key", "replace", person, new, "--subject-key", old)
    assert replaced.status == 0, replaced.err
    world.running.wait_published()
    assert in_force(world.bare, person, "--subject-key", new) == [public_key(new)]
    assert [author for kind, author in authors(world, person) if kind == "KEY"] == ["ledger", "subject", "subject"]
    assert world.bare("grant", person, *CONSENT, "--subject-key", old).status == 2
    assert world.bare("grant", person, *CONSENT, "--subject-key", new).status == 0
    again = world.bare("key", "replace", person, old, "--subject-key", new)
    assert again.status == 2  # a key that was retired comes back never: and the new one is still in force
    assert in_force(world.bare, person, "--subject-key", new) == [public_key(new)]


def test_a_replacement_that_was_interrupted_is_repeated(world: World) -> None:
    person, old, _ = world.enrolled()
    new = world.key_file()
    assert world.bare("key", "add", person, new, "--subject-key", old).status == 0
    repeated = world.bare("key", "replace", person, new, "--subject-key", old)
    assert (repeated.status, "stated before" in repeated.err) == (0, True)
    world.running.wait_published()
    assert in_force(world.bare, person, "--subject-key", new) == [public_key(new)]


def test_a_replacement_by_somebody_elses_key_retires_nothing(world: World) -> None:
    person, old, _ = world.enrolled()
    _, other, _ = world.enrolled()
    assert world.bare("key", "replace", person, other, "--subject-key", old).status == 2
    assert world.bare("key", "replace", person, old, "--subject-key", old).status == 2
    assert world.bare("key", "replace", person, world.key_file()).status == 2
    assert in_force(world.bare, person, "--subject-key", old) == [public_key(old)]


def test_a_login_adds_the_first_key_and_retires_one(world: World) -> None:
    person, path = f"mhid:{new_identifier()}", world.key_file()
    login: Any = ("--id-token-file", world.token_file(person))
    world.bare("enrol", person, *login)
    assert world.bare("key", "add", person, path, *login).status == 0
    assert world.bare("key", "add", person, world.key_file(), *login).status == 2
    world.running.wait_published()
    assert world.bare("grant", person, *CONSENT, "--subject-key", path).status == 0
    assert world.bare("key", "retire", person, public_key(path), *login).status == 0
    world.running.wait_published()
    assert world.bare("key", "list", person, *login).out == f"{public_key(path)}  (retired)\n"


def test_who_lost_a_key_is_identified_again_by_the_platform(world: World) -> None:
    person, lost, _ = world.enrolled()
    app, new = world.as_("app"), world.key_file()
    assert app("key", "add", person, new).status == 2
    assert app("key", "add", person, new, "--method", "passport, at a counter").status == 0
    assert app("key", "retire", person, public_key(lost)).status == 0
    world.running.wait_published()
    assert in_force(world.bare, person, "--subject-key", new) == [public_key(new)]
    assert world.bare("grant", person, *CONSENT, "--subject-key", lost).status == 2


def test_an_operator_changes_the_keys_of_a_participant_and_then_it_does_so_itself(world: World) -> None:
    operator, own = world.as_("operator"), world.as_("hospital-a")
    first, second = world.key_file(), world.key_file()
    assert own("key", "add", "hospital-a", first).status == 2
    assert operator("key", "add", "hospital-a", first).status == 0
    assert operator("key", "list", "hospital-a").out == f"{public_key(first)}\n"
    assert own("key", "replace", "hospital-a", second, "--sign-with", first).status == 0
    assert in_force(operator, "hospital-a") == [public_key(second)]
    assert own("key", "retire", "hospital-a", public_key(second), "--sign-with", second).status == 0
    assert in_force(operator, "hospital-a") == []
    assert "no key is in force" in operator("key", "list", "hospital-a").err
    for owner, key in (("hospital-a", "xyz"), ("hospital-a", "g" * 64), (":", public_key(first))):
        assert operator("key", "add", owner, key).status == 2
    person, path, _ = world.enrolled()
    assert world.bare("key", "retire", person, path, "--sign-with", path).status == 2


def test_a_key_file_is_new_and_private(world: World, tmp_path: Path) -> None:
    path = tmp_path / "keys/my.key"
    made = world.bare("key", "new", path, "--json")
    assert (made.object["key"], path.stat().st_mode & 0o777) == (public_key(path), 0o600)
    assert path.read_text().strip() not in made.out + made.err
    before = path.read_text()
    assert world.bare("key", "new", path).status == 2
    assert path.read_text() == before
    path.chmod(0o644)
    assert world.bare("consents", "mhid:1", "--subject-key", path).status == 2
