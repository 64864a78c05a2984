"""Define the keys and values of the ledger's store. Integers in keys are big-endian, so rows are sorted by number.

=====  ==========================================  ====================================================
first  rest of the key                             value
=====  ==========================================  ====================================================
``S``                                              the state row, ``State``
``P``                                              what was pruned, ``Pruned``; no row if nothing was
``V``                                              the vault's state at the last batch, see ``ledger.vault``
``Z``                                              the mark of a restored copy, see ``ledger.restored``; else no row
``k``  size u64                                    a kept checkpoint, see ``ledger.rotations``
``l``  index u64                                   the leaf
``t``  level u8 ‖ n u64                            the tile: 1…256 hashes; only a level's last tile grows
``h``  tag[32]                                     count u64 ‖ head[32] of the chain
``i``  tag[32] ‖ seq u64                           index u64
``c``  tag[32] ‖ seq u64                           form u8 ‖ (salt ‖ statement); see ``ENCRYPTED``
``e``  index u64                                   tag[32] of an erasure that is not complete
``f``  tag[32] ‖ ref u64 ‖ seq u64                 kind u8 ‖ index u64; see ``reference_row``
``m``  bucket u32                                  the map's bucket: (key ‖ value ‖ leaf hash)*
``r``  bucket // 16 u32                            sixteen bucket roots; zeros if a bucket is empty
``q``  request key[32]                             index u64 ‖ time_ms u64 ‖ content hash[32]
``x``  time_ms u64 ‖ request key[32]               empty; these rows sort the request rows by age
=====  ==========================================  ====================================================

Each function ``..._key`` builds the key of one kind of row.
"""

from struct import Struct

from consentd.core import codec
from consentd.core.kinds import REFERRING, EntryKind

STATE = b"S"
PRUNED = b"P"
VAULT = b"V"
RESTORED = b"Z"
KINDS = tuple(bytes((kind,)) for kind in b"PSVZcefhiklmqrtx")
"""The first byte of each kind of key, in ascending order."""
ROOTS_PER_ROW = 16

_U64 = Struct(">Q")
_U32 = Struct(">I")
HEAD = Struct(">Q32s")
REQUEST = Struct(">QQ32s")
REFERENCE = Struct(">BQ")

PLAINTEXT = 0
"""Form of a statement row with salt ‖ statement, not encrypted. Public chains use this form."""
ENCRYPTED = 1
"""Form of a statement row with nonce ‖ AES-256-GCM of salt ‖ statement under the person's key."""


def leaf_key(index: int) -> bytes:
    return b"l" + _U64.pack(index)


def kept_key(size: int) -> bytes:
    return b"k" + _U64.pack(size)


def tile_key(level: int, n: int) -> bytes:
    return b"t" + bytes((level,)) + _U64.pack(n)


def head_key(tag: bytes) -> bytes:
    return b"h" + tag


def erasure_key(index: int) -> bytes:
    """Return the key of the row that says that the erasure by the ERASURE at *index* is not complete."""
    return b"e" + _U64.pack(index)


def index_key(tag: bytes, seq: int) -> bytes:
    return b"i" + tag + _U64.pack(seq)


def statement_key(tag: bytes, seq: int) -> bytes:
    return b"c" + tag + _U64.pack(seq)


def reference_key(tag: bytes, ref: int, seq: int) -> bytes:
    return b"f" + tag + _U64.pack(ref) + _U64.pack(seq)


def reference_row(event: codec.Event, index: int) -> tuple[bytes, bytes] | None:
    """Return key and value of the row by which lists find an event that refers to another; None: it has no such row.

    Rows of GRANT entries have ref 0, so they are the list of a chain's consents; so have rows of AUTHORITY entries that
    end none. All others of ``REFERRING`` have the ref of the leaf: the version of the consent that the entry changes,
    the access that it reports on, or the authority that it ends. The row follows from the leaf alone, is written in the
    leaf's batch, and is deleted with the leaf.
    """
    if event.kind not in REFERRING:
        return None
    ref = 0 if event.kind == EntryKind.GRANT else event.ref
    return reference_key(event.tag, ref, event.seq), REFERENCE.pack(event.kind, index)


def bucket_key(bucket: int) -> bytes:
    return b"m" + _U32.pack(bucket)


def roots_key(group: int) -> bytes:
    """Return the key of the row that holds bucket roots 16·group … 16·group + 15."""
    return b"r" + _U32.pack(group)


def request_row_key(request_key: bytes) -> bytes:
    return b"q" + request_key


def expiry_key(time_ms: int, request_key: bytes) -> bytes:
    """Return the key of a row that sorts request rows by age. *time_ms*: time of the entry that the request made."""
    return b"x" + _U64.pack(time_ms) + request_key


def encode_u64(value: int) -> bytes:
    return _U64.pack(value)


def decode_u64(value: bytes) -> int:
    """Decode an index from a row or from the end of a key."""
    return int(_U64.unpack(value[-8:])[0])
