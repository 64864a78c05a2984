"""Key-encryption keys: from a file, the environment or a PKCS#11 token; each wraps alike, and none is shown."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.tokens import MODULE, PIN, Token, needs_softhsm
from consentd.config import KekConfig, KeysConfig, Pkcs11Config
from consentd.errors import InvalidError, StorageError
from consentd.ledger.kek import KeyEncryptionKey, SoftwareKek, is_there, parse_key, read_keks
from consentd.ledger.vault import Vault
from consentd.ledger.vault_rotation import compact, rewrap_all
from consentd.store.memory import MemoryStore

KEY = bytes(range(100, 132))
NAME = b"V\0\0\0\x01"
NONCE = b"\x0b" * 12
VAULT_KEY = b"\x0c" * 32


def keys(kek: KekConfig, previous: KekConfig | None = None) -> KeysConfig:
    return KeysConfig(
        log_key_file=Path("log"), statement_key_file=Path("statement"), vault_kek=kek, vault_kek_previous=previous
    )


def file_of(directory: Path, text: str) -> KekConfig:
    path = directory / "vault.kek"
    path.touch(0o600)
    path.write_text(text)
    return KekConfig(file=path)


@pytest.mark.parametrize("text", [KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode()])
@pytest.mark.parametrize("source", ["file", "environment"])
def test_a_key_is_hex_or_base64(text: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEK", f" {text}\n")
    kek = file_of(tmp_path, f"{text}\n") if source == "file" else KekConfig(environment="TEST_KEK")
    assert is_there(kek)
    (found,) = read_keks(keys(kek))
    assert isinstance(found, SoftwareKek)
    assert found.key == KEY
    assert "TEST_KEK" not in os.environ or source == "file"
    assert KEY.hex() not in repr(found)
    assert repr(KEY) not in repr(found)


@pytest.mark.parametrize(
    "text", ["", "00" * 31, "00" * 33, "zz" * 32, base64.b64encode(KEY[:31]).decode(), "\xe9" * 64]
)
@pytest.mark.parametrize("source", ["file", "environment"])
def test_what_is_no_key_is_refused_and_not_shown(
    text: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_key(text) is None
    monkeypatch.setenv("TEST_KEK", text)
    kek = file_of(tmp_path, text) if source == "file" else KekConfig(environment="TEST_KEK")
    with pytest.raises(InvalidError, match="key-encryption key is not 32 bytes") as refused:
        read_keks(keys(kek))
    assert not text or text not in str(refused.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for kek in (KekConfig(environment="TEST_NO_KEK"), KekConfig(file=tmp_path / "none")):
        assert not is_there(kek)
        with pytest.raises(StorageError, match=r"TEST_NO_KEK|none"):
            read_keks(keys(kek))


def test_the_previous_key_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_OLD", "05" * 32)
    found = read_keks(keys(file_of(tmp_path, KEY.hex()), KekConfig(environment="TEST_OLD")))
    assert [one.key for one in found if isinstance(one, SoftwareKek)] == [KEY, b"\x05" * 32]


def test_both_keys_may_name_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example the PIN of one token, in which one key replaces another."""
    monkeypatch.setenv("TEST_KEK", KEY.hex())
    found = read_keks(keys(KekConfig(environment="TEST_KEK"), KekConfig(environment="TEST_KEK")))
    assert [one.key for one in found if isinstance(one, SoftwareKek)] == [KEY, KEY]
    assert "TEST_KEK" not in os.environ


@pytest.mark.parametrize(
    "given",
    [{}, {"file": Path("a"), "environment": "B"}, {"environment": "A", "pkcs11": Pkcs11Config(
        module=Path("m"), token="t", key="k", pin_file=Path("p"))}],
)  # fmt: skip
def test_there_is_exactly_one_source(given: dict[str, object]) -> None:
    with pytest.raises(InvalidError, match="exactly one of `file`, `environment`, `pkcs11`"):
        KekConfig(**given)  # type: ignore[arg-type]  # of the right types, but for their number


# -- PKCS#11 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """A token of this process: SoftHSM reads its settings once, when the module is loaded first."""
    made = Token(tmp_path_factory.mktemp("token"), "vault", "other")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    path = tmp_path / "hsm.pin"
    path.touch(0o600)
    path.write_text(PIN + "\n")
    return path


