"""The pages of a long chain cost the same, wherever in the chain they are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, question, running_daemon
from cases.erasures import add_authority, erase_once, holds, order, put_hold
from cases.fakes import HANG_S
from cases.services import now_ms, refusal, services
from cases.writes import Raw
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.ledger import reads
from consentd.store.rocks import RocksStore
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st


def pages(call: Any, request: Any, who: Any) -> Iterator[Any]:
    """Yield all pages of a list."""
    while True:
        page = call(request, metadata=who)
        yield page
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def history_parts(running: Running, subject: pb.Subject, *, size: int, count: int) -> Iterator[Any]:
    """Yield the history of a person's chain of *count* entries in parts."""
    for known in range(0, count, size):
        request = ls.GetHistoryRequest(subject=subject, known_count=known, max_entries=size)
        yield list(running.ledger.GetHistory(request, metadata=running.as_("app")))


@pytest.fixture
def chain_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Return how many rows of the entries of each chain are read from the stores on disk, by tag."""
    counted: Counter[bytes] = Counter()
    get, multi_get, scan = RocksStore.get, RocksStore.multi_get, RocksStore.scan

    def count(key: bytes) -> None:
        if key[:1] in (b"i", b"c", b"f"):  # not the head, which the writer reads too
            counted[key[1:33]] += 1

    def counting_get(store: RocksStore, key: bytes) -> bytes | None:
        count(key)
        return get(store, key)

    def counting_multi_get(store: RocksStore, keys: Sequence[bytes]) -> list[bytes | None]:
        for key in keys:
            count(key)
        return multi_get(store, keys)

    def counting_scan(store: RocksStore, *args: Any, **options: Any) -> Iterator[tuple[bytes, bytes]]:
        for key, row in scan(store, *args, **options):
            count(key)
            yield key, row

    monkeypatch.setattr(RocksStore, "get", counting_get)
    monkeypatch.setattr(RocksStore, "multi_get", counting_multi_get)
    monkeypatch.setattr(RocksStore, "scan", counting_scan)
    return counted


@pytest.mark.parametrize("name", ["accesses", "statements", "history"])
def test_the_pages_of_a_long_chain_cost_the_same(tmp_path: Path, name: str, chain_reads: Counter[bytes]) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        compare_pages(running, name, chain_reads)


def compare_pages(running: Running, name: str, chain_reads: Counter[bytes]) -> None:
    """Read a chain of more than 300 entries in pages of 20."""
    person = running.enrol("SYN-000001")
    running.grant(person)
    seq = running.authorize(question(person)).access_seq
    parts, size = services(running), 20
    with parts.table.read() as snapshot:
        tag = snapshot.tag_of(parts.vault.identifier_hash(person.scheme, person.value)) or b""
    opened = reads.open_entry(parts.vault, reads.read_entry(parts.ledger.store, tag, seq))
    assert opened is not None
    payload, start = codec.decode_statement(opened[1]).payload, parts.ledger.state.size
    message = st.AccessStatement.FromString(payload)
    writes = [Raw(kind=EntryKind.ACCESS, tag=tag, payload=payload, message=message) for _ in range(300)]
    for future in parts.sequencer.call(lambda: [parts.sequencer.submit(one) for one in writes]):
        future.result(HANG_S)
    running.wait_published()
    read = {
        "accesses": lambda: pages(
            running.access.ListAccesses, ac.ListAccessesRequest(subject=person, page_size=size), running.as_("app")
        ),
        "statements": lambda: pages(
            running.ledger.ListEntries, ls.ListEntriesRequest(page_size=size, start_index=start), running.as_("pipc")
        ),
        "history": lambda: history_parts(running, person, size=size, count=seq + len(writes)),
    }[name]()
    costs = []
    chain_reads.clear()
    for _ in read:
        costs.append(chain_reads[tag])
        chain_reads.clear()
    assert len(costs) >= len(writes) // size
    assert costs[0] > 0
    # Two rows of each entry; accesses are read 64 at a time. A page of statements may have seals too. A part of a
    # history also looks at the first entry, to see whether the chain was pruned.
    assert max(costs) <= 2 * (64 if name == "accesses" else size) + (2 if name == "history" else 0)


def test_holds_and_orders_of_erasure_read_nothing_of_a_long_chain(
    tmp_path: Path, chain_reads: Counter[bytes]
) -> None:
    """The policy table has the duties and the keys of a person. The order must not hold up the writer."""
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        add_authority(running)
        person = running.enrol("SYN-000001")
        put_hold(running, person, now_ms(running) + 3_600_000)
        parts, tag = services(running), holds(running, person).tag
        message = st.AccessStatement()
        write = Raw(kind=EntryKind.ACCESS, tag=tag, payload=message.SerializeToString(), message=message)
        for _ in range(300):
            parts.sequencer.submit(write).result(HANG_S)
        request = order(running, person)
        chain_reads.clear()
        assert holds(running, person).is_held
        assert chain_reads[tag] <= 3  # of the entry that put the hold
        chain_reads.clear()
        assert refusal(lambda: erase_once(running, request)) == "ERASURE_HELD"
        assert chain_reads[tag] <= 3
