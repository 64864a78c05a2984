"""Recompute the decisions about a part of a ledger's persons (a partition), from a policy table for these persons.

A decision depends on the registry (participants, keys, vocabulary, rules) and on the consents of one person. So each
partition applies, in the order of the ledger, all entries of the registry and the entries of its persons, chosen by
their tags (pseudonyms). It applies the enrolments and erasures of all persons too, because a refusal in an unknown
chain may be about any person who is not enrolled. The results of all partitions add up to the result of one partition
with all persons.

Every partition hashes all leaves, so each partition proves that the log signed the leaves that it read.

State, in a directory of the partition: the policy table; ``partition.json`` with the results; and ``unreadable``, the
tags of chains with an unreadable consent, 32 bytes each. A killed run continues from the last commit of the table.
"""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar

from google.protobuf.message import Message

from consentd.audit import decisions, duties, outcomes, served, workers
from consentd.audit.authorship import CHECKED, check_written
from consentd.audit.partition_plan import PartitionPlan, PartitionResult
from consentd.core import codec, kinds, tiles
from consentd.core.kinds import DECISIONS, NO_DECISION_EFFECT, REALM, USES, EntryKind
from consentd.core.pruned import Pruned
from consentd.core.recent_statements import RecentStatements, decode_recent, encode_recent
from consentd.errors import (
    CorruptionError,
    InvalidError,
    MalformedError,
    ProofError,
    RequestError,
    StorageError,
    VerificationError,
)
from consentd.files import write_file
from consentd.sequencer.commands.erasure import check_erasure
from consentd.sequencer.commands.served import shown_by
from consentd.statements import payloads
from consentd.table.checked_rows import DamagedRowError
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.v1 import statement_pb2 as st
from consentd.verify import findings
from consentd.verify.findings import MAX_FAULTS, Fault
from consentd.verify.source import Opening, leaf_hashes, read_leaves, read_tiles, width_of
from consentd.verify.statements import open_statement

P = ParamSpec("P")
T = TypeVar("T")

MAX_UNREADABLE = 1_000_000
"""Most chains with an unreadable consent that a partition lists. With more, all its decisions are undetermined."""
STATE_FILE = "partition.json"
_MAP_MB = 1 << 16  # reserves addresses, and no memory
_TAG = 32
_OF_ALL = REALM | {EntryKind.ENROL, EntryKind.ERASURE}
"""Kinds whose entries every partition applies: those of the registry, and those that show who is enrolled. An unknown
chain has refusals about persons of all partitions who are not enrolled."""


