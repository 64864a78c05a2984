"""LedgerService: checkpoints, leaves, receipts, proofs and histories. Clients verify all of these themselves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from consentd.core import codec
from consentd.core.history import MAX_NAME, RotationProof
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, has_author_keys
from consentd.cosigning.publisher import Published
from consentd.errors import CorruptionError, InvalidError, NotFoundError, NotReachedError, PreconditionError
from consentd.ledger import layout, reads
from consentd.ledger.reads import HeadProofs
from consentd.ledger.retention import first_after_gaps, read_pruned
from consentd.ledger.rotations import read_rotations
from consentd.ledger.vault import Vault
from consentd.service.context import Context
from consentd.service.pages import Cursor, Pager, expired, pruned_mark, read_range
from consentd.service.readings import record_readings, submit_readings
from consentd.service.receipts import get_receipt
from consentd.service.roles import Access, Whose, may_call
from consentd.service.rpc import rpc, stream_rpc
from consentd.service.servicer import Servicer, revision
from consentd.store import Store
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st

CHUNK_BYTES = 256 * 1024
"""The approximate maximum size of one message in a history stream."""
CACHED_ENTRIES = 256
"""A chain of at most so many entries is read once for a history, and cached: at most about 4 MiB each."""
_MAX_TRIES = 4

Opened = tuple[reads.StoredEntry, tuple[bytes, bytes] | None]


class LedgerService(Servicer):
    """``consentd.v1.LedgerService``."""

    @rpc
    def GetCheckpoint(self, request: ls.GetCheckpointRequest, context: Context) -> ls.GetCheckpointResponse:
        """Read the latest checkpoint."""
        return ls.GetCheckpointResponse(checkpoint=self.services.sequencer.checkpoints.latest().note)

    @rpc
    def ListLeaves(self, request: ls.ListLeavesRequest, context: Context) -> ls.ListLeavesResponse:
        """Read leaves in the order of their indexes."""
        pager = Pager(self.services.page_key, self.caller(context), request)
        store, (at, root) = self.services.ledger.store, self._begin(pager, request)
        start, end = at.position, min(at.position + pager.size, at.tree_size)
        leaves = dict(reads.scan_leaves(store, start, end))
        minimum = read_pruned(store).minimum  # read after the leaves, which a pruning may delete meanwhile
        if start < min(minimum, end):
            raise NotFoundError(f"leaves below the minimum index are pruned: `{minimum}`", "PRUNED")
        if len(leaves) != end - start:
            raise CorruptionError(f"leaf is missing in [{start}, {end}); see ops/RUNBOOK.md, `ledger refuses to open`")
        _, end_ms = read_range(request)
        found = [leaf for leaf in leaves.values() if codec.decode_leaf(leaf).time_ms < end_ms]
        is_last = end == at.tree_size or len(found) < len(leaves)  # times never decrease
        token = "" if is_last else pager.token(at._replace(position=end))
        at_size = revision(at.tree_size, root)
        return ls.ListLeavesResponse(first_index=start, leaves=found, revision=at_size, next_page_token=token)

    @rpc
    async def ListEntries(self, request: ls.ListEntriesRequest, context: Context) -> ls.ListEntriesResponse:
        """Read leaves and their openings (salt, statement); those of persons need the right to read statements."""
        caller = self.caller(context)
        persons = self.access("ListEntries", Whose.OTHER, context) is Access.ALLOWED
        kinds, (start_ms, end_ms) = frozenset(request.kinds), read_range(request)
        pager = Pager(self.services.page_key, caller, request)
        at, root = self._begin(pager, request)
        size, end = at.tree_size, min(at.position + pager.size, at.tree_size)
        response, read = ls.ListEntriesResponse(revision=revision(size, root)), []
        left_bytes = self.services.config.grpc.max_message_bytes // 2
        for index, leaf in reads.scan_leaves(self.services.ledger.store, at.position, end):
            event = codec.decode_leaf(leaf)
            if event.time_ms >= end_ms:
                end = size  # so is every later leaf
                break
            is_early = event.time_ms < start_ms
            if isinstance(event, codec.Event) and not is_early and (not kinds or event.kind in kinds):
                try:
                    entry = reads.read_entry(self.services.ledger.store, event.tag, event.seq)
                except NotFoundError:
                    continue  # the entry was pruned after the scan began
                opened = None
                if persons or entry.row is None or reads.is_plaintext(entry):
                    opened = reads.open_entry(self.services.vault, entry)
                if opened is None:
                    response.withheld_count += 1
                elif not reads.is_plaintext(entry):
                    read.append(event.tag)
                message = ls.LedgerEntry(index=index, leaf=leaf, opening=_opening(opened))
                response.entries.append(message)
                left_bytes -= message.ByteSize()
            if left_bytes <= 0:
                end = index + 1
                break
        self._check_deletions(at, request)
        if end < size:
            response.next_page_token = pager.token(at._replace(position=end))
        await record_readings(self, context, read, st.READ_SCOPE_STATEMENTS)
        return response

    @rpc
    async def GetReceipt(self, request: ls.GetReceiptRequest, context: Context) -> ls.GetReceiptResponse:
        """Read the receipt of an entry, in the form that the caller may have."""
        return await get_receipt(self, request, context)

    @rpc
    def GetInclusionProof(self, request: ls.GetInclusionProofRequest, context: Context) -> ls.GetInclusionProofResponse:
        """Prove that a leaf is in a tree."""
        store, size = self.services.ledger.store, self._tree_size(request.tree_size)
        return ls.GetInclusionProofResponse(
            hashes=reads.prove_inclusion(store, request.index, size),
            revision=revision(size, reads.root_at(store, size)),
        )

    @rpc
    def GetConsistencyProof(
        self, request: ls.GetConsistencyProofRequest, context: Context
    ) -> ls.GetConsistencyProofResponse:
        """Prove that one tree is a prefix of another."""
        store, second = self.services.ledger.store, self._tree_size(request.second_tree_size)
        first = request.first_tree_size
        return ls.GetConsistencyProofResponse(
            hashes=reads.prove_consistency(store, first, second),
            first=revision(first, reads.root_at(store, first)),
            second=revision(second, reads.root_at(store, second)),
        )

    @stream_rpc
    def GetHistory(self, request: ls.GetHistoryRequest, context: Context) -> Iterator[ls.GetHistoryResponse]:
        """Stream the history of a chain, with the proof that no entry is missing.

        A stream may take long. So credential and right are checked again before each message: a caller that was
        deactivated, or whose credential was removed or right ended, gets no further part.
        """
        tag, name = self._chain(request, context)
        for message in self._history(tag, name, request):
            if not name:  # everybody may read public chains
                self.check_still_known(context)
                self.access("GetHistory", self.whose(context), context)
                with self.services.table.read() as snapshot:
                    if snapshot.subject(tag) is None:  # the person was erased meanwhile
                        raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
            yield message

    def _history(self, tag: bytes, name: str, request: ls.GetHistoryRequest) -> Iterator[ls.GetHistoryResponse]:
        """Yield the messages of a history.

        Raises:
            InvalidError: the request asks for a part of a chain that is sent whole.
            PreconditionError: (AHEAD_OF_LEDGER) what the caller knows is longer than the history.
        """
        if request.known_count > codec.MAX_SEQ:
            raise PreconditionError("known_count is larger than the history", "AHEAD_OF_LEDGER")
        if request.max_entries and has_author_keys(name):
            raise InvalidError("chain states keys of authors and is sent whole: ask without max_entries")
        chains = _Chains(self.services.ledger.store, self.services.vault)
        asked = Part(request.known_count, request.max_entries or None)
        heads, published, names = self._prove_heads(chains, tag, name, asked)
        store = self.services.ledger.store
        inclusion = reads.prove_inclusion(store, heads.size - 1, heads.size)
        head = ls.HistoryHead(checkpoint=published.note, seal=heads.seal, seal_inclusion=inclusion)
        head.rotations.extend(_rotation(proof) for proof in read_rotations(store, heads.size))
        known = request.known_tree_size
        if known > heads.size:
            what = f"known_tree_size is larger than the checkpoint: `{known}` and `{heads.size}`"
            raise PreconditionError(what, "AHEAD_OF_LEDGER")
        if known:
            head.consistency.extend(reads.prove_consistency(store, known, heads.size))
        yield ls.GetHistoryResponse(head=head)
        if request.known_count > heads.chains[tag][0]:
            raise PreconditionError("known_count is larger than the history", "AHEAD_OF_LEDGER")
        for each, public_name in names.items():  # the requested chain is the first
            first, last = (asked if each == tag else WHOLE).seqs(store, each, heads.chains[each][0])
            yield from _stream_chain(chains, heads, each, public_name, first, last)

    # -- steps ------------------------------------------------------------------------------------------------

    def _chain(self, request: ls.GetHistoryRequest, context: Context) -> tuple[bytes, str]:
        """Return the tag (id) of the requested chain, and its public name; the name of a person's chain is empty."""
        if request.WhichOneof("chain") == "public_name":
            if len(request.public_name) > MAX_NAME:
                raise InvalidError(f"public_name is over its limit of {MAX_NAME} characters", "TOO_LARGE")
            return self._public_chain(request.public_name, context), request.public_name
        if request.WhichOneof("chain") != "subject":
            raise InvalidError("request names no chain")
        self.access("GetHistory", self.whose(context), context)
        with self.services.table.read() as snapshot:
            tag = self.read_tag(snapshot, request.subject, request.authority_seq, context)
        reading = submit_readings(
            self, context, [tag], st.READ_SCOPE_HISTORY, authority_seq=request.authority_seq
        )
        for future in reading:
            future.result()
        return tag, ""

    def _public_chain(self, name: str, context: Context) -> bytes:
        """Return the tag of a public chain. Raises ``NotFoundError`` if it has no published entry, but for an auditor.

        The proof that a chain has no entry shows another chain's key, so it is not given for a made-up name.
        """
        tag, services = codec.public_tag(name), self.services
        size = services.sequencer.checkpoints.latest().checkpoint.size
        if reads.head_at(services.ledger.store, tag, size)[0] == 0:
            with services.table.read() as snapshot:
                if not may_call("ListLeaves", self.kinds(snapshot, context)):
                    raise NotFoundError("no such public chain")
        return tag

    def _prove_heads(
        self, chains: "_Chains", tag: bytes, name: str, asked: "Part"
    ) -> tuple[HeadProofs, Published, dict[bytes, str]]:
        """Prove the heads of a chain, and of the chains that hold its authors' keys, at one published checkpoint.

        The authors are known only after the chain is read; a chain with keys has authors too; and entries may be added
        meanwhile. So the proof is repeated for all chains found so far, until it needs no further chain.
        """
        store, names = self.services.ledger.store, {tag: name, codec.LEDGER_TAG: LEDGER_CHAIN}
        for _ in range(_MAX_TRIES):
            tags = list(names)
            heads, published = self.services.sequencer.prove_heads(tags)
            wanted = dict(names)
            for each in tags:
                first, last = (asked if each == tag else WHOLE).seqs(store, each, heads.chains[each][0])
                for author in self._authors(chains.read(each, first, last)):
                    wanted.setdefault(codec.public_tag(author), author)
            if wanted == names:
                return heads, published, names
            names = wanted
        raise NotReachedError("authors of this history change too fast")

    def _authors(self, entries: Iterable[Opened]) -> set[str]:
        """Return the names of the public chains of the participants whose keys signed *entries*."""
        keys = {codec.decode_statement(opened[1]).key for _, opened in entries if opened is not None}
        with self.services.table.read() as snapshot:
            names = [owner.tag_or_name for key in keys if (owner := snapshot.key_ever(key)) is not None]
        return {PARTICIPANT_PREFIX + name for name in names if name and isinstance(name, str)}

    def _tree_size(self, asked: int) -> int:
        latest = self.services.sequencer.checkpoints.latest().checkpoint.size
        if asked > latest:
            raise NotReachedError(f"tree is larger than the latest checkpoint: `{asked}` and `{latest}`")
        return asked or latest

    def _begin(
        self, pager: Pager, request: ls.ListLeavesRequest | ls.ListEntriesRequest
    ) -> tuple[Cursor, bytes]:
        """Return where a page begins, and the root of the tree that all pages of the list read.

        A list reads a published checkpoint. It begins at start_index, or at the first leaf of start_time_ms.
        """
        store = self.services.ledger.store
        cursor = pager.cursor(self.services.ledger.state.size)
        if cursor is not None:
            return cursor, reads.root_at(store, cursor.tree_size)
        point = self.services.sequencer.checkpoints.latest().checkpoint
        start_ms, _ = read_range(request)
        first = 0
        if start_ms:
            low = min(read_pruned(store).minimum, point.size)
            first = reads.first_index_since(store, start_ms, low, point.size)
            # Of the leaves before, only some may be left. If one of them may be selected, all of them are read.
            first = 0 if first == low else first
        start = min(max(request.start_index, first), point.size)
        return Cursor(start, point.size, mark=pruned_mark(store)), point.root

    def _check_deletions(self, at: Cursor, request: ls.ListEntriesRequest) -> None:
        """Check that a pruning since the first page deleted nothing of this page. Raises as ``Deletions.pass_over``."""
        store = self.services.ledger.store
        if at.position >= at.tree_size or not request.page_token or at.mark == pruned_mark(store):
            return
        kept_from_ms = read_pruned(store).kept_from_ms
        leaf = store.get(layout.leaf_key(at.position))
        if leaf is None or codec.decode_leaf(leaf).time_ms < kept_from_ms:
            raise expired("entries were pruned")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a chain: the entries after *known*, at most *most* of them; None: all."""

    known: int = 0
    most: int | None = None

    def seqs(self, store: Store, tag: bytes, count: int) -> tuple[int, int]:
        """Return the seqs of the first and last entry of this part of a chain that has *count* entries."""
        first = max(self.known + 1, first_after_gaps(store, tag))
        return first, count if self.most is None else min(count, first + self.most - 1)


WHOLE = Part()


class _Chains:
    """Reads the chains of one history, and decrypts statements. A chain is read twice: to find authors, and to send."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store, self._vault = store, vault
        self._cached: dict[tuple[bytes, int, int], list[Opened]] = {}

    def read(self, tag: bytes, first: int, last: int) -> Iterable[Opened]:
        """Return the entries *first* to *last* of a chain. If they are few, they are cached for the second read."""
        cached = self._cached.get((tag, first, last))
        if cached is not None:
            return cached
        entries = reads.read_chain(self._store, tag, first, last)
        found = ((entry, reads.open_entry(self._vault, entry)) for entry in entries)
        if last - first >= CACHED_ENTRIES:
            return found
        return self._cached.setdefault((tag, first, last), list(found))


