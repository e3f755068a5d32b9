"""The contract of an underlying store: a flat, or a hierarchical, keeper of whole objects.

What Forebay persists must be readable with no Forebay around, so a store holds one object
under one key, byte for byte, with the POSIX attributes where the store's users expect them.
Everything here blocks, is safe to call from any thread, ends by `deadline` (seconds, set per
store in its configuration) and raises only `cache.errors.StoreError` classes:
StoreUnavailable when there was no answer, which never means "deleted", StoreNotFound only when
the store said so.

Keys are the raw bytes of the S3 key, without the bucket, relative to the store's root; a key that
ends in `/` names a directory marker. Whoever implements the Protocol must hold the contract test
`tests/test_cache_stores.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cache.records import Kind

OWN_NAMES = frozenset(
    {
        "acl",
        "encryption",
        "lock",
        "owner",
        "redirect",
        "storage-class",
        "version-id",
    }
)
"""Names of StoredAttributes.own; what each means is written in docs/on-disk-format.md."""


@dataclass(frozen=True, slots=True)
class StoredAttributes:
    """What travels with an object's bytes. None means: the store does not say."""

    kind: Kind = Kind.FILE
    mode: int | None = None  # permission bits, 0o7777
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    rdev: int = 0
    symlink_target: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """cache-control, content-disposition, content-encoding, content-language, expires."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """S3 user metadata without the x-amz-meta- prefix and without the POSIX attributes above."""
    tags: Mapping[str, str] = field(default_factory=dict)
    s3_etag: str | None = None
    """The ETag under which S3 clients know these bytes, if the store can keep it for us."""
    own: Mapping[str, str] = field(default_factory=dict)
    """What Forebay itself keeps with an object, by a name of OWN_NAMES; printable ASCII."""
    checksums: str | None = None
    """What S3 clients are told of these bytes (cache/bytes_told.py), if the store can keep it; one
    word of printable ASCII."""
    origin: str | None = None
    """What Forebay made these very bytes of (cache/uploading.py), if the store can keep it."""
    md5: str | None = None
    """Of a body that is being written, if the writer made it. Not kept: a server may show it as the
    version of the object, and then need not be asked."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as the store describes it. `version` is what conditions are made on: an ETag, or
    on a file system a token of inode, size, mtime and ctime that changes with the bytes."""

    key: bytes
    size_bytes: int
    version: str
    modified_ns: int
    attributes: StoredAttributes | None = None
    """None in listings of a store that does not list attributes: ask head() when they matter."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An object whose bytes [start, stop) are on their way: see Store.open()."""

    found: StoredObject
    start: int
    stop: int
    chunks: Iterator[bytes]
    """As those of read(), once."""
    close: Callable[[], None]
    """Frees the connection, whether the chunks were taken or not. Idempotent."""


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """A common prefix of a delimited listing; ends in `/`."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ListPage:
    """Objects and prefixes merged in byte order of their keys. `next_marker` is None at the end."""

    entries: list[StoredObject | StoredPrefix]
    next_marker: bytes | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    native_rename: bool
    """rename() of an object or of a whole directory is one atomic step of the store."""
    native_directories: bool
    """Directories exist on their own; markers are real directories (rmdir, mkdir)."""
    conditional_put: bool
    """put() and Upload.commit() honour `expected` atomically; else it is a check just before."""
    lists_attributes: bool
    keeps_markers: bool
    """Keys that end in `/` are objects of their own, which may have bytes."""


Read = Callable[[int, int], Iterable[bytes | memoryview]]
"""The bytes [start, stop) of a new body, any range, any number of times."""

ABSENT = ""
"""As `expected`: the key must not exist yet."""


class Upload(Protocol):
    """A body on its way into the store. Nothing is visible before commit(). Use from one thread
    at a time; abort() after a failed commit() is allowed and idempotent."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes. Blocks with the store's backpressure; memory held is bounded (one part)."""

    def commit(self, attributes: StoredAttributes, *, expected: str | None = None) -> StoredObject:
        """Make the whole body visible under the key, durably, in one step, and verified: the
        store's own checksum or ETag was compared with what was sent.

        expected: None = unconditional, ABSENT = the key must not exist, else the version that must
        be current. Raises StoreChanged when it is not."""

    def abort(self) -> None:
        """Drop what was sent. Idempotent."""


