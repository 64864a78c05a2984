"""Believe the gate (``consentd/gate``) who makes a call that it passes on: the caller's address and certificate.

The gate makes the TLS handshake with the caller, so the daemon sees neither. The gate calls over a Unix socket in a
directory that only the daemon's own user may enter, and states both in headers. They are read of calls over this
socket alone: over any other listener they count for nothing. The gate replaces such headers of a caller's own.

A token, a login and a call signature are the caller's own headers, which the gate does not change.
"""

import os
import shutil
import ssl
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from consentd.errors import InvalidError

Metadata = Sequence[tuple[str, str | bytes]]

PEER = "consentd-gate-peer"
"""Header: the caller's address in the form of ``Call.peer``."""
CERTIFICATE = "consentd-gate-certificate-bin"
"""Header: the DER of the caller's certificate, which the gate has verified; without it the caller showed none."""
_MAX_PATH = 107
"""Longest path of a Unix socket, in bytes. Source: unix(7), ``sun_path``."""
_SOCKET = "unix:"  # gRPC begins the address of such a peer with it, and no other


def make_socket() -> Path:
    """Return the path of a new Unix socket, for gRPC to make, in a new directory of mode 0700.

    Raises:
        InvalidError: the path of the temporary directory is too long for a socket in it.
    """
    socket = Path(tempfile.mkdtemp(prefix="consentd-gate-")) / "daemon"
    if len(os.fsencode(socket)) > _MAX_PATH:
        remove_socket(socket)
        what = "path of the temporary directory is too long for the socket of the gate"
        raise InvalidError(f"{what}: `{tempfile.gettempdir()}`: set TMPDIR to a shorter one")
    return socket


def remove_socket(socket: Path | None) -> None:
    """Remove a socket, and its directory. A socket that is gone, or None, is no error."""
    if socket is not None:
        shutil.rmtree(socket.parent, ignore_errors=True)


def is_gate(peer: str) -> bool:
    """Return whether a call came over the Unix socket. *peer*: its address as gRPC names it."""
    return peer.startswith(_SOCKET)


def caller_address(metadata: Metadata, peer: str) -> str:
    """Return the address from which the caller of a call has called. *peer*: the address of who sent the call here."""
    stated = _stated(metadata, PEER) if is_gate(peer) else None
    return stated if isinstance(stated, str) else peer


def caller_certificate(metadata: Metadata) -> bytes | None:
    """Return the certificate (PEM) that the caller has shown the gate; None: none. Ask this of calls of the gate."""
    stated = _stated(metadata, CERTIFICATE)
    return _pem(stated) if isinstance(stated, bytes) else None


def _stated(metadata: Metadata, name: str) -> str | bytes | None:
    """Return the value of a header that is there once."""
    found = [value for key, value in metadata if key == name]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=1024)
def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()