def config(pin_file: Path | None, **changed: object) -> KekConfig:
    fields = {"module": Path(MODULE), "token": "consentd", "key": "vault", "pin_file": pin_file, **changed}
    return KekConfig(pkcs11=Pkcs11Config(**fields))  # type: ignore[arg-type]


def kek_of(pin_file: Path | None, **changed: object) -> KeyEncryptionKey:
    (kek,) = read_keks(keys(config(pin_file, **changed)))
    return kek


@needs_softhsm
def test_a_token_wraps_and_unwraps(token: Token, pin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kek = kek_of(pin_file)
    wrapped = kek.wrap(NAME, VAULT_KEY, NONCE)
    assert len(wrapped) == 12 + 32 + 16
    assert wrapped[:12] == NONCE
    monkeypatch.setenv("TEST_PIN", PIN)
    for one in (kek, kek_of(pin_file), kek_of(None, pin_environment="TEST_PIN")):
        assert one.unwrap(NAME, wrapped) == VAULT_KEY
        assert PIN not in repr(one)
    assert "TEST_PIN" not in os.environ
    for name, row in ((b"V\0\0\0\x02", wrapped), (NAME, wrapped[:-1]), (NAME, b""), (NAME, wrapped[:12] + bytes(48))):
        assert kek.unwrap(name, row) is None
    assert kek_of(pin_file, key="other").unwrap(NAME, wrapped) is None
    assert SoftwareKek("x", KEY).unwrap(NAME, wrapped) is None


@needs_softhsm
@pytest.mark.parametrize(
    "changed",
    [
        {"token": "none"}, {"key": "none"}, {"module": Path("/none.so")}, {"module": Path(sys.executable)},
    ],
    ids=["token", "key", "module", "no module"],
)  # fmt: skip
def test_what_a_token_lacks_is_named(token: Token, pin_file: Path, changed: dict[str, object]) -> None:
    with pytest.raises(StorageError, match=r"PKCS#11 token cannot be used") as failed:
        kek_of(pin_file, **changed).wrap(NAME, VAULT_KEY, NONCE)
    assert PIN not in str(failed.value)


@needs_softhsm
def test_a_wrong_pin_is_refused_and_not_shown(token: Token, pin_file: Path) -> None:
    pin_file.write_text("135790")
    with pytest.raises(StorageError, match="PinIncorrect") as failed:
        kek_of(pin_file).unwrap(NAME, bytes(60))
    assert "135790" not in str(failed.value)


@needs_softhsm
def test_a_vault_moves_from_a_file_to_a_token_and_back(token: Token, pin_file: Path) -> None:
    in_file, in_token = SoftwareKek("file", KEY), kek_of(pin_file)
    store = MemoryStore()
    vault = Vault(store, [in_file])
    tags = [vault.create(number.to_bytes(32)) for number in range(20)]
    for new, old in ((in_token, in_file), (in_file, in_token)):
        vault = Vault(store, [new, old])
        vault.begin_rotation()
        for _ in rewrap_all(vault):
            pass
        vault.end_rotation()
        for _ in compact(vault):
            pass
        vault.note_compacted()
        with pytest.raises(StorageError, match="key-encryption key does not open this vault"):
            Vault(store, [old])
        again = Vault(store, [new])
        assert all(again.opens(b"k" + tag) for tag in tags)


_WITHOUT = """
import sys
sys.modules["pkcs11"] = None
from pathlib import Path
from consentd.cli import main
sys.exit(main(["fsck", "--config", sys.argv[1]]))
"""


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    text = """
[ledger]
origin = "consent.test/hsm"
data_dir = "data"
[keys]
log_key_file = "log.key"
statement_key_file = "statement.key"
vault_kek = { pkcs11 = { module = "m", token = "t", key = "k", pin_file = "hsm.pin" } }
[callers]
credentials_file = "credentials"
"""
    (tmp_path / "consentd.toml").write_text(text)
    from consentd.config import load
    from consentd.server.keys import make_keys

    make_keys(load(tmp_path / "consentd.toml"))
    assert not (tmp_path / "hsm.pin").exists()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(tmp_path / "consentd.toml")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "consentd[hsm]" in done.stderr) == (2, True), done.stderr


