"""A web host on loopback that serves the files of a directory, and spoils chosen responses as bad networks do.

Nothing here sleeps. A response that stalls is held until the client gives up or the host is stopped.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

CUTS = ("cut", "cut head", "empty", "reset", "wrong length", "no length")
PAGES = ("502", "page", "partial")
SLOW = ("stall", "stall in body", "drip")
FAULTS = (*CUTS, *PAGES, *SLOW)

_PAGE = b"<html><body>Bad Gateway</body></html>"
_DRIP_S = 0.02


class FaultyHost:
    """A host that answers GET requests with the files of a directory, one thread for each connection.

    Attributes:
        fault_of: returns the fault of a request, by its number from 0 and its path; "": the response is whole.
        request_count: how many requests came.
        no_cache: the paths that were asked for past caches.
        cached: content in place of the files of these paths, for all who do not ask past caches.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fault_of: Callable[[int, str], str] = lambda number, path: ""
        self.no_cache: set[str] = set()
        self.cached: dict[str, bytes] = {}
        self.request_count = 0
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_stopping.set()
        # Closing a listening socket does not wake a thread in `accept`; shutting it down does.
        for each in [self._listening, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in [self._listening, *self._open]:
            each.close()

    def serve(self, directory: Path, fault_of: Callable[[int, str], str] = lambda number, path: "") -> None:
        """Serve another directory from now on, with other faults; count requests from 0 again."""
        with self._lock:
            self.directory, self.fault_of = directory, fault_of
            self.no_cache, self.cached, self.request_count = set(), {}, 0

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._is_stopping.is_set():
                accepted, _ = self._listening.accept()
                self._open.append(accepted)
                thread = threading.Thread(target=self._answer_all, args=(accepted,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _answer_all(self, client: socket.socket) -> None:
        with suppress(OSError):
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    piece = client.recv(65_536)
                    if not piece:
                        break
                    received += piece
                head, end, received = received.partition(b"\r\n\r\n")
                if not end:
                    break
                if not self._answer(client, head.decode()):
                    break
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, head: str) -> bool:
        """Answer one request. Return whether the connection stays open."""
        path = head.split()[1].lstrip("/")
        with self._lock:
            number = self.request_count
            self.request_count += 1
            if "cache-control: no-cache" in head.lower():
                self.no_cache.add(path)
            directory, fault = self.directory, self.fault_of(number, path)
        file = directory / path
        body = file.read_bytes() if file.is_file() else b""
        if path not in self.no_cache:
            body = self.cached.get(path, body)
        status = "200 OK" if file.is_file() else "404 Not Found"
        whole = _response(status, body)
        if not fault:
            client.sendall(whole)
            return True
        self._spoil(client, fault, status, body or _PAGE)
        return False

    def _spoil(self, client: socket.socket, fault: str, status: str, body: bytes) -> None:
        whole, half = _response(status, body), len(body) - len(body) // 2
        match fault:
            case "cut":
                client.sendall(whole[: len(whole) - half])
            case "cut head":
                client.sendall(whole[:20])
            case "wrong length":
                client.sendall(_response(status, body[:half], length=len(body)))
            case "no length":
                client.sendall(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode() + body[:half])
            case "reset":
                client.sendall(whole[: len(whole) - half])
                # Lingering for 0 seconds makes `close` send a reset.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            case "502":
                client.sendall(_response("502 Bad Gateway", _PAGE, kind="text/html"))
            case "page":
                client.sendall(_response("200 OK", _PAGE, kind="text/html; charset=utf-8"))
            case "partial":
                client.sendall(_response("206 Partial Content", body[:half]))
            case "stall":
                _wait_for_end(client)
            case "stall in body":
                client.sendall(whole[: len(whole) - half])
                _wait_for_end(client)
            case "drip":
                for at in range(len(whole)):
                    client.sendall(whole[at : at + 1])
                    if self._is_stopping.wait(_DRIP_S):
                        break
            case _:
                assert fault == "empty", fault


def _response(status: str, body: bytes, *, length: int | None = None, kind: str = "application/octet-stream") -> bytes:
    stated = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {stated}\r\n\r\n".encode() + body


def _wait_for_end(client: socket.socket) -> None:
    """Wait until the client or the host closes the connection."""
    while client.recv(65_536):
        pass
