"""Whether a bucket keeps versions, and whether it locks them: said by clients.

What was said is among the bucket's settings, so that it costs nothing to look at, is in the store
too, and comes back when the index is lost. Blocking, thread-safe.
"""

from __future__ import annotations

import re

from cache import names, namespace
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.discovery import Discovery
from cache.errors import StoreUnavailable, VersioningFixed, WouldWait
from cache.index import Index
from cache.locks import NodeLocks
from cache.records import Bucket
from cache.versions import ENABLED, STATUS, SUSPENDED, is_versioned, status_of

_LOCKING = "object-lock"
_RULE = re.compile(rb"(?:(GOVERNANCE|COMPLIANCE) ([1-9][0-9]{0,5}) (days|years))?")


def locking_of(bucket: Bucket) -> bytes | None:
    """None without object lock; else the default retention: `MODE NUMBER days` or `… years`, or
    empty without one."""
    return bucket.settings.get(_LOCKING)


LOCKED_FROM_THE_START = {STATUS: ENABLED.encode(), _LOCKING: b""}
"""Settings of a bucket that is made with object lock."""


class Versioning:
    def __init__(
        self,
        index: Index,
        buckets: Buckets,
        discovery: Discovery,
        locks: NodeLocks,
        config: CacheConfig,
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._discovery = discovery
        self._locks = locks
        self._deadline_s = config.fetch_deadline_s * 4

    def set_status(self, name: str, status: str) -> None:
        """Enable or suspend versioning. VersioningFixed if object lock needs it enabled."""
        assert status in (ENABLED, SUSPENDED), status

        def changes(bucket: Bucket) -> dict[str, bytes]:
            if locking_of(bucket) is not None and status != ENABLED:
                raise VersioningFixed("a bucket with object lock keeps its versions")
            return {STATUS: status.encode()}

        bucket = self._buckets.get(name)
        # Nobody may be between a look at the versioning and a change that rests on it: uploads
        # that pass through to the store hold this lock, shared.
        with self._locks.hold("bucket", bucket.root, deadline_s=self._deadline_s):
            self._buckets.change_settings(name, changes)

    def set_locking(self, name: str, rule: bytes) -> None:
        """Turn object lock on, with a default retention as locking_of says it. VersioningFixed
        unless versioning is enabled."""
        assert _RULE.fullmatch(rule), rule

        def changes(bucket: Bucket) -> dict[str, bytes]:
            if status_of(bucket) != ENABLED:
                raise VersioningFixed("object lock needs versioning")
            return {_LOCKING: rule}

        self._buckets.change_settings(name, changes)

    def prepare(self, bucket: Bucket, directory: int, *, wait: bool) -> None:
        """Before a name of a directory is made or removed through the mount: if its bucket is
        versioned, learn what versions names of the directory have; wait: False for WouldWait
        instead. StoreUnavailable while it is not known whether it is."""
        if bucket.unread:
            raise StoreUnavailable(f"the settings of bucket {bucket.name} could not be read yet")
        if is_versioned(bucket):
            if not wait:
                raise WouldWait(f"the versions in directory {directory} may not be known")
            with self._index.read() as txn:
                _, path = namespace.path_of(txn, directory, b"name")
            self.learn(bucket, path)

    def learn(self, bucket: Bucket, key: bytes) -> None:
        """Make the hidden directory of a key's versions known, and those on the way to it.
        StoreUnavailable."""
        directory = bucket.root
        for name in (names.VERSIONS, *names.split_key(key)[0]):
            self._learn(directory)
            with self._index.read() as txn:
                dentry = names.find(txn, directory, name)
            if dentry is None:
                return
            directory = dentry.inode
        self._learn(directory)

    def _learn(self, directory: int) -> None:
        with self._index.read() as txn:
            known = self._discovery.is_known(txn, namespace.get(txn, directory))
        if not known:
            self._discovery.learn_directory(directory)
