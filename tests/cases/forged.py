"""A log that has its key and lies all the same: about its map, and about what it has pruned. Served over HTTP."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from consentd.core import bucketed, checkpoint, codec, ed25519, merkle, note, pruned, tiles
from consentd.core.kinds import EntryKind
from consentd.core.submission import Submission, format_submission
from consentd.cosigning.keyfiles import write_private
from consentd.listener.messages import HttpResponse
from consentd.witnessd.config import FollowedLog, WitnessOptions, WitnessServerConfig
from consentd.witnessd.daemon import Witness

MAP_BITS = 6
T0_MS = 1_700_000_000_000


class ForgedLog:
    """Leaves, and what is served of them.

    Attributes:
        heads: (count, head) of each chain as it stands; a copy with a lie in it makes a wrong seal.
        hidden: indexes of leaves that are served as pruned.
        missing: paths of which nothing is served.
        said: what is pruned, as it says.
        asked: what is set when a bundle is asked for.
    """

    def __init__(self) -> None:
        self.signer = note.Signer("log.test/forged", ed25519.KeyPair(b"f" * 32))
        self.leaves: list[bytes] = []
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.hidden: set[int] = set()
        self.missing: set[str] = set()
        self.reported: pruned.Pruned | None = None
        self.asked = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self._prev_seal = codec.ZERO_HASH
        log = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                body = log.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a witness that is closed does not wait

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()

    def event(self, tag: bytes, count: int = 1) -> None:
        for _ in range(count):
            before, prev = self.heads.get(tag, (0, codec.ZERO_HASH))
            kind = EntryKind.ACCESS if before else EntryKind.ENROL
            time_ms = T0_MS + len(self.leaves)
            leaf = codec.encode_event(codec.Event(kind, time_ms, tag, before + 1, prev, bytes(32), 0))
            self.leaves.append(leaf)
            self.heads[tag] = (before + 1, codec.chain_hash(leaf))

    def seal(self, heads: dict[bytes, tuple[int, bytes]] | None = None) -> int:
        """Seal, over these heads instead of the true ones; return the tree's size."""
        heads = self.heads if heads is None else heads
        values: dict[int, dict[bytes, bytes]] = {}
        for tag, (count, head) in heads.items():
            key = codec.map_key(tag)
            values.setdefault(bucketed.bucket_of(key, MAP_BITS), {})[key] = codec.map_value(tag, count, head)
        top = bucketed.Top(MAP_BITS)
        roots = {n: bucketed.bucket_root(bucketed.bucket_update(b"", each), MAP_BITS) for n, each in values.items()}
        top.update({n: root for n, root in roots.items() if root is not None})
        seal = codec.Seal(T0_MS + len(self.leaves), len(self.leaves), top.root(), len(heads), self._prev_seal)
        leaf = codec.encode_seal(seal)
        self.leaves.append(leaf)
        self._prev_seal = codec.chain_hash(leaf)
        return len(self.leaves)

    def shortened(self, tag: bytes, count: int) -> dict[bytes, tuple[int, bytes]]:
        """Return the heads, with a chain as it stood after *count* entries."""
        leaf = [leaf for leaf in self.leaves if leaf[10:42] == tag and len(leaf) == 122][count - 1]
        return {**self.heads, tag: (count, codec.chain_hash(leaf))}

    def get(self, path: str) -> bytes | None:
        """Return what is served at a path."""
        if path == f"/{pruned.FILE}":
            return None if self.reported is None else pruned.format_pruned(self.reported)
        if path in self.missing:
            return None
        is_kept = path.startswith("/kept/")
        level, n, width = tiles.parse_tile_path("tile/entries" + path.removeprefix("/kept") if is_kept else path[1:])
        leaves = self.leaves[n * 256 : n * 256 + width]
        if len(leaves) < width:
            return None
        if level == 0:
            return b"".join(merkle.leaf_hash(leaf) for leaf in leaves)
        self.asked.set()
        assert self.go.wait(20)
        return tiles.encode_bundle([b"" if n * 256 + at in self.hidden else leaf for at, leaf in enumerate(leaves)])

    def signed(self, size: int) -> bytes:
        """Return the checkpoint of *size* leaves, signed."""
        root = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves[:size]])[0].root()
        return checkpoint.sign_checkpoint(checkpoint.Checkpoint(self.signer.name, size, root), [self.signer])

    def submit(self, witness: Witness, old: int, size: int) -> HttpResponse:
        """Ask a witness to cosign."""
        grown = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves[:size]])[1]
        proof = tuple(tiles.prove_consistency(old, size, grown)) if 0 < old < size else ()
        return witness.add_checkpoint(format_submission(Submission(old, proof, self.signed(size))))

    def witness(self, directory: Path, *, retention_days: int = 0) -> Witness:
        """Return a witness of ours that follows this log, with its state in *directory*."""
        directory.mkdir(exist_ok=True)
        if not (directory / "key").exists():
            signer = note.Signer("witness.test/ours", ed25519.KeyPair(b"w" * 32), note.COSIGNATURE)
            write_private(directory / "key", note.format_signing_key(signer) + "\n")
            write_private(directory / "token", "token\n")
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        vkey = note.format_vkey(self.signer.verifier)
        followed = FollowedLog(vkey=vkey, url=url, token_file=directory / "token", retention_days=retention_days)
        options = WitnessOptions(
            key_file=directory / "key", state_dir=directory / "state", map_bits=MAP_BITS, timeout_ms=60_000
        )
        return Witness(WitnessServerConfig(witness=options, log=(followed,)))
