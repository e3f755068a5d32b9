"""The first read of an object that only the store knows: attributes and bytes in one question.

To learn an object and then to read it would be two trips to the store. Where the reader says at
once which bytes it wants, one GET brings both: what the answer says of the object becomes its
inode (cache/discovery.py), and the bytes behind it fill the first cell (cache/fetch.py) while the
reader follows.

Once per node at a time: whoever asks second waits for the first to have begun, and then finds the
object in the index and its cell under way. Blocking, thread-safe.
"""

from __future__ import annotations

from cache.buckets import Buckets
from cache.discovery import Discovery
from cache.errors import DeadlineExceeded, StoreUnavailable
from cache.fetch import Fetcher
from cache.index import Index
from cache.locks import NodeLocks
from cache.publishing import find
from cache.records import Bucket, Inode, InodeFlag, WriteMode

Range = tuple[int, int | None]
"""First byte and the one after the last; None: to the end."""


class FirstReads:
    def __init__(
        self,
        index: Index,
        buckets: Buckets,
        discovery: Discovery,
        fetcher: Fetcher,
        locks: NodeLocks,
        deadline_s: float,
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._discovery = discovery
        self._fetcher = fetcher
        self._locks = locks
        self._deadline_s = deadline_s

    def learn_key(self, bucket: Bucket, key: bytes, reading: Range) -> None:
        """As Discovery.learn_key, for one who reads these bytes next."""
        mode = self._buckets.mode_of(bucket, key)
        if mode == WriteMode.WRITE_AROUND or self._known(bucket, key) is not None:
            self._discovery.learn_key(bucket, key)
            return
        try:
            with self._locks.hold("open", bucket.root, key, deadline_s=self._deadline_s) as waited:
                if self._known(bucket, key) is not None:
                    return
                if not waited:
                    self._open(bucket, key, reading)
                    return
        except DeadlineExceeded as exc:
            raise StoreUnavailable(f"{key!r} is asked for by others, without an answer") from exc
        # Whoever was first found nothing. All who waited ask again, and not one after another.
        self._discovery.learn_key(bucket, key)

    def _open(self, bucket: Bucket, key: bytes, reading: Range) -> None:
        opened = self._discovery.open_key(bucket, key, *self._fetcher.first_range(*reading))
        if opened is not None:
            # Before the lock is given up, so that the next one finds the cell under way.
            self._fetcher.take(self._known(bucket, key), opened)

    def _known(self, bucket: Bucket, key: bytes) -> Inode | None:
        """The inode under a key, if the index has its attributes."""
        with self._index.read() as txn:
            found = find(txn, bucket, key)
        if found is None or found.inode.has(InodeFlag.UNSEEN):
            return None
        return found.inode
