"""A gRPC server on loopback that answers the calls by which auditors and persons read a ledger, rightly or forged."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from cases.small_ledgers import Small
from consentd.audit.sources import ExportDirectory
from consentd.core import checkpoint, note, tiles
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import ledger_service_pb2_grpc


class ServedEntries(ledger_service_pb2_grpc.LedgerServiceServicer):
    """Lists the entries of an export, and streams the history of a ``Small``.

    Attributes:
        export: the ledger that ListEntries reads, with its openings.
        small: the ledger that GetHistory reads.
        page_items: most entries of a page.
    """

    def __init__(self, *, page_items: int = 100) -> None:
        self.export: ExportDirectory | None = None
        self.small: Small | None = None
        self.page_items = page_items

    def ListEntries(self, request: ls.ListEntriesRequest, context: Any) -> ls.ListEntriesResponse:
        """Return a page of entries. The page token is the index of its first leaf."""
        assert self.export is not None
        size = checkpoint.parse_checkpoint(note.parse_note(self.export.checkpoint()).text).size
        start = int(request.page_token or request.start_index)
        n, at = divmod(start, tiles.TILE_WIDTH)
        width = min(tiles.TILE_WIDTH, size - n * tiles.TILE_WIDTH)
        leaves = self.export.leaves(n, width)
        openings = self.export.openings(n, leaves) or [None] * width
        page = ls.ListEntriesResponse()
        end = min(width, at + min(self.page_items, request.page_size))
        for index in range(at, end):
            entry, opening = page.entries.add(index=n * tiles.TILE_WIDTH + index, leaf=leaves[index]), openings[index]
            if opening is not None:
                entry.opening.salt, entry.opening.statement = opening[:32], opening[32:]
        if n * tiles.TILE_WIDTH + end < size:
            page.next_page_token = str(n * tiles.TILE_WIDTH + end)
        return page

    def GetHistory(self, request: ls.GetHistoryRequest, context: Any) -> Iterator[ls.GetHistoryResponse]:
        """Stream a history, one entry a message."""
        assert self.small is not None
        yield from self.small.history(request)


@contextmanager
def serve_calls(servicer: ServedEntries) -> Iterator[int]:
    """Serve calls for the length of a ``with`` block; yields the port."""
    server = grpc.server(ThreadPoolExecutor(4))
    ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
