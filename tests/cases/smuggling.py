"""Requests that two programs may read in two ways, each with a second request hidden in it (RFC 9112, 11.2)."""

from collections.abc import Iterator

HIDDEN = "/hidden"
"""The path of the hidden request."""


def variants(path: str = "/x", hidden: str = HIDDEN) -> dict[str, bytes]:
    """Return bytes by a name of their fault. Each asks for *path*, and hides a request for *hidden*."""
    return {name: text.encode("latin-1") for name, text in _texts(path, hidden)}


def _texts(path: str, hidden: str) -> Iterator[tuple[str, str]]:
    inner = f"GET {hidden} HTTP/1.1\r\nHost: x\r\n\r\n"
    chunk = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    empty = f"0\r\n\r\n{inner}"

    def asks(*headers: str, body: str = "", method: str = "GET", version: str = "1.1", host: str = "Host: x") -> str:
        lines = [f"{method} {path} HTTP/{version}", *filter(None, [host]), *headers]
        return "\r\n".join(lines) + "\r\n\r\n" + body

    size = len(inner)
    yield "body of GET", asks(f"Content-Length: {size}", body=inner)
    yield "body of HEAD", asks(f"Content-Length: {size}", body=inner, method="HEAD")
    yield "body of POST", asks(f"Content-Length: {size}", body=inner, method="POST")
    yield "CL.TE", asks(f"Content-Length: {len(empty)}", "Transfer-Encoding: chunked", body=empty)
    yield "TE.CL", asks("Transfer-Encoding: chunked", "Content-Length: 4", body=chunk)
    yield "CL.0", asks("Content-Length: 0", "Transfer-Encoding: chunked", body=empty)
    yield "chunked alone", asks("Transfer-Encoding: chunked", body=empty)
    yield "chunked POST", asks("Transfer-Encoding: chunked", body=empty, method="POST")
    for name, coding in (
        ("in capitals", "Transfer-Encoding: CHUNKED"),
        ("xchunked", "Transfer-Encoding: xchunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("after identity", "Transfer-Encoding: identity, chunked"),
        ("before identity", "Transfer-Encoding: chunked, identity"),
        ("twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("in quotes", 'Transfer-Encoding: "chunked"'),
        ("after a tab", "Transfer-Encoding:\tchunked"),
        ("after a vertical tab", "Transfer-Encoding:\x0bchunked"),
        ("with a blank before the colon", "Transfer-Encoding : chunked"),
        ("with a tab before the colon", "Transfer-Encoding\t: chunked"),
        ("after a blank", " Transfer-Encoding: chunked"),
        ("folded", "Transfer-Encoding:\r\n chunked"),
        ("folded in the name before", "X: y\r\n Transfer-Encoding: chunked"),
        ("after a bare line feed", "X: y\nTransfer-Encoding: chunked"),
        ("after a bare carriage return", "X: y\rTransfer-Encoding: chunked"),
        ("with a NUL", "Transfer-Encoding: chunked\x00"),
        ("with a NUL in the name", "Transfer-Encoding\x00: chunked"),
        ("with a parameter", "Transfer-Encoding: chunked;q=1"),
        ("with an underscore", "Transfer_Encoding: chunked"),
    ):
        yield f"coding {name}", asks("Content-Length: 0", coding, body=empty)
    yield "coding in HTTP/1.0", asks("Transfer-Encoding: chunked", body=empty, version="1.0")
    yield "chunk with an extension", asks(
        "Transfer-Encoding: chunked", body=f"0;x=\r\n\r\n{inner}"
    )
    yield "chunk with an extension of a line feed", asks(
        "Transfer-Encoding: chunked", body=f"2;\nxx\r\n{size:x}\r\n{inner}\r\n0\r\n\r\n", method="POST"
    )
    yield "chunk of 2^64 bytes", asks("Transfer-Encoding: chunked", body=f"10000000000000000\r\n\r\n{inner}")
    yield "two lengths", asks("Content-Length: 0", f"Content-Length: {size}", body=inner)
    yield "two equal lengths", asks(f"Content-Length: {size}", f"Content-Length: {size}", body=inner)
    for name, length in (
        ("with a sign", f"+{size}"), ("below zero", f"-{size}"), ("in a list", f"0, {size}"),
        ("in hexadecimal", f"0x{size:x}"),
        ("with a blank inside", f"0 {size}"), ("empty", ""), ("with a NUL", f"{size}\x00"), ("folded", f"0\r\n {size}"),
        ("of 2^64", f"{2**64 + size}"), ("with an underscore", "0_0"),
    ):  # fmt: skip
        yield f"length {name}", asks(f"Content-Length: {length}", body=inner)
    yield "length with a blank before the colon", asks(f"Content-Length : {size}", body=inner)
    yield "two hosts", asks("Host: y", body=inner)
    yield "no host", asks(host="", body=inner)
    yield "host with a path", asks(host=f"Host: x{hidden}", body=inner)
    yield "target of another host", asks().replace(path, f"http://elsewhere{path}", 1) + inner
    yield "target of an authority", asks(method="CONNECT").replace(path, "x:80", 1) + inner
    yield "target of a star", asks(method="OPTIONS").replace(path, "*", 1) + inner
    yield "target with a blank", asks().replace(path, f"{path} {hidden}", 1) + inner
    yield "target with a bare line feed", f"GET {path} HTTP/1.1\nHost: x\n\n{inner}"
    yield "no version", f"GET {path}\r\n{inner}"
    yield "upgrade", asks("Connection: Upgrade", "Upgrade: h2c", body=inner)
    yield "end of the connection, and a request", asks("Connection: close", body=inner)
    yield "a request before the answer", asks(body=inner)
    yield "expectation", asks("Expect: 100-continue", f"Content-Length: {size}", body=inner)
    yield "header without a name", asks(": x", body=inner)
    yield "header without a colon", asks("GET /hidden HTTP/1.1", body=inner)