class Partition:
    """One partition. *result* covers all bundles that were replayed so far. One thread owns this object."""

    def __init__(self, plan: PartitionPlan) -> None:
        """Open the ledger, and open or create the partition's state. Raises as ``replay_decisions``."""
        self._plan, self._point = plan, plan.point
        directory = plan.directory / f"{plan.number}-of-{plan.of}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"state cannot be written: `{directory}`: {error.strerror}") from error
        self._state_path, self._unreadable_path = directory / STATE_FILE, directory / "unreadable"
        self._saved: dict[str, Any] | None = None  # the state that was saved last
        self._unreadable: set[bytes] = set()
        self._new_unreadable: list[bytes] = []
        self._registry_lost = False  # an entry of the registry is unreadable
        self._time_ms = 0  # time of the last leaf that was decoded
        self._recent = RecentStatements()  # requests that no later decision may record again
        with ExitStack() as stack:
            self._table = Table.open(directory / "table", map_size_mb=_MAP_MB)
            stack.callback(self._table.close)
            self._source = plan.location.open()
            stack.callback(self._source.close)
            self._pruned = Pruned(self._source.pruned().kept_from_ms)
            self.result = self._restore()
            self._edge = self._check_continues(self.result.size)
            self.close = stack.pop_all().close  # closes source and table

    def replay(self, first: int, count: int) -> PartitionResult:
        """Replay *count* bundles from bundle *first* on, except bundles that were replayed before.

        Raises as ``replay_decisions``.
        """
        end = min(first + count, -(-self._point.size // tiles.TILE_WIDTH))
        begin = max(first, self.result.size // tiles.TILE_WIDTH)
        if begin < end and self.result.size < self._point.size:
            try:
                self._replay_bundles(range(begin, end))
            except DamagedRowError as error:
                raise StorageError(f"state is damaged; remove it: `{self._plan.directory}`") from error
        return self.result

    def _replay_bundles(self, bundles: range) -> None:
        with self._table.begin() as transaction:
            for n in bundles:
                self._replay_bundle(n, transaction)
            self._save()
            # After a crash here, the file has two states. The size of the table decides which of them is used.
            transaction.commit(self.result.size, self._edge.root(), time_ms=self._time_ms, wall_ms=0)

    def finish(self) -> None:
        """Compare the tree with the checkpoint. Raises ProofError if the log did not sign these leaves."""
        if self._edge.root() != self._point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {self._point.size}")

    # -- leaf by leaf -----------------------------------------------------------------------------------------

    def _replay_bundle(self, n: int, transaction: TableTransaction) -> None:
        start = n * tiles.TILE_WIDTH
        leaves = read_leaves(self._source, n, width_of(n, self._point.size))
        new = self.result.size - start
        self._edge, _ = self._edge.append(leaf_hashes(self._source, n, leaves)[new:])
        asked = [leaf if at >= new and self._needs(leaf) else b"" for at, leaf in enumerate(leaves)]
        openings = self._source.openings(n, asked)
        if openings is None:
            raise InvalidError("decisions cannot be replayed without openings: give --statements, or another source")
        for index, (leaf, opening) in enumerate(zip(asked, openings, strict=True), start):
            decoded = codec.decode_leaf(leaf) if leaf else None
            if decoded is not None:
                self._time_ms = decoded.time_ms
            if isinstance(decoded, codec.Event):
                self._replay_event(transaction, index, decoded, opening)
        self.result.size = start + len(leaves)

    def _needs(self, leaf: bytes) -> bool:
        """Return whether this partition must decode a leaf. Decoding a malformed leaf raises an error, as it must."""
        if len(leaf) != codec.EVENT_LENGTH or codec.kind_of(leaf) in _OF_ALL:
            return True
        return int.from_bytes(codec.tag_of(leaf)[:8]) % self._plan.of == self._plan.number

    def _replay_event(self, transaction: TableTransaction, index: int, event: codec.Event, opening: Opening) -> None:
        result = self.result
        if not kinds.is_known(event.kind):
            result.not_checked[findings.UNKNOWN_KIND] += 1
            transaction.apply(event, None, index=index)
            return
        if event.kind == EntryKind.ERASURE:
            if opening is not None:
                self._check_erasure(transaction, index, event, opening)
            transaction.apply(event, None, index=index)
            served.forget(transaction, event.tag)
            return
        if opening is None:
            self._miss(transaction, event)
            return
        try:
            statement = open_statement(event, opening)
            if event.kind not in DECISIONS:
                if event.kind in payloads.MESSAGES:
                    message = payloads.decode_payload(event.kind, statement.payload)
                    if event.kind in CHECKED:
                        self._check_written(transaction, index, event, message, statement.key)
                    transaction.apply(event, message, index=index)
                    if isinstance(message, st.ServedStatement):
                        served.put_shown(transaction, event, shown_by(message))
                    elif isinstance(message, st.DutyStatement):
                        duties.put_duty(transaction, event, statement.key)
                    elif isinstance(message, st.OutcomeStatement):
                        self._compare_outcome(transaction, index, event, message, statement.key)
                return
            found = self._find_differences(transaction, index, event, statement)
        except (VerificationError, RequestError, CorruptionError) as error:
            what = "decision cannot be taken again" if event.kind in DECISIONS else "entry cannot be applied"
            self._add_fault(index, f"{what}: {error}")
            return
        if found:
            self._add_fault(index, "decision comes out otherwise: " + "; ".join(found))

    def _find_differences(
        self, transaction: TableTransaction, index: int, event: codec.Event, statement: codec.Statement
    ) -> list[str]:
        """Return in what the decision of an ACCESS or REFUSAL comes out otherwise. What it uses up is used up anyway.

        Raises as ``decisions.differences``.
        """
        result = self.result
        access = payloads.parse(st.AccessStatement, statement.payload) if event.kind == EntryKind.ACCESS else None
        if access is not None:
            outcomes.put_access(transaction, event, access)
        try:
            decisions.verify_asked_once(self._recent, event, statement)
            if event.time_ms < self._pruned.kept_from_ms:
                # This decision is still stored, but consents that it depended on may be pruned.
                result.not_checked[findings.DECISION_PRUNED] += 1
                return []
            if self._is_uncertain(event):
                result.not_checked[findings.DECISION_UNCERTAIN] += 1
                return []
            found = decisions.differences(transaction, index, event, statement, origin=self._point.origin)
        finally:
            if access is not None:
                transaction.apply(event, access, index=index)
        if not found:
            result.same[EntryKind(event.kind).name] += 1
        return found

    def _is_uncertain(self, event: codec.Event) -> bool:
        """Return whether an entry that decisions about the person depend on could not be read."""
        return self._registry_lost or event.tag in self._unreadable or len(self._unreadable) > MAX_UNREADABLE

    def _check_written(
        self, view: TableTransaction, index: int, event: codec.Event, message: Message, key: bytes
    ) -> None:
        """Add a fault for an entry that must not be written so. It has its effect all the same."""
        if self._is_uncertain(event):
            return  # who was registered, or what the consent was, is not known
        try:
            check_written(view, event, message, key)
            served.check_rests_on_served(view, event, message)
            if isinstance(message, st.DutyStatement):
                duties.check_end(view, event, message, key)
        except RequestError as error:
            self._add_fault(index, f"entry must not be written so: {error}")

    def _check_erasure(self, view: TableTransaction, index: int, event: codec.Event, opening: bytes) -> None:
        """Add a fault for an ERASURE that nobody with the right to it ordered."""
        try:
            statement = open_statement(event, opening)
            message = payloads.decode_payload(event.kind, statement.payload)
        except VerificationError as error:
            self._add_fault(index, f"erasure cannot be read: {error}")
            return
        assert isinstance(message, st.ErasureStatement), "decoded as the kind says"
        if self._registry_lost:
            return  # who had the right is not known
        is_enrolled = view.subject(event.tag) is not None or view.other(event.tag) is not None
        try:
            check_erasure(view, message, statement.key, is_enrolled=is_enrolled)
        except RequestError as error:
            self._add_fault(index, f"entry must not be written so: {error}")

    def _compare_outcome(
        self, view: TableTransaction, index: int, event: codec.Event, message: st.OutcomeStatement, key: bytes
    ) -> None:
        """Add an outcome to *beyond* if it names categories that its access did not permit; a fault if who signed it
        with *key*, or attests it, had no part in the access.
        """
        try:
            if not self._registry_lost:
                outcomes.check_reporter(view, event, message, key)
        except RequestError as error:
            self._add_fault(index, f"entry must not be written so: {error}")
        if not message.categories:
            return
        found, result = outcomes.find_beyond(view, event, message), self.result
        if found is None:
            result.not_checked[findings.OUTCOME_UNCOMPARED] += 1
        elif found:
            result.beyond_count += 1
            if len(result.beyond) < MAX_FAULTS:
                result.beyond.append(index)

    def _add_fault(self, index: int, what: str) -> None:
        if len(self.result.faults) < MAX_FAULTS:
            self.result.faults.append(Fault(index, what))

    def _miss(self, transaction: TableTransaction, event: codec.Event) -> None:
        """Record which decisions cannot be determined without the statement of this event.

        A pruned statement affects no decision that is recomputed. ``audit verify`` checks that pruning was allowed.
        """
        is_pruned = self._pruned.covers(event)
        if event.kind == EntryKind.SERVED:
            served.put_shown(transaction, event, None)
        elif event.kind == EntryKind.DUTY:
            duties.put_duty(transaction, event, b"")
        elif event.kind == EntryKind.ENROL:
            transaction.put_other(event.tag, b"")  # for ``_check_erasure``; deleted by ``served.forget``
        if event.kind in DECISIONS:
            self.result.not_checked[findings.DECISION_PRUNED if is_pruned else findings.DECISION_CLOSED] += 1
        if event.kind in REALM:
            # A person's own key changes no decision.
            self._registry_lost |= event.kind != EntryKind.KEY
        elif event.kind not in NO_DECISION_EFFECT and not is_pruned and len(self._unreadable) <= MAX_UNREADABLE:
            if event.kind in USES and not transaction.needs(event):
                return  # the person has no consent that recurs
            if event.tag not in self._unreadable:
                self._new_unreadable.append(event.tag)
            self._unreadable.add(event.tag)

    # -- saved state ------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Save this state and the previous one, which is used if a crash comes before the table's commit."""
        result = self.result
        state = {
            "size": result.size, "same": result.same, "not_checked": result.not_checked,
            "faults": [[fault.index, fault.what] for fault in result.faults],
            "beyond": result.beyond, "beyond_count": result.beyond_count,
            "unreadable": len(self._unreadable), "registry_lost": self._registry_lost,
            "recent": encode_recent(self._recent.rows()).hex(),
        }  # fmt: skip
        content = json.dumps({"origin": self._point.origin, "states": [self._saved, state]})
        self._saved = json.loads(json.dumps(state))  # a copy, because the counters change later
        try:
            # A killed run may have written more tags than the restored state counts. This run overwrites them, with
            # the same bytes, because the tags follow from the leaves.
            with self._unreadable_path.open("r+b" if self._unreadable_path.exists() else "w+b") as file:
                file.seek(_TAG * (len(self._unreadable) - len(self._new_unreadable)))
                file.write(b"".join(self._new_unreadable))
        except OSError as error:
            raise StorageError(f"state cannot be written: `{self._unreadable_path}`: {error.strerror}") from error
        write_file(self._state_path, content.encode(), name="state")
        self._new_unreadable.clear()

    def _restore(self) -> PartitionResult:
        try:
            with self._table.read() as snapshot:
                size, self._time_ms = snapshot.size, snapshot.time_ms
            if size == 0:
                return PartitionResult()
            saved = json.loads(self._state_path.read_text())
            if saved["origin"] != self._point.origin:
                raise InvalidError(f"state is of another ledger: `{saved['origin']}`")
            state = next(one for one in saved["states"] if one is not None and one["size"] == size)
            self._saved, self._registry_lost = state, state["registry_lost"]
            self._recent = RecentStatements(decode_recent(bytes.fromhex(state["recent"])))
            with self._unreadable_path.open("rb") as file:
                self._unreadable = {file.read(_TAG) for _ in range(state["unreadable"])}
            faults = [Fault(index, what) for index, what in state["faults"]]
            return PartitionResult(
                size, Counter(state["same"]), Counter(state["not_checked"]), faults, list(state["beyond"]),
                state["beyond_count"],
            )  # fmt: skip
        except (
            OSError, ValueError, KeyError, TypeError, StopIteration, OverflowError, RecursionError, MalformedError,
            DamagedRowError, CorruptionError,
        ) as error:  # fmt: skip
            raise StorageError(f"state cannot be continued; remove it: `{self._plan.directory}`") from error

    def _check_continues(self, size: int) -> tiles.Edge:
        """Return the right edge of the replayed tree. Raise an error if the ledger lacks leaves that come after."""
        if size > self._point.size:
            raise ProofError(f"ledger is smaller than what was replayed: `{self._point.size}` and `{size}`")
        if size == 0:
            return tiles.Edge()
        edge = tiles.Edge.from_tiles(size, read_tiles(self._source, tiles.plan_root(size), self._point.size))
        if not self._pruned.kept_from_ms:
            return edge
        # A pruned entry that follows the state may have ended a consent that is in the state's table.
        n, at = divmod(size - 1, tiles.TILE_WIDTH)
        leaf = read_leaves(self._source, n, width_of(n, self._point.size))[at]
        if not leaf or codec.decode_leaf(leaf).time_ms < self._pruned.kept_from_ms:
            directory = self._plan.directory
            raise InvalidError(f"state is from before what the ledger keeps; remove it and begin anew: `{directory}`")
        return edge


# -- in a process of its own -------------------------------------------------------------------------------------

_partition: Partition | None = None  # a worker process opens its partition in ``start_worker``


def start_worker(plan: PartitionPlan) -> PartitionResult:
    """Open a partition in a worker process. Raises as ``Partition``."""
    global _partition
    workers.end_with_parent()
    _partition = Partition(plan)
    return _partition.result


def call_in_worker(method: Callable[Concatenate[Partition, P], T], *args: P.args, **options: P.kwargs) -> T:
    """Call a method of the partition of a worker process."""
    assert _partition is not None, "a worker opens its partition first"
    return method(_partition, *args, **options)
