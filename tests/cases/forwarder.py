"""A fixed address for a daemon that is stopped and started again: each time it gets another port of the system."""

import contextlib
import selectors
import socket
import threading
from typing import Self


class Forwarder:
    """Passes the bytes of connections to ``port``; while that is None, each new connection is closed at once.

    Use as a context manager.

    Attributes:
        port: where connections that come now are passed to, on this machine.
        target: the fixed address.
        refused: how many connections were closed at once.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        self.refused = 0
        self._news = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._wake, self._waked = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="forwarder")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()

    def wait_refused(self, count: int, timeout_s: float) -> bool:
        """Wait until *count* connections were closed at once; return whether they were."""
        with self._news:
            return self._news.wait_for(lambda: self.refused >= count, timeout_s)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._waked, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._waked:
                        for one in list(selector.get_map().values()):
                            one.fileobj.close()  # type: ignore[union-attr]  # a socket
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.fd in selector.get_map():  # its other side may just have ended
                        _pass(selector, key.fileobj, key.data)  # type: ignore[arg-type]  # a socket

    def _accept(self, selector: selectors.BaseSelector) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.port or 0))
        except OSError:
            near.close()
            with self._news:
                self.refused += 1
                self._news.notify_all()
            return
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)


def _pass(selector: selectors.BaseSelector, source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        if some := source.recv(1 << 16):
            sink.sendall(some)
            return
    for one in (source, sink):
        selector.unregister(one)
        one.close()
