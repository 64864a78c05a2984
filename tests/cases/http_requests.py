"""A daemon with 900 accesses, asked over HTTP."""

import http.client
from pathlib import Path
from typing import Any

from cases.daemons import ORIGIN, Running, make_running, question, request_id
from consentd.core import checkpoint
from consentd.cosigning.keyfiles import read_signing_key
from consentd.v1 import access_service_pb2 as ac

SECRET = "SYN-730142"


class Response:
    """What HTTP answered."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


def get(running: Running, path: str, *, who: str | None = None, method: str = "GET", **headers: str) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", running.daemon.http_port, timeout=30)
    try:
        if who is not None:
            headers["Authorization"] = f"Bearer {running.tokens[who]}"
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


def start_busy_daemon(directory: Path) -> Running:
    """Start a daemon whose ledger has one person with 900 accesses, all published."""
    running = make_running(directory, checkpoint_interval_ms=20)
    subject = running.enrol(SECRET)
    running.grant(subject)
    asked = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject)) for _ in range(900)]
    running.access.BatchAuthorizeAccesses(ac.BatchAuthorizeAccessesRequest(requests=asked), metadata=running.as_("app"))
    running.check_ledger()
    return running


def latest(running: Running) -> checkpoint.Checkpoint:
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    return checkpoint.open_checkpoint(get(running, "/checkpoint").body, ORIGIN, verifier)[0]
