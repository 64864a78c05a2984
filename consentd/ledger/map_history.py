"""The map at earlier seals, for proofs that refer to a published checkpoint.

The store and ``TagMap`` have the map at the last seal. A checkpoint is published only after witnesses have cosigned it,
and by then later seals have changed the map. So for each seal whose checkpoint is published, or may be published, there
is a *layer*: the buckets, and the hashes above the buckets, that later seals replaced, with their old content. A bucket
or hash that a layer lacks is looked up in the next layer, and after the last layer in the map itself.

Example: seals at sizes 10, 20 and 30; the checkpoint of size 10 is published. Seal 20 changed bucket 3, seal 30 changed
buckets 3 and 5. The layer of size 10 has bucket 3 as it was before seal 20. The layer of size 20 has buckets 3 and 5 as
they were before seal 30. If nobody needs size 20, its layer is merged into the layer of size 10, which keeps its own
bucket 3 and gets bucket 5. There are never more than three layers: for the published checkpoint, for the checkpoint
that waits for cosignatures, and for the seal before the last seal.

Why not prove only from the last seal? The checkpoint of the last seal is not published yet, and while the witnesses do
not answer, nothing could be proven. Why not copy the map? For 52 million people a copy takes 10 GB.

If all layers together exceed *limit_bytes*, all of them are dropped. Then no chain head can be proven until the next
checkpoint is published. Only the sequencer's thread uses this module.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from consentd.core import bucketed

LIMIT_BYTES = 256 << 20
_SLOT_BYTES = 180  # memory of one hash in ``slots``, with its key and its place in the dict
_BUCKET_BYTES = 150  # memory of one bucket in ``buckets``, without the bucket's own bytes


class MapAt:
    """The map at an earlier seal. A ``MapAt`` is valid until the next seal changes the map.

    Attributes:
        top: the hashes above the buckets.
    """

    __slots__ = ("_layers", "top")

    def __init__(self, present: bucketed.Top, layers: list["_Layer"]) -> None:
        self.top = present.before([layer.slots for layer in layers])
        self._layers = layers

    def bucket(self, number: int) -> bytes | None:
        """Return a bucket's content at that seal; None if the store still has the bucket unchanged."""
        return next((layer.buckets[number] for layer in self._layers if number in layer.buckets), None)


class _Layer:
    """The old content that seals replaced after this layer's seal, up to and including the next layer's seal."""

    __slots__ = ("_bucket_bytes", "buckets", "size", "slots")

    def __init__(self, size: int, buckets: Mapping[int, bytes], slots: dict[int, bytes]) -> None:
        self.size = size
        self.buckets: dict[int, bytes] = {}
        self.slots = slots
        self._bucket_bytes = 0
        self._add(buckets)

    def merge(self, later: "_Layer") -> None:
        """Add the next layer's buckets and hashes. Those that this layer has already remain, because they are older."""
        self._add(later.buckets)
        self.slots = {**later.slots, **self.slots}

    def bytes_used(self) -> int:
        """Return an estimate of the memory that this layer takes."""
        return self._bucket_bytes + _BUCKET_BYTES * len(self.buckets) + _SLOT_BYTES * len(self.slots)

    def _add(self, buckets: Mapping[int, bytes]) -> None:
        for number, bucket in buckets.items():
            if number not in self.buckets:
                self.buckets[number] = bucket
                self._bucket_bytes += len(bucket)


class MapHistory:
    """The layers, oldest first.

    Attributes:
        size: size of the tree whose last leaf is the last seal.
    """

    __slots__ = ("_layers", "_limit_bytes", "size")

    def __init__(self, size: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self.size = size
        self._limit_bytes = limit_bytes
        self._layers: list[_Layer] = []

    def record(self, size: int, buckets: Mapping[int, bytes], top: bucketed.Top) -> None:
        """Record the content that the next seal, at *size*, will replace. Must be called before the map changes.

        Args:
            buckets: the old content of the buckets that change.
            top: the hashes above the buckets, not changed yet.
        """
        if self.size:
            self._layers.append(_Layer(self.size, buckets, top.slots(buckets)))
        self.size = size

    def keep(self, sizes: AbstractSet[int]) -> None:
        """Keep the layers of the seals at *sizes*, and merge each other layer into the kept layer before it, if any."""
        layers: list[_Layer] = []
        for layer in self._layers:
            if layer.size in sizes:
                layers.append(layer)
            elif layers:
                layers[-1].merge(layer)
        self._layers = layers
        if sum(layer.bytes_used() for layer in layers) > self._limit_bytes:
            self._layers = []

    def at(self, size: int, present: bucketed.Top) -> MapAt | None:
        """Return the map at the seal at *size*; None if it is not kept. *present*: the hashes at the last seal."""
        for number, layer in enumerate(self._layers):
            if layer.size == size:
                return MapAt(present, self._layers[number:])
        return None
