"""The configuration: the example loads, defaults match it, and everything doubtful is refused by name."""

import dataclasses
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from consentd import config, sections
from consentd.errors import InvalidError

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "ops" / "consentd.toml"

MINIMAL = """
[ledger]
origin = "consent.example.org"
data_dir = "data"
[keys]
log_key_file = "log.key"
statement_key_file = "statement.key"
vault_kek = { file = "/etc/consentd/vault.kek" }
[callers]
credentials_file = "credentials"
"""
BASE = Path("/srv/consentd")


def parse(extra: str = "", minimal: str = MINIMAL) -> config.Config:
    return config.parse(minimal + extra, base_dir=BASE)


def leaves(value: object, prefix: str = "") -> dict[str, object]:
    """Return every option below *value*, by its full name."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]  # only dataclasses reach it
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            found |= leaves(inner, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = inner
    return found


def test_the_example_loads_and_shows_every_default() -> None:
    example = config.load(EXAMPLE)
    minimal = config.parse(MINIMAL, base_dir=EXAMPLE.parent)
    required = {name for name in leaves(example) if name.startswith(("ledger.origin", "keys.", "callers."))}
    differing = {name for name, value in leaves(example).items() if leaves(minimal)[name] != value}
    assert differing <= required


def test_the_example_names_every_option() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    names = {name.rpartition(".")[2] for name in leaves(config.load(EXAMPLE))} | {"cert_file", "key_file"}
    names |= {each.name for each in dataclasses.fields(config.ProviderConfig)}
    for name in sorted(names - {"tls", "provider", "assurance"}):
        assert re.search(f"^(# ){{0,2}}{name} = ", text, re.MULTILINE), name


def test_the_commented_sections_of_the_example_load_too() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    start = lines.index("# [grpc.tls]")
    end = lines.index("", start)
    uncommented = [line[2:] if start <= number < end else line for number, line in enumerate(lines)]
    loaded = config.parse("\n".join(uncommented), base_dir=BASE)
    assert loaded.grpc.tls == config.TlsConfig(
        cert_file=BASE / "tls/server.pem", key_file=BASE / "tls/server.key", client_ca_file=BASE / "tls/clients-ca.pem"
    )


def test_the_commented_provider_of_the_example_loads_too() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    start = lines.index("# [[citizens.provider]]")
    section = [line[2:] for line in lines[start : lines.index("", start)]]
    (provider,) = config.parse("\n".join((MINIMAL, *section)), base_dir=BASE).citizens.provider
    assert provider == config.ProviderConfig(
        issuer="https://login.example", audience="consentd", participant="platform", scheme="mhid",
        jwks_url="https://login.example/jwks", assurance=(config.AssuranceConfig(acr="urn:example:loa2", level=2),),
    )  # fmt: skip


PROVIDER = """
[[citizens.provider]]
issuer = "https://login.example"
audience = "consentd"
participant = "platform"
scheme = "mhid"
"""


@pytest.mark.parametrize(
    "options",
    ["", 'jwks_url = "http://login.example/jwks"', 'jwks_url = "https://l/k"\njwks_file = "k"',
     'jwks_file = "k"\nalgorithms = ["HS256"]', 'jwks_file = "k"\nalgorithms = ["none"]',
     'jwks_file = "k"\nalgorithms = "ES256"', 'jwks_file = "k"\nalgorithms = []', 'jwks_file = "k"\nclock_skew_s = 61',
     'jwks_file = "k"' + PROVIDER + 'jwks_file = "k"'],
)  # fmt: skip
def test_a_provider_is_refused(options: str) -> None:
    with pytest.raises(InvalidError):
        config.parse(MINIMAL + PROVIDER + options, base_dir=BASE)


@pytest.mark.parametrize(
    ("name", "value"),
    [("participant", "operator/main"), ("participant", ""), ("participant", "subject/00"), ("participant", "Platform"),
     ("scheme", "MHID"), ("scheme", "rrn"), ("scheme", ""), ("subject_claim", "")],
)  # fmt: skip
def test_who_answers_for_logins_and_whom_they_name_has_its_form(name: str, value: str) -> None:
    given = {"participant": "platform", "scheme": "mhid", "subject_claim": "sub"}
    text = '[[citizens.provider]]\nissuer = "https://l"\naudience = "a"\njwks_file = "k"\nleast_level = 0\n'
    for changed, is_refused in (({}, False), ({name: value}, True)):
        options = "".join(f'{key} = "{one}"\n' for key, one in {**given, **changed}.items())
        with pytest.raises(InvalidError, match=f"`citizens.provider.{name}`") if is_refused else nullcontext():
            config.parse(MINIMAL + text + options, base_dir=BASE)


LEVELS = """
[[citizens.provider.assurance]]
acr = "low"
level = 1
[[citizens.provider.assurance]]
acr = "high"
level = 2
"""


@pytest.mark.parametrize(
    ("options", "more", "fault"),
    [
        ("least_level = 2\nwrite_level = 1", LEVELS, "write_level"),
        ("least_level = 3\nwrite_level = 3", LEVELS, "least_level"),
        ("", "", "least_level"),
        ("least_refresh_s = 61\nrefresh_s = 60", LEVELS, "refresh_s"),
        ("", LEVELS + LEVELS, "same acr"),
        ("", LEVELS.replace('"low"', '""'), "acr` is empty"),
        ("least_level = 2\nwrite_level = 2", LEVELS, ""),
        ("least_level = 0\nwrite_level = 0", "", ""),
        ("write_level = 9", LEVELS, ""),  # nobody writes under a login
    ],
)
def test_options_of_a_provider_that_contradict_each_other_are_refused(options: str, more: str, fault: str) -> None:
    text = f'{MINIMAL}{PROVIDER}jwks_file = "k"\n{options}\n{more}'
    with pytest.raises(InvalidError, match=fault) if fault else nullcontext():
        config.parse(text, base_dir=BASE)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"statement.key"', '"log.key"', "statement_key_file"),
        ('"statement.key"', '"./x/../log.key"', "statement_key_file"),
        ('"credentials"', '"data/issued-credentials"', "credentials_file"),
        ('"credentials"', '"log.key"', "credentials_file"),
        ('"log.key"', '"data/vault/log.key"', "log_key_file"),
        ('data_dir = "data"', 'data_dir = "data"\nlast_signed_path = "data/table/signed"', "last_signed_path"),
        ('data_dir = "data"', 'data_dir = "data"\nlast_signed_path = "data/ledger/signed"', "last_signed_path"),
        ('"credentials"', '"credentials"\n[table]\npath = "data"', "table.path"),
        ('"credentials"', '"credentials"\n[table]\npath = "data/vault"', "table.path"),
        ('"credentials"', '"credentials"\n[witness]\nfail_open = true', "fail_open"),
    ],
)
def test_no_file_is_two_things(old: str, new: str, fault: str) -> None:
    assert old in MINIMAL
    with pytest.raises(InvalidError, match=fault):
        config.parse(MINIMAL.replace(old, new), base_dir=BASE)


def test_paths_are_relative_to_the_file() -> None:
    parsed = parse()
    assert parsed.keys.log_key_file == BASE / "log.key"
    assert parsed.keys.vault_kek == config.KekConfig(file=Path("/etc/consentd/vault.kek"))
    assert parsed.ledger.last_signed_path == BASE / "data/last-signed"
    assert parsed.ledger.store_dir == BASE / "data/ledger"
    assert parsed.ledger.vault_dir == BASE / "data/vault"
    assert parsed.table.path == BASE / "data/table"
    assert parse("[table]\nmap_size_mb = 16\n").table == config.TableConfig(path=BASE / "data/table", map_size_mb=16)
    assert parse('[table]\npath = "elsewhere"\n').table.path == BASE / "elsewhere"


def test_a_path_relative_to_here_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "consentd.toml").write_text(MINIMAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert config.load(Path("consentd.toml")).keys.log_key_file == tmp_path / "log.key"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("[pool]\nmax_wating = 5\n", "unknown key `pool.max_wating`; known here: `pool.max_waiting`, `pool.max_batch`"),
        ("[poll]\n", "unknown key `poll`; known here: `ledger`, `keys`"),
        ("[grpc.tls]\nca = 1\n", "unknown key `grpc.tls.ca`; known here: `grpc.tls.cert_file`"),
        ("[grpc.tls]\ncert_file = 'a'\n", "`grpc.tls.key_file` is missing"),
        ("[grpc]\nthreads = '4'\n", "`grpc.threads` is not a whole number: `4`"),
        ("[grpc]\nthreads = true\n", "`grpc.threads` is not a whole number: `True`"),
        ("[grpc]\nthreads = 0\n", "`grpc.threads` is out of bounds: `0` is not in 1 … 64"),
        ("[grpc]\nmax_batch_items = 1001\n", "`grpc.max_batch_items` is out of bounds"),
        ("[grpc]\nlisten = 7400\n", "`grpc.listen` is not a text: `7400`"),
        ("[grpc]\nlisten = '127.0.0.1'\n", "`grpc.listen` is not host:port: `127.0.0.1`"),
        ("[grpc]\nlisten = '::1:7400'\n", "`grpc.listen` is not host:port: `::1:7400`"),
        ("[grpc]\nlisten = '127.0.0.1:70000'\n", "`grpc.listen` has no such port"),
        ("[log]\nlevel = 'loud'\n", "`log.level` is none of debug, info, warning, error: `loud`"),
        ("[table]\npath = ''\n", "`table.path` is empty"),
        ("[", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(extra: str, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(extra)
    assert message in str(caught.value)


def test_a_section_that_is_none_is_named() -> None:
    with pytest.raises(InvalidError, match="`grpc` is not a section"):
        parse(minimal="grpc = 1\n" + MINIMAL)


@pytest.mark.parametrize("missing", ["origin", "data_dir", "log_key_file", "credentials_file"])
def test_a_missing_option_is_named(missing: str) -> None:
    text = "\n".join(line for line in MINIMAL.splitlines() if not line.startswith(missing))
    with pytest.raises(InvalidError, match=rf"`\w+\.{missing}` is missing"):
        parse(minimal=text)


def test_a_missing_section_is_named() -> None:
    with pytest.raises(InvalidError, match="`ledger` is missing"):
        parse(minimal="")


@pytest.mark.parametrize("section", ["grpc", "http"])
@pytest.mark.parametrize("listen", ["0.0.0.0:7400", "[::]:7400", "10.0.0.1:1", "ledger.example.org:7400"])
def test_other_machines_need_tls(section: str, listen: str) -> None:
    text = f"[{section}]\nlisten = '{listen}'\n"
    with pytest.raises(InvalidError, match=f"`{section}.listen` is reachable from other machines without TLS"):
        parse(text)
    with_tls = parse(text + f"[{section}.tls]\ncert_file = 'c.pem'\nkey_file = 'k.pem'\n")
    assert getattr(with_tls, section).tls == config.TlsConfig(cert_file=BASE / "c.pem", key_file=BASE / "k.pem")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:1", "localhost:7400", "[::1]:7400"])
def test_loopback_needs_none(listen: str) -> None:
    assert parse(f"[grpc]\nlisten = '{listen}'\n").grpc.listen == listen


@pytest.mark.parametrize(("listen", "expected"), [("[::1]:0", ("::1", 0)), ("a.example:65535", ("a.example", 65535))])
def test_parse_listen_splits(listen: str, expected: tuple[str, int]) -> None:
    assert sections.parse_listen(listen) == expected


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "line\\nbreak"])
def test_an_origin_is_a_key_name(origin: str) -> None:
    with pytest.raises(InvalidError, match=r"`ledger\.origin` is not a valid origin"):
        parse(minimal=MINIMAL.replace("consent.example.org", origin))


def test_the_lock_lies_outside_the_store() -> None:
    with pytest.raises(InvalidError):
        parse(minimal=MINIMAL.replace("[keys]", "last_signed_path = 'data/ledger/last-signed'\n[keys]"))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError):
        config.load(tmp_path / "missing.toml")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().grpc.threads = 8  # type: ignore[misc]  # what the test is about
