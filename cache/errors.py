"""Everything that can go wrong below the protocols, by name and without errno or HTTP.

Each front end owns one table from these classes to its protocol (`fuse/errors.py`,
`s3api/errors.py`); a test walks the tree and fails on a class that a table does not know.

    CacheError
    ├── NotFound
    │   ├── NoSuchBucket  NoSuchVersion  NoSuchInode  NoSuchUpload  NoSuchAttribute
    │   ├── NoSuchUser  NoSuchGroup  NoSuchMasterKey
    │   └── NoSuchKey
    │       └── DeleteMarkerFound
    ├── AlreadyExists
    │   ├── BucketExists  NameExists  AttributeExists  UserExists
    ├── NotEmpty
    │   └── BucketNotEmpty
    ├── NotADirectory  IsADirectory  NameTooLong  InvalidName  InvalidKey  CrossesBucket
    ├── NotPermitted
    │   └── StoreNotCreatable  ObjectLocked
    ├── NotSupported  VersioningFixed
    ├── TooManyLinks  RenameIntoItself
    ├── AttributeTooLarge  AttributeInvalid  AttributesFull
    ├── PreconditionFailed
    ├── InvalidPart  InvalidPartOrder  PartTooSmall
    ├── StaleContent          the bytes a reader began on are gone; it must not mix versions
    ├── ExtentCorrupt         checksum mismatch of bytes that exist nowhere else
    ├── SealBroken            encrypted bytes, or what is kept with them, do not open
    ├── SealedContent         an encrypted object is asked for through the mount
    ├── OutOfSpace
    │   ├── CacheFull         no segment can be allocated now (temporary)
    │   ├── DirtyLimit        the write-back bound is reached (temporary)
    │   └── IndexFull         the index map is at its cap
    ├── DeadlineExceeded
    ├── WouldWait             asked not to wait, and nothing was done
    ├── FormatMismatch        on-disk format of another version: refused, never guessed
    └── StoreError
        ├── StoreUnavailable  no answer; never means "deleted" (temporary)
        ├── StoreRefused      an answer: access denied, quota, bad request
        ├── StoreFull         the store has no space left
        │   └── StoreOverQuota    or not for us
        ├── StoreNotFound     an answer: there is no such object
        ├── StoreChanged      the object is not the version asked for (If-Match failed)
        └── StoreCorrupt      wrong length, checksum or ETag came back

`temporary` says whether the same call may succeed later without anybody's action: retry loops
and "503, try again" answers are decided on it alone.
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of every error that the cache raises on purpose."""

    temporary = False


class NotFound(CacheError):
    """Something named does not exist."""


class NoSuchBucket(NotFound):
    def __init__(self, bucket: str) -> None:
        super().__init__(f"no such bucket: {bucket}")
        self.bucket = bucket


class NoSuchKey(NotFound):
    def __init__(self, key: bytes) -> None:
        super().__init__(f"no such key: {key!r}")
        self.key = key


class NoSuchUser(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"no such user: {name}")


class NoSuchGroup(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"no such group: {name}")


class DeleteMarkerFound(NoSuchKey):
    """The key has versions, and the newest of them is a delete marker."""

    def __init__(self, key: bytes, version_id: str) -> None:
        super().__init__(key)
        self.version_id = version_id


class NoSuchVersion(NotFound):
    def __init__(self, key: bytes, version_id: str) -> None:
        super().__init__(f"no such version of {key!r}: {version_id}")
        self.key = key
        self.version_id = version_id


class NoSuchInode(NotFound):
    def __init__(self, inode: int) -> None:
        super().__init__(f"no such inode: {inode}")
        self.inode = inode


class NoSuchUpload(NotFound):
    def __init__(self, upload_id: str) -> None:
        super().__init__(f"no such multipart upload: {upload_id}")
        self.upload_id = upload_id


