"""Measure how long the writer is held when a vocabulary is published, after which the rows of all persons are older.

The *hold* is the time of one batch of the sequencer: no other write begins meanwhile. It is measured in the sequencer.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from statistics import median
from typing import Any

from benchmarks.over_wire import Bench
from benchmarks.report import Row, spread
from benchmarks.world import RELAY, SCHEME, consents, identifier, new_request
from consentd.config import load as load_config
from consentd.core.codec import VOCABULARY_PREFIX
from consentd.core.kinds import EntryKind
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.sequencer.commands.consents import GrantConsent
from consentd.sequencer.commands.registry import PublicWrite
from consentd.server.daemon import Daemon
from consentd.server.keys import FIRST_OPERATOR
from consentd.server.pauses import shorten_pauses
from consentd.service.servicer import Services
from consentd.statements.values import vocabulary_message, vocabulary_value
from consentd.v1 import statement_pb2 as st

VERSIONS = 20
GRANTS = 10


def measure_publishing(bench: Bench) -> list[Row]:
    """Measure the holds of batches that publish a vocabulary, and of the batches between them, which write consents."""
    daemon = Daemon(load_config(bench.world.config_file))
    daemon.start()
    shorten_pauses()
    services = daemon.service_state.services
    assert services is not None, "a daemon that started serves"
    holds = _timed(services)
    chosen, publishing, beside = Random(12), list[float](), list[float]()
    with services.table.read() as snapshot:
        stated = snapshot.vocabulary_statement()
    version = DEFAULT_VOCABULARY.version if stated is None else vocabulary_value(stated).version
    for _ in range(VERSIONS):
        version += 1
        publishing += _held(holds, lambda of=version: _publish(services, of))  # type: ignore[misc]
        for _ in range(GRANTS):
            number = chosen.randrange(bench.world.subjects)
            beside += _held(holds, lambda number=number: _grant(services, number))  # type: ignore[misc]
    daemon.stop()
    persons = f"{bench.world.subjects:,} persons"
    common: dict[str, Any] = {
        "case": "publishing", "boundary": "in process, durable, one write at a time", "sample_unit": "s", "unit": "ms",
    }  # fmt: skip
    return [
        Row(**common, name=f"longest hold of the writer by a vocabulary, {persons}", value=max(publishing) * 1e3,
            at_most=50, samples=publishing, note=f"{spread(publishing)}; {VERSIONS} versions"),
        Row(**common, name="… by a consent after it, whose person's rows are older", value=max(beside) * 1e3,
            at_most=50, samples=beside, note=f"{spread(beside)}; p50 {median(beside) * 1e3:.1f} ms"),
    ]  # fmt: skip


def _timed(services: Services) -> list[float]:
    """Return a list to which the sequencer adds the seconds of each of its batches from now on."""
    holds: list[float] = []
    sequencer: Any = services.sequencer
    write_batch = sequencer._write_batch  # noqa: SLF001  # a metric of each batch would serve nobody else

    def timed(*arguments: Any, **options: Any) -> None:
        started = time.perf_counter()
        try:
            write_batch(*arguments, **options)
        finally:
            holds.append(time.perf_counter() - started)

    sequencer._write_batch = timed  # noqa: SLF001
    return holds


def _held(holds: list[float], write: Callable[[], None]) -> list[float]:
    """Make a write; return the holds until it was answered, those of batches that only seal included."""
    holds.clear()
    write()
    # The answer comes within the batch, just before the batch ends.
    while not holds:
        time.sleep(0.0005)
    return holds.copy()


def _publish(services: Services, version: int) -> None:
    message = vocabulary_message(replace(DEFAULT_VOCABULARY, version=version))
    services.sequencer.submit(
        PublicWrite(
            kind=EntryKind.VOCABULARY, request=new_request(FIRST_OPERATOR),
            chain=VOCABULARY_PREFIX + DEFAULT_VOCABULARY.id, message=message,
        )
    ).result()  # fmt: skip


def _grant(services: Services, number: int) -> None:
    statement = st.GrantStatement(consent=consents(number)[0], attestation=st.Attestation(attested_by=RELAY))
    hashed = services.vault.identifier_hash(SCHEME, identifier(number))
    write = GrantConsent(request=new_request(RELAY), identifier_hash=hashed, message=statement)
    services.sequencer.submit(write).result()