def _stream_chain(
    chains: _Chains, heads: HeadProofs, tag: bytes, name: str, first: int, last: int
) -> Iterator[ls.GetHistoryResponse]:
    count, head, proof = heads.chains[tag]
    chain = ls.HistoryChain(
        tag=tag, public_name=name, count=count, head=head if count else b"", map_proof=proof, first_seq=first
    )
    yield ls.GetHistoryResponse(chain=chain)
    piece, size = ls.HistoryEntries(), 0
    for entry, opened in chains.read(tag, first, last):
        piece.entries.add(index=entry.index, leaf=entry.leaf, opening=_opening(opened))
        size += len(entry.leaf) + (len(opened[1]) if opened else 0) + 64
        if size >= CHUNK_BYTES:
            yield ls.GetHistoryResponse(entries=piece)
            piece, size = ls.HistoryEntries(), 0
    if piece.entries:
        yield ls.GetHistoryResponse(entries=piece)


def _rotation(proof: RotationProof) -> ls.HistoryRotation:
    chain = proof.history
    header = ls.HistoryChain(
        tag=chain.tag, public_name=chain.public_name, count=chain.count, head=chain.head, map_proof=chain.map_proof,
        first_seq=chain.first_seq,
    )  # fmt: skip
    return ls.HistoryRotation(
        checkpoint=proof.checkpoint, seal=proof.seal, seal_inclusion=proof.seal_inclusion, chain=header,
        entries=[ls.LedgerEntry(leaf=entry.leaf, opening=_opening(entry.opening)) for entry in chain.entries],
        consistency=proof.consistency,
    )  # fmt: skip


def _opening(opened: tuple[bytes, bytes] | None) -> ls.Opening | None:
    return None if opened is None else ls.Opening(salt=opened[0], statement=opened[1])
