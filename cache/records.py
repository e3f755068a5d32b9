"""What the index holds, byte for byte: a version byte, then the struct's fields in msgpack order.

Pure: no LMDB here, no I/O. Fields are positional (`array_like`), so a field is only ever added at
the end, with a default; anything else raises the struct's version and adds a step to `MIGRATIONS`.
`docs/on-disk-format.md` describes the same bytes, `tests/test_cache_records.py` pins them.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import NamedTuple, NewType, TypeVar

import msgspec

from cache.errors import FormatMismatch

InodeId = NewType("InodeId", int)
SegmentId = NewType("SegmentId", int)

EMPTY_ETAG = hashlib.md5(usedforsecurity=False).hexdigest()
"""Of no bytes."""

ROOT = InodeId(1)
"""The directory whose children are the buckets; also the root inode of the mount."""


class Kind(enum.IntEnum):
    """Type of an inode, stored as one number."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


class WriteMode(enum.StrEnum):
    """When a write is acknowledged, and where its bytes go (acceptance F01)."""

    WRITE_THROUGH = "write_through"
    WRITE_BACK = "write_back"
    WRITE_AROUND = "write_around"
    TRANSIENT = "transient"

    @property
    def persists(self) -> bool:
        """Whether the store is to have what is written at all."""
        return self != WriteMode.TRANSIENT

    @property
    def waits_for_store(self) -> bool:
        """Whether a write is acknowledged when the store has it."""
        return self not in (WriteMode.WRITE_BACK, WriteMode.TRANSIENT)


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """Which bytes of an inode the store has, and where.

    (parent, name) is the location at the time of the persist: after a rename that the store has
    not followed yet it differs from the dentry, and tells where holes are fetched from.
    """

    parent: int
    name: bytes  # as in the dentry key: ends in b"/" for a directory
    version: str  # the store's version token, for If-Match
    size: int
    revision: int  # the inode's content revision that these bytes are
    attributes_revision: int = 0  # and its attributes


class Inode(msgspec.Struct, array_like=True, frozen=True):
    """One file, directory, symlink or special file, under all of its names and open handles."""

    id: int
    kind: int
    mode: int  # permission bits, 0o7777
    uid: int
    gid: int
    size: int  # bytes; of a symlink, of its target
    nlink: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    parent: int = 0  # one of its names, enough to find the path of a directory; 0 when unlinked
    name: bytes = b""
    etag: str = ""  # as S3 clients see it, without quotes
    revision: int = 0  # of the bytes; raised by each publication of changed bytes
    attributes_revision: int = 0  # raised by each change that the store has to learn otherwise
    rdev: int = 0
    target: bytes = b""  # of a symlink
    explicit: bool = True  # a directory that was made (mkdir, PUT "a/"), not implied by a key
    listed_ns: int = 0  # a directory: when the store's listing of it was last known whole; 0 never
    stored: Stored | None = None  # None: the store has nothing of it
    flags: int = 0
    overhead: int = 0  # bytes of `size` that encryption adds; above 0: the bytes are encrypted

    @property
    def visible_size(self) -> int:
        """What both doors show: of an encrypted file the size of its plaintext."""
        return self.size - self.overhead

    @property
    def shown_etag(self) -> str:
        """The ETag that S3 clients are told, without quotes.

        Bytes that others put into the store may have none; theirs names the inode and the revision
        of its bytes, so that it changes exactly when they do. The dash says that it is no MD5."""
        if self.etag:
            return self.etag
        return f"{self.id:016x}{self.revision:016x}-1" if self.visible_size else EMPTY_ETAG

    @property
    def is_dir(self) -> bool:
        return self.kind == Kind.DIRECTORY

    def has(self, flag: InodeFlag) -> bool:
        """As `flags & flag`, without a new InodeFlag for the answer, which takes a microsecond."""
        return int.__and__(self.flags, flag) != 0


class InodeFlag(enum.IntFlag):
    """Bits of Inode.flags."""

    OBJECT = 1  # an ObjectAttributes record exists
    XATTRS = 2  # rows in the xattrs table exist
    INLINE = 4  # its bytes are a row of the inline table, not extents (the row is whole)
    PINNED = 8  # its extents are never evicted
    UNSEEN = 16  # learned from a listing that lacks attributes: to be asked for when they matter
    CLASSED = 32  # its storage class is not STANDARD: listings read its attributes


class Dentry(msgspec.Struct, array_like=True, frozen=True):
    """What a name leads to. Its key is the parent's id and the name (see cache/names.py)."""

    inode: int
    kind: int


class ObjectAttributes(msgspec.Struct, array_like=True, frozen=True):
    """What S3 clients attached to an object beyond its bytes; absent when there is nothing."""

    content_type: str = ""
    headers: dict[str, str] = {}  # cache-control, content-disposition, … in lower case
    metadata: dict[str, str] = {}  # user metadata, names without x-amz-meta-, lower case
    checksums: dict[str, str] = {}  # algorithm (CRC32, SHA256 …) -> base64 value, as S3 shows it
    checksum_type: str = ""  # FULL_OBJECT or COMPOSITE
    part_sizes: list[int] = []  # of a completed multipart upload
    tags: dict[str, str] = {}
    owner: str = ""
    storage_class: str = ""  # unused: own["storage-class"], which the store keeps too
    acl: bytes = b""  # reserved for the S3 layer's own encoding
    own: dict[str, str] = {}  # StoredAttributes.own: what Forebay keeps with it, also in the store
    part_checksums: bytes = b""  # of part_sizes' parts, raw, one after another; algorithm as above

    @property
    def version_id(self) -> str:
        """Empty for the null version."""
        return self.own.get("version-id", "")


