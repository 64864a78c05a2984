"""Read a running daemon: checkpoint, tiles and bundles over HTTP, openings over gRPC (ListEntries).

Requests carry an auditor's token, which is never sent unencrypted to another machine. A request is repeated if the
cause of its failure may be temporary. A file that did not arrive whole is a ``FetchError``, and so is a page of a proxy
in place of the file.
"""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from consentd.core import codec, tiles
from consentd.core.note import MAX_NOTE_SIZE
from consentd.cosigning.connection import Connection
from consentd.errors import DeniedError, FetchError, InvalidError, MalformedError, StorageError
from consentd.sections import is_loopback
from consentd.verify.source import Opening, TlogFiles

TRIES = 4
_MOST = 40 << 20
_MAY_PASS = frozenset({408, 425, 429})
"""Statuses below 500 whose cause may be temporary (RFC 9110, 15.5.9; RFC 8470; RFC 6585)."""
_RPC_MAY_PASS = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED", "INTERNAL", "UNKNOWN"}
)
"""Codes of gRPC whose cause may be temporary. A connection that breaks can end a call with most of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDaemon:
    """A daemon, or a host that serves an export.

    Attributes:
        url: URL of the directory that has ``checkpoint`` and ``tile``, without a slash at the end.
        target: HOST:PORT of gRPC; empty: openings are not read.
        token: an auditor's token; empty: none is sent.
        tls_ca: PEM file of the authorities that may certify the daemon; None: the authorities of the system.
        tls: gRPC uses TLS. HTTP uses TLS if *url* begins with https.
        timeout_s: time limit of each try of a request, until its whole response has arrived.
        pause_s: time to wait before the second try, doubled before each further try.
        skips_caches: ask caches between this machine and the daemon not to answer in its place (RFC 9111, 5.2.1.4).
    """

    url: str
    target: str = ""
    token: str = field(default="", repr=False)
    tls_ca: Path | None = None
    tls: bool = False
    timeout_s: float = 30.0
    pause_s: float = 0.5
    skips_caches: bool = False

    def open(self) -> "LiveSource":
        """Prepare to read the daemon; nothing is sent yet.

        Raises:
            InvalidError: the URL, token or TLS file is invalid, or another machine would get the token unencrypted.
            StorageError: the TLS file cannot be read.
        """
        return LiveSource(self)


class LiveSource(TlogFiles):
    """A daemon that is being read. One thread uses it."""

    is_whole = False

    def __init__(self, daemon: LiveDaemon) -> None:
        # The token is checked here, because the error of http.client would contain the token.
        if not (daemon.token.isascii() and daemon.token.isprintable()):
            raise InvalidError("token has characters that are not printable ASCII")
        try:
            self._ca = None if daemon.tls_ca is None else daemon.tls_ca.read_bytes()
            tls = ssl.create_default_context(cafile=daemon.tls_ca) if daemon.url.lower().startswith("https:") else None
        except ssl.SSLError as error:
            raise InvalidError(f"TLS file holds no certificate: `{daemon.tls_ca}`") from error
        except OSError as error:
            raise StorageError(f"TLS file cannot be read: `{daemon.tls_ca}`: {error.strerror}") from error
        headers = {"Authorization": f"Bearer {daemon.token}"} if daemon.token else {}
        if daemon.skips_caches:
            headers["Cache-Control"] = "no-cache"
        self._http = Connection(daemon.url, timeout_s=daemon.timeout_s, headers=headers, tls=tls)
        self._is_grpc_encrypted = daemon.tls or daemon.tls_ca is not None
        is_protected = self._http.is_protected and (
            not daemon.target or self._is_grpc_encrypted or is_loopback(daemon.target.rpartition(":")[0].strip("[]"))
        )
        if daemon.token and not is_protected:
            raise InvalidError("another machine needs TLS, or the token would be sent unencrypted")
        self._daemon = daemon
        self._channel: Any = None

    def again(self) -> "LiveSource":
        """Prepare to read the daemon on new connections, past all caches. The caller closes the result."""
        return replace(self._daemon, skips_caches=True).open()

    def checkpoint(self) -> bytes:
        """Return the latest published checkpoint."""
        found = self.find("checkpoint", MAX_NOTE_SIZE)
        if found is None:
            raise StorageError(f"checkpoint is missing: `{self._daemon.url}/checkpoint`")
        return found

    def find(self, path: str, most: int = _MOST) -> bytes | None:
        """Return the content of a file of up to *most* bytes; None if there is no such file.

        Raises:
            FetchError: no whole file arrived, in any of ``TRIES`` tries.
            DeniedError: the daemon demands an auditor's token.
        """
        fault = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._daemon.pause_s * 2 ** (attempt - 1))
            try:
                response = self._http.request("GET", f"/{path}", limit=most)
            except FetchError as error:
                fault = str(error)
                continue
            if response.status == 404:
                return None
            if response.status == 200:
                return response.body
            if response.status in (401, 403):
                raise DeniedError(f"caller may not read this: `{path}`; give an auditor's token")
            fault = f"status {response.status}"
            if 400 <= response.status < 500 and response.status not in _MAY_PASS:
                break
        raise FetchError(f"cannot be read: `{self._daemon.url}/{path}`: {fault}")

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return the openings that this caller may read; None if no gRPC target is known."""
        if not self._daemon.target:
            return None
        start = n * tiles.TILE_WIDTH
        found: list[Opening] = [None] * len(leaves)
        events = [at for at, leaf in enumerate(leaves, start) if codec.kind_of(leaf) != codec.SEAL_KIND]
        last = events[-1] if events else start - 1
        token = ""
        while True:
            page = self._list(start, len(leaves), token)
            for entry in page.entries:
                at = entry.index - start
                if 0 <= at < len(leaves) and leaves[at]:
                    if entry.leaf != leaves[at]:
                        raise MalformedError(f"daemon has another leaf over gRPC than over HTTP: entry `{entry.index}`")
                    if entry.HasField("opening"):
                        found[at] = entry.opening.salt + entry.opening.statement
            token = page.next_page_token
            # A page may have fewer entries than asked for, if statements are large.
            if not token or not page.entries or page.entries[-1].index >= last:
                return found

    def close(self) -> None:
        """Close the connections."""
        self._http.release()
        self._close_channel()

    def _list(self, start: int, count: int, token: str) -> Any:
        import grpc

        from consentd.v1 import ledger_service_pb2 as ls
        from consentd.v1 import ledger_service_pb2_grpc

        daemon = self._daemon
        request = ls.ListEntriesRequest(start_index=start, page_size=count, page_token=token)
        metadata = (("authorization", f"Bearer {daemon.token}"),)
        fault = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(daemon.pause_s * 2 ** (attempt - 1))
            stub = ledger_service_pb2_grpc.LedgerServiceStub(self._open_channel())
            try:
                return stub.ListEntries(request, metadata=metadata, timeout=daemon.timeout_s)
            except grpc.RpcError as error:
                # The next try is on another connection: this one may be dead, and nobody has noticed.
                self._close_channel()
                fault = error.code().name
                if fault in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
                    raise DeniedError("only auditors may read statements: give an auditor's token") from error
                if fault not in _RPC_MAY_PASS:
                    break
        raise FetchError(f"statements cannot be read: `{daemon.target}`: {fault}")

    def _open_channel(self) -> Any:
        """Return the channel to the daemon; open one if there is none."""
        import grpc

        if self._channel is None:
            options = (
                ("grpc.max_receive_message_length", _MOST),
                # By default channels of one process share connections, and a new one might get the old one's.
                ("grpc.use_local_subchannel_pool", 1),
            )
            target = self._daemon.target
            if self._is_grpc_encrypted:
                credentials = grpc.ssl_channel_credentials(self._ca)
                self._channel = grpc.secure_channel(target, credentials, options=options)
            else:
                self._channel = grpc.insecure_channel(target, options=options)
        return self._channel

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