class PartUpload(Protocol):
    """A multipart upload: parts arrive in any order, from several threads, and processes."""

    @property
    def token(self) -> str:
        """What resume_parts() needs to find this upload again from another process."""

    def write_part(self, number: int, chunks: Iterable[bytes | memoryview], size_bytes: int) -> str:
        """Store part `number` (1 to 10,000) of exactly size_bytes bytes, replacing an earlier one.
        Streams: holds no more than one chunk. Returns the part's tag, needed at commit."""

    def copy_part(self, number: int, source: bytes, start: int, stop: int, version: str) -> str:
        """Part from bytes [start, stop) of the object `source` at `version`, inside the store.
        StoreChanged if the source is no longer that version."""

    def commit(
        self,
        parts: list[tuple[int, str]],
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        """Join the parts, in the order given, to the object; visible at once and durable."""

    def abort(self) -> None:
        """Free everything. Idempotent."""


class Store(Protocol):
    """See the module docstring for what holds for all methods."""

    @property
    def capabilities(self) -> Capabilities: ...

    def check_attributes(self, attributes: StoredAttributes) -> None:
        """AttributeTooLarge if no file can be stored with these, for their size. Pure."""

    def head(self, key: bytes) -> StoredObject:
        """The object with its attributes. StoreNotFound if there is none."""

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        """Yield bytes [start, stop) in chunks of up to 1 MiB as they arrive; exactly that many
        bytes or an error: StoreChanged if the object is not (or no longer) `version`,
        StoreCorrupt if the body ends early. Closing the iterator frees the connection."""

    def open(self, key: bytes, start: int, stop: int) -> Opened | None:
        """head(), with the bytes [start, stop) that the object has, in one question. None where
        that is not to be had, of this store or this object: ask head(). StoreNotFound."""

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> Upload:
        """Start a streamed object; size_bytes is a hint, None where the length is not known.
        attributes: those that commit() will be given, as far as they are known; a store that takes
        attributes with the first byte must copy the object onto itself to learn others later."""

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> PartUpload: ...

    def resume_parts(self, key: bytes, token: str) -> PartUpload:
        """The upload begun by begin_parts(), maybe in another process. Does not talk to the
        store; a token that the store forgot fails at the next call with StoreNotFound."""

    def put(
        self,
        key: bytes,
        body: Iterable[bytes | memoryview],
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        """begin_upload, write, commit in one call (also for directory markers and symlinks)."""

    def patch(
        self,
        key: bytes,
        changed: Sequence[tuple[int, int]],
        read: Read,
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        version: str,
    ) -> StoredObject:
        """put() of a body that is known to differ from the object's `version` in the ranges
        `changed` only, which cover all that lies behind its present end. A store that can make the
        new object of the old one asks `read` for little more than those. StoreChanged if the
        object is not `version`; nothing of two versions is ever mixed."""

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        """Replace mode, owner, mtime, metadata and tags; the bytes stay. Returns the new state:
        on a store that must copy the object onto itself the version may change."""

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        """Server-side copy of a whole object of any size. StoreChanged if the source is not
        `version`."""

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        """Move one object, replacing the target, or a whole directory (both keys end in `/`;
        the target must not exist or be empty). Returns the object's new state, None for a
        directory. StoreNotFound if the source is gone. Where not `native_rename` this is copy
        then delete, and for a directory resumable by calling it again."""

    def delete(self, key: bytes) -> None:
        """Remove the object, or the directory marker (a directory that is not empty stays: no
        error). Deleting what does not exist succeeds."""

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        """Keys that begin with prefix and are > marker, in byte order. With delimiter, keys with
        a `/` after the prefix are rolled into StoredPrefix entries; on a store with native
        directories an existing directory (also an empty one) is listed as a StoredObject marker
        `dir/` with kind DIRECTORY instead of a prefix."""

    def location(self, key: bytes) -> str:
        """Where the object is, or would be, as tools that know nothing of Forebay name it. Asks
        nobody, so that a file that lies under its second form (posix_names) is not told apart."""

    def statfs(self) -> tuple[int, int] | None:
        """(total, free) bytes, where the store has such figures; else None."""

    def close(self) -> None: ...
