"""Every metric of the daemon, in one list; no other module imports ``prometheus_client``.

Each ``Metrics`` has a registry of its own, and is passed to the code that measures. There is no global registry, so
tests, or several ledgers in one process, do not share counts.

Label values come from closed sets, and are checked at their first use, so that no label value identifies a person.
An age is exported as the time at which it began (``..._time_seconds``, UTC). If the thread that measures dies,
``time() - ...`` still grows; an exported age would not.
"""

import itertools
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import prometheus_client

from consentd.policy.default_vocabulary import REFUSAL_GROUNDS

T = TypeVar("T", prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)

log = logging.getLogger(__name__)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
"""Content type of the text that ``Metrics.render`` returns."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label and the closed set of its values.

    Attributes:
        pattern: must match each whole value. If the proto files define the set, the pattern matches any name in the
            form of an RPC's or an enum value's name.
        values: all values; empty if the proto files define them.
    """

    name: str
    pattern: re.Pattern[str]
    values: tuple[str, ...] = ()


def _one_of(name: str, *values: str) -> Label:
    return Label(name, re.compile("|".join(values)), values)


_METHOD = Label("method", re.compile(r"[A-Z][A-Za-z]{1,39}"))
_ERROR_REASON = Label("reason", re.compile(r"[A-Z][A-Z_]{1,59}"))
GROUNDS: Final = tuple(code.code for code in REFUSAL_GROUNDS)
"""The grounds of refusals that have a label value of their own. A realm's other grounds are counted as ``other``."""
_REFUSAL = _one_of("reason", *GROUNDS, "other", "DECISION")
_CODE = _one_of(
    "code", "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)
_RESULT = _one_of("result", "done", "cancelled", "failed")
_TOKEN = _one_of("result", "accepted", "expired", "refused")
_FETCH = _one_of("result", "ok", "failed")
_QUOTA = _one_of("quota", "entries", "refusals", "persons")
_OUTCOME = _one_of("outcome", "PERMIT", "PARTIAL", "DENY", "NO_CONSENT", "INDETERMINATE")
_VIA = _one_of("via", "check", "batch", "authorize", "exact")
_STORE = _one_of("store", "ledger", "table")
_PLACE = _one_of("place", "ledger", "vault", "table", "last_signed")
_LISTENER = _one_of("listener", "grpc", "http")
_CLOCK = _one_of("direction", "behind", "ahead")
_STEP = _one_of("step", "space", "batch", "read", "sign", "publish", "upkeep")
_REPEAT = _one_of("repeat", "same", "conflicting")

_POOL = _one_of(
    "pool",
    "check", "revoke", "write", "batch", "write_batch", "read", "scan", "stream", "admin", "anybody", "health", "tools",
    "wait", "replay",
)
_LIMIT = _one_of("limit", "caller", "all", "evicted", "bytes", "late")

_CALLER = _one_of("caller", "known", "unknown")

_WITNESS = Label("witness", re.compile(r"w[1-9][0-9]{0,3}"))
_ANSWER = _one_of("answer", "cosigned", "refused", "bad", "failed", "other_tree", "larger")
_ALARM = _one_of("alarm", "other_tree", "larger")

_RPC_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
_DISK_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Description:
    """What a metric is, for dashboards.

    Attributes:
        name: as it is exported, ``_total`` of counters included.
        kind: ``counter``, ``gauge`` or ``histogram``.
        is_private: it is rendered for authenticated scrapers only.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    is_private: bool


class _Children(Generic[T]):
    """A metric and its children, one for each tuple of label values. Counting costs one look-up in a dict."""

    __slots__ = ("_children", "_labels", "_metric")

    def __init__(self, metric: T, labels: tuple[Label, ...]) -> None:
        self._metric: T = metric
        self._labels = labels
        # Any thread may add a child. If two add the same one, prometheus_client gives both the same object.
        self._children: dict[tuple[str, ...], T] = {} if labels else {(): metric}

    def _child(self, values: tuple[str, ...]) -> T:
        child = self._children.get(values)
        if child is None:
            assert len(values) == len(self._labels), f"metric has {len(self._labels)} labels"
            for label, value in zip(self._labels, values, strict=True):
                # The message does not show the value, which may be an identifier.
                assert label.pattern.fullmatch(value), f"metric got a foreign value of label {label.name}"
            child = self._children[values] = self._metric.labels(*values)
        return child


class Counter(_Children[prometheus_client.Counter]):
    """A count that only grows."""

    def begin(self, *values: str) -> None:
        """Export the child of these label *values*, at 0 if nothing was counted yet.

        Otherwise the child is first exported after its first event, which an alarm on ``increase(...)`` then misses.
        """
        self._child(values)

    def inc(self, *values: str, by: int = 1) -> None:
        """Add *by* to the child of these label *values*, in the order of the labels' definition."""
        self._child(values).inc(by)


class Gauge(_Children[prometheus_client.Gauge]):
    """A figure that goes up and down."""

    def set(self, figure: float, *values: str) -> None:
        """Set the gauge, or its child of these label *values*, to *figure*."""
        self._child(values).set(figure)

    def follow(self, read: Callable[[], float], *values: str) -> None:
        """Export the figure that *read* returns. ``Metrics.render`` calls *read* each time, on any thread.

        If *read* raises, the figure is NaN: one figure that cannot be read must not hide all others.
        """

        def read_or_nan() -> float:
            try:
                return read()
            except Exception as error:  # noqa: BLE001  # *read* asks a disk, a table or a server that may be closing
                log.warning("figure of a metric cannot be read: %s", type(error).__name__)
                return math.nan

        self._child(values).set_function(read_or_nan)


class Histogram(_Children[prometheus_client.Histogram]):
    """A distribution."""

    def observe(self, figure: float, *values: str) -> None:
        """Add *figure* to the distribution of the child of these label *values*."""
        self._child(values).observe(figure)


class Metrics:
    """All metrics of one daemon. Any thread may use them."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        # Figures that change with what a person's consents say. Who asks one question and reads them before and after
        # would learn what the answer hides. So they are rendered for authenticated scrapers only.
        self._private_registry = prometheus_client.CollectorRegistry()
        self._descriptions: list[Description] = []
        self._add_calls()
        self._add_decisions()
        self._add_writing()
        self._add_checkpoints()
        self._add_witnesses()
        self._add_scrubbing()
        self._add_administration()
        self._add_readiness()

    def _add_calls(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.rpcs = counter("rpcs", "RPCs answered.", _METHOD, _CODE)
        self.rpc_seconds = histogram("rpc_seconds", "Time from request to answer.", _RPC_SECONDS, _METHOD)
        self.errors = counter("errors", "Errors sent, by ErrorReason.", _ERROR_REASON)
        self.calls = gauge("calls", "Calls in flight, by the pool that serves them.", _POOL)
        self.calls_limit = gauge("calls_limit", "Most calls in flight, by pool.", _POOL)
        self.calls_refused = counter(
            "calls_refused",
            "Calls ended by a limit: of the caller; of all; evicted to make room; of bytes; late: no message in time.",
            _POOL, _LIMIT,
        )  # fmt: skip
        self.calls_parked = gauge("calls_parked", "Refused calls that wait for their answer.")
        self.calls_parked_limit = gauge("calls_parked_limit", "Most refused calls that wait for their answer.")
        self.refusals_parked = counter(
            "refusals_parked", "Refusals that are answered late, because their caller, or all, had many.", _CALLER
        )
        self.repeats = counter(
            "repeats", "Requests with a known request_id: same, answered again; conflicting, refused.", _REPEAT
        )

    def _add_decisions(self) -> None:
        counter = self._counter
        private = partial(self._counter, is_private=True)
        self.decisions = private("decisions", "Decisions taken.", _OUTCOME, _VIA)
        self.unenrolled_questions = private("unenrolled_questions", "Questions about subjects not enrolled.")
        self.refusals = private(
            "refusals", "REFUSAL entries, by the ground of Decree 42-8; DECISION: an access not permitted.", _REFUSAL
        )

        self.quota_refusals = counter(
            "quota_refusals", "Calls refused because the caller had used up a quota of the realm's rules.", _QUOTA
        )

    def _add_writing(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.pool_entries = gauge("pool_entries", "Writes that wait for the sequencer.")
        self.batch_entries = histogram("batch_entries", "Entries of one synced write.", _SIZES)
        self.commit_seconds = histogram("commit_seconds", "Time of one commit, synced.", _DISK_SECONDS, _STORE)
        self.ledger_size = gauge("ledger_size", "Leaves in the ledger, seals included.")
        self.map_bytes = gauge("map_bytes", "Memory of the hashes above the map's buckets.")
        self.free_bytes = gauge("free_bytes", "Free bytes of its file system; NaN: no such directory.", _PLACE)
        self.table_used_share = gauge("table_used_share", "How much of the table's map is in use, 0 to 1.")
        self.table_damaged = gauge("table_damaged", "How often a damaged row of the table was read since the start.")
        self.table_readers = gauge("table_readers", "Slots of the table's 1024 that readers of all processes take.")
        self.table_oldest_reader_time_seconds = gauge(
            "table_oldest_reader_time_seconds",
            "When the oldest open read transaction of the table was first seen; NaN: none is open.",
        )
        self.table_dead_readers = counter("table_dead_readers", "Readers that died in a transaction, and were cleared.")
        self.clock_disagrees = gauge("clock_disagrees", "1 while the clock disagrees with the ledger, else 0.")
        self.clock_refusals = counter("clock_refusals", "Writes refused because the clock jumped.", _CLOCK)

        self.shortages = counter(
            "shortages", "Steps postponed because descriptors, memory, threads or room were short, by step.", _STEP
        )
        self.open_files = gauge("open_files", "File descriptors of this process, connections included.")
        self.open_files_limit = gauge("open_files_limit", "Most file descriptors that this process may have.")
        self.http_connections = gauge("http_connections", "Open connections of the HTTP listener.")
        self.http_connections_limit = gauge("http_connections_limit", "Most connections of the HTTP listener.")

    def _add_checkpoints(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.seal_seconds = histogram("seal_seconds", "Time to update the map and seal.", _DISK_SECONDS)
        self.checkpoint_size = gauge("checkpoint_size", "Size of the last checkpoint published.")
        self.checkpoint_time_seconds = gauge("checkpoint_time_seconds", "When the last one was published.")
        self.checkpoints = counter("checkpoints", "Checkpoints published.")
        self.publish_failures = counter("publish_failures", "Checkpoints that had no quorum in time.")
        self.publish_seconds = histogram(
            "publish_seconds", "Time from signing to publishing, where witnesses are asked.", _RPC_SECONDS
        )
        self.checkpoints_waiting = gauge("checkpoints_waiting", "Checkpoints signed and not published yet.")
        self.quorum = gauge("quorum", "1 while checkpoints get the cosignatures they need, else 0.")

    def _add_witnesses(self) -> None:
        counter, histogram = self._counter, self._histogram
        self.witness_answers = counter(
            "witness_answers", "Results of asking a witness; w2 is the second one of the policy.", _WITNESS, _ANSWER
        )
        self.witness_seconds = histogram(
            "witness_seconds", "Time from asking a witness to its cosignature.", _RPC_SECONDS, _WITNESS
        )
        self.witness_alarms = counter("witness_alarms", "Answers of witnesses that know another tree.", _ALARM)

    def _add_scrubbing(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.scrub_records = counter("scrub_records", "Stored records read again in the background.")
        self.scrub_damaged_records = gauge(
            "scrub_damaged_records", "Records found damaged by the last scrub, or by this one so far if more."
        )
        self.scrub_share = gauge("scrub_share", "Estimate of how much of the present scrub is done, 0 to 1.")
        self.scrub_pass_time_seconds = gauge("scrub_pass_time_seconds", "When a scrub last read all records.")
        self.scrub_failures = counter("scrub_failures", "Scrubs that failed before their end.")

    def _add_administration(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.operations = counter("operations", "Operations that have ended, by result.", _RESULT)
        self.operation_start_time_seconds = gauge(
            "operation_start_time_seconds", "When the operation that is running was started; NaN: none is running."
        )
        self.backup_time_seconds = gauge(
            "backup_time_seconds", "When the last backup was made; 0: there is none; NaN: none is configured."
        )
        self.backup_proven_time_seconds = gauge(
            "backup_proven_time_seconds",
            "When the backup was made that was proven last; 0: none was proven; NaN: none is configured.",
        )
        self.erasure_pending_time_seconds = gauge(
            "erasure_pending_time_seconds", "Since when an erasure is not complete; NaN: all are complete."
        )
        self.credential_end_time_seconds = gauge(
            "credential_end_time_seconds", "When the next of the valid credentials ends; NaN: none has an end."
        )

        # -- logins of persons
        self.id_tokens = counter("id_tokens", "ID tokens of calls, by result.", _TOKEN)
        self.id_key_fetches = counter("id_key_fetches", "Fetches of the keys of ID providers, by result.", _FETCH)
        self.id_keys_failed = gauge("id_keys_failed", "ID providers whose keys could not be fetched last time.")

    def _add_readiness(self) -> None:
        gauge = self._gauge
        self.tls_certificate_end_time_seconds = gauge(
            "tls_certificate_end_time_seconds", "When the certificate of a listener ends.", _LISTENER
        )
        self.ready = gauge("ready", "1 while the daemon serves, else 0.")
        self.restored_copy = gauge("restored_copy", "1 while the daemon serves a restored copy, which only reads.")
        self.table_heartbeat_time_seconds = gauge(
            "table_heartbeat_time_seconds", "When the writer last wrote its heartbeat to the table."
        )

    def value(self, name: str, **labels: str) -> float:
        """Return the figure of the sample *name* with these *labels*; 0 if there is none yet."""
        found = self._registry.get_sample_value(name, labels)
        return found or self._private_registry.get_sample_value(name, labels) or 0.0

    def render(self, *, with_private: bool) -> bytes:
        """Return all figures in Prometheus' text format, of content type ``CONTENT_TYPE``.

        *with_private*: also those that change with what a person's consents say; for authenticated scrapers.
        """
        public = prometheus_client.generate_latest(self._registry)
        return public + prometheus_client.generate_latest(self._private_registry) if with_private else public

    def descriptions(self) -> list[Description]:
        """Return what each metric is, in the order of their definition."""
        return list(self._descriptions)

    def _counter(self, name: str, text: str, *labels: Label, is_private: bool = False) -> Counter:
        registry = self._private_registry if is_private else self._registry
        made = self._made(prometheus_client.Counter, f"{name}_total", text, labels, registry=registry)
        counter = Counter(made, labels)
        if all(label.values for label in labels):
            for values in itertools.product(*(label.values for label in labels)):
                counter.begin(*values)
        return counter

    def _gauge(self, name: str, text: str, *labels: Label) -> Gauge:
        return Gauge(self._made(prometheus_client.Gauge, name, text, labels), labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: Label) -> Histogram:
        return Histogram(self._made(prometheus_client.Histogram, name, text, labels, buckets=buckets), labels)

    def _made(self, kind: Callable[..., T], name: str, text: str, labels: tuple[Label, ...], **options: object) -> T:
        names = tuple(each.name for each in labels)
        made = kind(f"consentd_{name}", text, names, **{"registry": self._registry, **options})
        is_private = options.get("registry") is self._private_registry
        self._descriptions.append(
            Description(f"consentd_{name}", type(made).__name__.lower(), text, names, is_private)
        )
        return made
