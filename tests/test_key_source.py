"""Keys of an ID provider that are fetched: when, and what happens if they cannot be."""

import pytest

from cases.logins import AUDIENCE, ISSUER, SigningKey, key_set
from consentd.config import ProviderConfig
from consentd.errors import FetchError, StorageError
from consentd.metrics import Metrics
from consentd.service.key_source import FetchedKeys, open_keys

OLD, NEW = SigningKey("old"), SigningKey("new")


class Address:
    """A provider's address, and the clock."""

    def __init__(self) -> None:
        self.answer: bytes | None = key_set(OLD)
        self.fetches, self.now_s, self.metrics = 0, 1000.0, Metrics()
        config = ProviderConfig(
            issuer=ISSUER, audience=AUDIENCE, participant="app", scheme="mhid", jwks_url="https://login.test/jwks",
            refresh_s=3600, least_refresh_s=60, least_level=0,
        )  # fmt: skip
        self.keys = FetchedKeys(self.fetch, config, metrics=self.metrics, now_s=lambda: self.now_s)

    def fetch(self) -> bytes:
        self.fetches += 1
        if self.answer is None:
            raise FetchError("no whole response")
        return self.answer

    def count(self, result: str) -> float:
        return self.metrics.value("consentd_id_key_fetches_total", result=result)


def test_there_are_no_keys_before_the_first_fetch() -> None:
    address = Address()
    with pytest.raises(StorageError) as caught:
        address.keys.get("old")
    assert caught.value.reason == "NOT_SERVING"
    assert address.keys.due_in_s() <= 0


def test_a_call_never_fetches_by_itself() -> None:
    address = Address()
    address.keys.refresh()
    for _ in range(3):
        assert not address.keys.get("unknown").has("unknown")
    assert address.fetches == 1


def test_an_unknown_key_makes_the_next_fetch_come_soon_and_not_at_once() -> None:
    address = Address()
    address.keys.refresh()
    assert address.keys.get("old").has("old")
    assert address.keys.due_in_s() == 3600
    address.keys.get("new")
    assert address.keys.due_in_s() == 60
    address.now_s += 60
    assert address.keys.due_in_s() == 0
    address.answer = key_set(OLD, NEW)
    address.keys.refresh()
    assert address.keys.get("new").has("new")
    assert address.keys.due_in_s() == 3600


@pytest.mark.parametrize("answer", [None, b"", b"<html>", key_set(NEW.jwk(use="enc")), b"x" * 300_000])
def test_the_old_keys_stay_until_new_ones_are_valid(answer: bytes | None) -> None:
    address = Address()
    address.keys.refresh()
    generation, address.answer = address.keys.generation, answer
    address.keys.refresh()
    assert address.keys.get("old").has("old")
    assert (address.keys.generation, address.keys.has_failed, address.count("failed")) == (generation, True, 1)
    address.keys.get("old")
    assert address.keys.due_in_s() == 60
    address.answer = key_set(NEW)
    address.keys.refresh()
    assert not address.keys.get("new").has("old")
    assert (address.keys.generation, address.keys.has_failed, address.count("ok")) == (generation + 1, False, 2)


def test_the_same_answer_changes_nothing() -> None:
    address = Address()
    address.keys.refresh()
    generation = address.keys.generation
    address.keys.refresh()
    assert address.keys.generation == generation


def test_a_thread_fetches_and_ends() -> None:
    address = Address()
    address.keys.start()
    address.keys.close()
    address.keys.close()
    assert not address.keys._thread.is_alive()


def test_an_address_that_nobody_serves_is_no_fault_of_the_start() -> None:
    config = ProviderConfig(
        issuer=ISSUER, audience=AUDIENCE, participant="app", scheme="mhid", jwks_url="https://127.0.0.1:1/jwks",
        least_level=0,
    )  # fmt: skip
    keys = open_keys(config, Metrics())
    with pytest.raises(StorageError):
        keys.get("old")
    keys.close()