class Bucket(msgspec.Struct, array_like=True, frozen=True):
    name: str
    root: int  # inode id of its root directory
    store: str  # name of the configured store
    location: str  # prefix inside a creatable store; "" for a configured mount of a whole store
    created_ns: int
    owner: str = ""
    settings: dict[str, bytes] = {}  # policy, versioning, CORS …: the S3 layer's documents
    unread: bool = False  # entered while its store did not say what its settings are


class BucketLink(msgspec.Struct, array_like=True, frozen=True):
    """A further name of a bucket."""

    name: str
    bucket: str
    created_ns: int


class UploadRecord(msgspec.Struct, array_like=True, frozen=True):
    """A multipart upload that is neither completed nor aborted."""

    id: str
    bucket: str
    key: bytes
    initiated_ns: int
    owner: str
    attributes: ObjectAttributes
    checksum_algorithm: str = ""
    store_token: str = ""  # PartUpload.token where parts pass through to the store
    store_key: bytes = b""  # and the key there
    layout_key: bytes = b""  # of an encrypted one: what the list of its parts is signed with


class Part(msgspec.Struct, array_like=True, frozen=True):
    number: int
    inode: int  # an inode without a name that holds the part's extents
    size: int
    etag: str
    modified_ns: int
    checksums: dict[str, str] = {}
    store_tag: str = ""
    overhead: int = 0  # as Inode.overhead

    @property
    def visible_size(self) -> int:
        """Of the plaintext."""
        return self.size - self.overhead


class SegmentState(enum.IntEnum):
    ACTIVE = 1
    SEALED = 2


class SegmentRecord(msgspec.Struct, array_like=True, frozen=True):
    id: int
    directory: int  # index of the cache directory, by its id file
    size: int  # bytes reserved on disk
    stream: str  # what was written into it: dirty, fill, main, kept
    state: int
    live: int  # bytes that at least one inode uses
    created_ns: int


class EvictionState(msgspec.Struct, array_like=True, frozen=True):
    """What eviction knows beside the extents' heat; written by the mover only."""

    turn: int = 0  # raised, modulo 65,536, when all heat is to be halved
    reclaimed: int = 0  # bytes of segments freed in this turn
    price: float = 0.0  # mean heat of a byte of the least worthy segment of the main queue
    generation: int = 1  # of the ghosts that are noted now
    ghosts: int = 0  # rows of this generation
    ghost_bytes: int = 0  # of the extents that they stand for


class QueueEntry(msgspec.Struct, array_like=True, frozen=True):
    """A name whose object in the store may differ from the index. See cache/dirty.py."""

    bucket: int  # inode id of the bucket's root
    parent: int
    name: bytes
    since_ns: int
    size: int  # dirty bytes it accounts for
    attempts: int = 0
    not_before_ns: int = 0
    error: str = ""
    touched: int = 0  # raised by each further change while it waits
    base: str = ""  # version of what the store is known to have there, if that is not the inode's
    intent: bool = False  # only an upload was begun; what the store has is no leftover


RECORD_VERSION = 1
_PREFIX = bytes([RECORD_VERSION])

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[object]] = {}

R = TypeVar("R", bound=msgspec.Struct)


def pack(record: msgspec.Struct) -> bytes:
    """The record as it is stored."""
    return _PREFIX + _encoder.encode(record)


def unpack(value: bytes | memoryview, kind: type[R]) -> R:
    """Read a stored record. FormatMismatch on another version or bytes that do not decode."""
    if value[0] != RECORD_VERSION:
        raise FormatMismatch(f"{kind.__name__} record of version {value[0]}, want {RECORD_VERSION}")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(value[1:])  # type: ignore[return-value]
    except msgspec.DecodeError as exc:
        raise FormatMismatch(f"{kind.__name__} record does not decode: {exc}") from exc


_EXTENT = struct.Struct(">BIQQQQQQ")
ZEROS = SegmentId(0)
"""The segment of extents that hold zeros and take no space on disk."""


class Extent(NamedTuple):
    """Bytes [start, start + length) of an inode are bytes of a stored extent on the cache disk.

    A stored extent is written once, with one checksum (xxh3-64) over all of it; after copy on
    write an inode may use a slice: `skip` bytes in, `length` long. What no extent covers is not
    cached. `revision` is the inode's revision that wrote it: above the revision the store has,
    the extent is dirty. Stored as a fixed struct, because there are many: `_EXTENT`.
    """

    start: int
    length: int
    segment: int
    offset: int  # of the stored extent in the segment file
    stored_length: int
    checksum: int
    skip: int
    revision: int

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def file_offset(self) -> int:
        """Where the first byte of the slice lies in the segment file."""
        return self.offset + self.skip

    def slice(self, start: int, stop: int) -> Extent:
        """The part that covers [start, stop) of the inode."""
        return self._replace(
            start=start, length=stop - start, skip=self.skip + (start - self.start)
        )

    def pack(self) -> bytes:
        """The value of its row; `start` is in the key."""
        return _EXTENT.pack(
            RECORD_VERSION,
            self.segment,
            self.offset,
            self.stored_length,
            self.checksum,
            self.skip,
            self.length,
            self.revision,
        )

    @classmethod
    def unpack(cls, start: int, value: bytes) -> Extent:
        version, segment, offset, stored_length, checksum, skip, length, revision = _EXTENT.unpack(
            value
        )
        if version != RECORD_VERSION:
            raise FormatMismatch(f"extent of version {version}, want {RECORD_VERSION}")
        return cls(start, length, segment, offset, stored_length, checksum, skip, revision)
