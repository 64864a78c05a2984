"""Remember the map as it was at seals before the last: what proofs against a published checkpoint need.

The map on disk and in memory is that of the last seal. A checkpoint is published once witnesses cosigned it, and by
then later seals have changed the map; while witnesses are away, many have. For each seal that is published, or may
yet be, there is a *layer*: the buckets and the upper slots that later seals replaced, as they were. What a layer lacks
stands in the layer of the next such seal, and at last in the map itself. Layers of seals in between are merged away,
so there are never more than three, however long an outage; each is at most as large as the map.

Why not wait for the cosignatures of the last seal instead? Nothing could be proven during an outage, and never at
once; and a seal in between may never be published. Why not a copy of the map? At 52 million people it has 10 GB.

Beyond *limit_bytes* all layers are dropped: then the published checkpoint cannot be proven against any more until the
next one is published, and that is all. Owned by the sequencer, like the map.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from consentd.core import bucketed

LIMIT_BYTES = 256 << 20
_SLOT_BYTES = 180  # of a slot in a dict, keys and all
_BUCKET_BYTES = 150  # of a bucket in a dict, beside its own bytes


class MapAt:
    """The map as of a seal before the last. To be read at once: a later seal spoils it.

    Attributes:
        top: the hashes above the buckets.
    """

    __slots__ = ("_layers", "top")

    def __init__(self, present: bucketed.Top, layers: list["_Layer"]) -> None:
        self.top = present.before([layer.slots for layer in layers])
        self._layers = layers

    def bucket(self, number: int) -> bytes | None:
        """Return a bucket as it was; None where it is as it is in the map."""
        for layer in self._layers:
            if number in layer.buckets:
                return layer.buckets[number]
        return None


class _Layer:
    """What later seals replaced, up to the next layer's seal, as it was at this layer's own."""

    __slots__ = ("_bucket_bytes", "buckets", "size", "slots")

    def __init__(self, size: int, buckets: Mapping[int, bytes], slots: dict[int, bytes]) -> None:
        self.size = size
        self.buckets: dict[int, bytes] = {}
        self.slots = slots
        self._bucket_bytes = 0
        self._add(buckets)

    def merge(self, later: "_Layer") -> None:
        """Take over what the next layer remembers, where this one does not: work by the next layer's size."""
        self._add(later.buckets)
        for place, slot in later.slots.items():
            self.slots.setdefault(place, slot)

    def bytes_used(self) -> int:
        """Return about how much memory this takes."""
        return self._bucket_bytes + _BUCKET_BYTES * len(self.buckets) + _SLOT_BYTES * len(self.slots)

    def _add(self, buckets: Mapping[int, bytes]) -> None:
        for number, bucket in buckets.items():
            if number not in self.buckets:
                self.buckets[number] = bucket
                self._bucket_bytes += len(bucket)


class MapHistory:
    """The layers, oldest first.

    Attributes:
        size: the size at which the last seal is the last leaf; the map is as of it.
    """

    __slots__ = ("_layers", "_limit_bytes", "size")

    def __init__(self, size: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self.size = size
        self._limit_bytes = limit_bytes
        self._layers: list[_Layer] = []

    def record(self, size: int, buckets: Mapping[int, bytes], top: bucketed.Top) -> None:
        """Remember what the seal at *size* is about to replace.

        Args:
            buckets: the buckets that change, as they are.
            top: the hashes above them, not changed yet.
        """
        if self.size:
            self._layers.append(_Layer(self.size, buckets, top.slots(buckets)))
        self.size = size

    def keep(self, sizes: AbstractSet[int]) -> None:
        """Forget all seals but those at *sizes*, and the last."""
        kept: list[_Layer] = []
        for layer in self._layers:
            if layer.size in sizes:
                kept.append(layer)
            elif kept:
                kept[-1].merge(layer)
        self._layers = kept
        if sum(layer.bytes_used() for layer in kept) > self._limit_bytes:
            self._layers = []

    def at(self, size: int, present: bucketed.Top) -> MapAt | None:
        """Return the map as of the seal at *size*, over the *present* hashes; None where it is not remembered."""
        for place, layer in enumerate(self._layers):
            if layer.size == size:
                return MapAt(present, self._layers[place:])
        return None