class NoSuchMasterKey(NotFound):
    """A key to encrypt under that this node does not hold."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no such master key: {key_id}")
        self.key_id = key_id


class NoSuchAttribute(NotFound):
    """An extended attribute that is not set."""


class AlreadyExists(CacheError):
    """The name is taken."""


class BucketExists(AlreadyExists):
    def __init__(self, bucket: str, owner: str) -> None:
        super().__init__(f"bucket exists: {bucket}")
        self.bucket = bucket
        self.owner = owner


class NameExists(AlreadyExists):
    pass


class UserExists(AlreadyExists):
    """A user or group of this name is there, or another user has the address or ID."""


class AttributeExists(AlreadyExists):
    pass


class NotEmpty(CacheError):
    pass


class BucketNotEmpty(NotEmpty):
    pass


class NotADirectory(CacheError):
    pass


class IsADirectory(CacheError):
    pass


class NameTooLong(CacheError):
    pass


class InvalidName(CacheError):
    """A name that the POSIX door cannot create (empty, `.`, `..`, a slash inside)."""


class InvalidKey(CacheError):
    """A key that S3 does not allow: empty, over 1024 bytes, not UTF-8."""


class CrossesBucket(CacheError):
    """Rename or link from one bucket into another, which the stores cannot do as one step."""


class NotPermitted(CacheError):
    pass


class StoreNotCreatable(NotPermitted):
    """No store is configured to hold new buckets."""


class ObjectLocked(NotPermitted):
    """A version that may not be removed or changed: retention, or a legal hold."""


class VersioningFixed(CacheError):
    """Object lock and versioning that is not enabled exclude each other."""


class NotSupported(CacheError):
    """Known, and not provided here."""


class TooManyLinks(CacheError):
    pass


class RenameIntoItself(CacheError):
    """A directory cannot become its own descendant (rename(2) EINVAL)."""


class AttributeTooLarge(CacheError):
    """An extended attribute whose name or value is over a limit, or what is attached to an object
    is more than its store can keep."""


class AttributeInvalid(CacheError):
    """An extended attribute that stands for what S3 does not allow in this place."""


class AttributesFull(CacheError):
    """One more extended attribute than the object may have."""


class PreconditionFailed(CacheError):
    """A condition of the request (If-Match, If-None-Match) does not hold at the commit."""

    def __init__(self, condition: str) -> None:
        super().__init__(f"precondition failed: {condition}")
        self.condition = condition


class InvalidPart(CacheError):
    """CompleteMultipartUpload names a part that was not uploaded or has another ETag."""


class InvalidPartOrder(CacheError):
    pass


class PartTooSmall(CacheError):
    """A part that is not the last one is under the S3 minimum of 5 MiB."""


class StaleContent(CacheError):
    """The version a reader began on can no longer be completed; nothing newer is mixed in."""


class ExtentCorrupt(CacheError):
    """Bytes on the cache disk fail their checksum and no other copy exists."""

    def __init__(self, segment: int, offset: int) -> None:
        super().__init__(f"checksum mismatch in segment {segment} at byte {offset}")
        self.segment = segment
        self.offset = offset


class SealBroken(CacheError):
    """Encrypted bytes that were changed, or do not belong to the key and record beside them."""


class SealedContent(CacheError):
    """The bytes are encrypted; only the S3 door, with the right keys, opens them."""


class OutOfSpace(CacheError):
    """No room for the bytes of a writer."""


class CacheFull(OutOfSpace):
    temporary = True


class DirtyLimit(OutOfSpace):
    temporary = True


class IndexFull(OutOfSpace):
    pass


class DeadlineExceeded(CacheError):
    temporary = True


class WouldWait(CacheError):
    """The caller asked not to wait, and somebody would have to be waited for: another writer, the
    disk, the store. Nothing was done; ask again where waiting is allowed."""

    temporary = True


class FormatMismatch(CacheError):
    pass


class StoreError(CacheError):
    """The underlying store did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store gave no answer (refused, timed out, 5xx): nothing may be concluded from it."""

    temporary = True


class StoreRefused(StoreError):
    """The store answered no: access denied, invalid request, read-only."""


class StoreFull(StoreError):
    temporary = True


class StoreOverQuota(StoreFull):
    pass


class StoreNotFound(StoreError):
    """The store answered that there is no such object."""


class StoreChanged(StoreError):
    """The object in the store is not the version that was asked for."""


class StoreCorrupt(StoreError):
    """The store's answer contradicts itself: length, checksum or ETag do not match."""

    temporary = True
