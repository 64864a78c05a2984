"""Where the keys of an OpenID Connect provider come from: a file, or an address that is asked again and again.

No call waits for the network. A thread asks the address at the start, every ``refresh_s`` seconds, and soon after a
call named a key that is not known, but never twice within ``least_refresh_s`` seconds. The keys that were read last are
used until a new set has been read and is valid, however long that takes.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from consentd.config import ProviderConfig
from consentd.cosigning.connection import Connection
from consentd.errors import ConsentdError, FetchError, InvalidError, MalformedError, StorageError
from consentd.files import read_file_if_exists
from consentd.metrics import Metrics
from consentd.service.key_set import MAX_KEY_SET, KeySet, parse_key_set
from consentd.tls_files import read_authorities

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 5.0
_STOP_S = 2 * FETCH_TIMEOUT_S
_OK = 200


class KeySource(Protocol):
    """The keys of one provider. Any thread may use it."""

    @property
    def generation(self) -> int:
        """A number that changes when the keys do."""

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt to fetch the keys failed."""

    def get(self, kid: str) -> KeySet:
        """Return the present keys, among which the caller looks for *kid*.

        Raises:
            StorageError: (NOT_SERVING) no keys have been read yet.
        """

    def reload(self) -> None:
        """Read the keys again, now or soon. Raises ``ConsentdError``, and keeps the present keys then."""

    def close(self) -> None:
        """Stop reading."""


class FileKeys:
    """Keys from a file, which is read at the start and by ``reload``."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises as ``reload``."""
        self._path = path
        self.generation = 0
        self.has_failed = False
        self._keys = self._read()

    def get(self, kid: str) -> KeySet:
        """Return the present keys."""
        return self._keys

    def reload(self) -> None:
        """Read the file again.

        Raises:
            StorageError: the file cannot be read.
            InvalidError: it is no key set.
        """
        self._keys = self._read()
        self.generation += 1

    def close(self) -> None:
        """Do nothing."""

    def _read(self) -> KeySet:
        content = read_file_if_exists(self._path, name="key set of a provider")
        if content is None:
            what = f"key set of a provider cannot be read: `{self._path}`: No such file or directory"
            raise StorageError(f"{what}; the provider publishes it, as `jwks_uri` of its configuration says")
        try:
            return parse_key_set(content)
        except MalformedError as error:
            raise InvalidError(f"file is no key set of a provider: `{self._path}`: {error}") from error


class FetchedKeys:
    """Keys from an address. ``_condition`` guards ``_is_wanted``, ``_is_closed`` and ``_tried_s``."""

    def __init__(
        self, fetch: Callable[[], bytes], config: ProviderConfig, *, metrics: Metrics,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Read nothing yet: ``start`` does. *fetch* returns what the address answers; it raises ``FetchError``."""
        self._fetch, self._config, self._metrics, self._now_s = fetch, config, metrics, now_s
        self.generation = 0
        self._keys: KeySet | None = None
        self._content = b""
        self._condition = threading.Condition()
        self._is_wanted = self._is_closed = False
        self._tried_s = -float("inf")
        self.has_failed = False
        self._thread = threading.Thread(target=self._run, name="id-provider-keys", daemon=True)

    def start(self) -> None:
        """Begin to fetch, on a thread of its own."""
        self._thread.start()

    def get(self, kid: str) -> KeySet:
        """Return the present keys; if they have no key *kid*, let the thread fetch them again soon."""
        keys = self._keys
        if keys is None or not keys.has(kid):
            self._want()
        if keys is None:
            raise StorageError("keys of the ID provider are not read yet; try again soon", "NOT_SERVING")
        return keys

    def reload(self) -> None:
        """Let the thread fetch the keys again soon."""
        self._want()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def refresh(self) -> None:
        """Fetch the keys. If that fails, keep the present ones; the metrics and the log say so."""
        with self._condition:
            self._tried_s, self._is_wanted = self._now_s(), False
        try:
            content = self._fetch()
            keys = self._keys if content == self._content else parse_key_set(content)
        except ConsentdError as error:
            log.warning("keys of an ID provider are not fetched: `%s`: %s", self._config.issuer, error)
            self._note(has_failed=True)
            return
        if keys is not self._keys:
            self._keys, self._content = keys, content
            self.generation += 1
        self._note(has_failed=False)

    def due_in_s(self) -> float:
        """Return in how many seconds the keys are to be fetched again; the caller holds ``_condition``."""
        is_soon = self._is_wanted or self.has_failed
        period_s = self._config.least_refresh_s if is_soon else self._config.refresh_s
        return self._tried_s + period_s - self._now_s()

    def _note(self, *, has_failed: bool) -> None:
        self._metrics.id_key_fetches.inc("failed" if has_failed else "ok")
        self.has_failed = has_failed

    def _want(self) -> None:
        with self._condition:
            self._is_wanted = True
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._is_closed and (left_s := self.due_in_s()) > 0:
                    self._condition.wait(left_s)
                if self._is_closed:
                    return
            self.refresh()


def open_keys(config: ProviderConfig, metrics: Metrics) -> KeySource:
    """Return the keys of a provider, read from its file, or being fetched.

    Raises:
        StorageError, InvalidError: as ``FileKeys.reload``; or the authorities of the address cannot be read.
    """
    if config.jwks_file is not None:
        return FileKeys(config.jwks_file)
    tls = None
    if config.jwks_ca_file is not None:  # these authorities alone, none of the system's
        tls = ssl.create_default_context(cadata=read_authorities(config.jwks_ca_file).decode("latin-1"))
    headers = {"Accept": "application/json"}
    connection = Connection(config.jwks_url, timeout_s=FETCH_TIMEOUT_S, headers=headers, tls=tls)
    keys = FetchedKeys(lambda: _get(connection), config, metrics=metrics)
    keys.start()
    return keys


def _get(connection: Connection) -> bytes:
    """Return what the address answers. Raises ``FetchError``. Each fetch has a connection of its own."""
    try:
        response = connection.request("GET", "", limit=MAX_KEY_SET)
    finally:
        connection.release()
    if response.status != _OK:
        raise FetchError(f"answer has status {response.status}")
    return response.body
