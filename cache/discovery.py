"""What the store holds that the index does not know yet, or knows differently.

A directory is *known* once its listing in the store was seen whole; from then on a name that is
not in the index does not exist, until the bucket's `revalidate` age says to ask again. What the
store shows becomes inodes (cache/adoption.py). A name that waits in the persist queue is ours: the
store's view of it is older and is not looked at.

No answer from the store is an error for what is unknown, and nothing at all for what is known:
never a deletion. Nobody waits for the disk: what a power cut makes the index forget, and with it
that it knew, the store tells again. Blocking, thread-safe.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cache import dirty, markers, names, namespace
from cache.adoption import Adoption
from cache.buckets import Buckets
from cache.changes import NOBODY, Change
from cache.config import CacheConfig
from cache.errors import CacheError, NoSuchInode, StoreNotFound, StoreUnavailable
from cache.index import Index, Table, Txn
from cache.locks import NodeLocks
from cache.namespace import Place
from cache.records import ROOT, Bucket, Inode, Kind
from cache.stores.base import Opened, Store, StoredObject, StoredPrefix

log = logging.getLogger(__name__)

_BATCH = 500
_HEADS_AT_ONCE = 16
_ASKS_MAX = 10
_LINK_MAX_BYTES = 4096

Ask = Callable[[Store, bytes], StoredObject]
"""A question to a store about one of its keys. StoreNotFound."""

_Listed = StoredObject | StoredPrefix


class Discovery:
    def __init__(
        self, index: Index, buckets: Buckets, locks: NodeLocks, config: CacheConfig
    ) -> None:
        self._index = index
        self._buckets = buckets
        self.adoption = Adoption(buckets, config)
        self._locks = locks
        self._config = config
        self._checked: dict[int, float] = {}
        self._pool = ThreadPoolExecutor(_HEADS_AT_ONCE, thread_name_prefix="discover")
        self.tell_kernel: Callable[[Sequence[Change]], None] = NOBODY.forget
        """In the mount process: has its own kernel forget, later. What a lookup finds out about
        other names, and what an fsync of a directory finds that a killed gateway left of its
        upload, is nothing that the kernel did itself; and as it holds the directory's lock
        meanwhile, nobody may wait for it here."""

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -------------------------------------------------------------------- what is known

    def is_known(self, txn: Txn, directory: Inode) -> bool:
        """Whether a missing name in this directory is known to be missing."""
        if directory.id == ROOT:
            return True
        if not directory.listed_ns:
            return False
        after = self._revalidate_after_ns(txn, directory)
        return after is None or time.time_ns() - directory.listed_ns <= max(after, 50_000_000)

    def _revalidate_after_ns(self, txn: Txn, directory: Inode) -> int | None:
        root = directory.id
        if directory.parent != ROOT:
            root = namespace.bucket_of(txn, directory.parent)
        return self._buckets.config(self._buckets.of_root(txn, root)).revalidate_after_ns()

    # -------------------------------------------------------------------- asking the store

    def learn_directory(self, directory: int) -> None:
        """Make a directory known by listing it in the store, once per node at a time.

        StoreUnavailable when the store does not answer and the directory was never known.
        """
        with self._locks.hold("learn", directory, deadline_s=self._config.fetch_deadline_s):
            with self._index.read() as txn:
                inode = namespace.get(txn, directory)
                if self.is_known(txn, inode):
                    return
                bucket, prefix = self._store_prefix(txn, inode)
                hidden = self._is_hidden(txn, bucket, inode)
            if hidden:
                self._finish_hidden(directory)
                return
            begun_ns = time.monotonic_ns()
            try:
                seen = self._list_into(bucket, directory, prefix, first=not inode.listed_ns)
            except StoreNotFound:
                # The place itself is missing: an empty directory, or a bucket never written to.
                seen = set()
            except StoreUnavailable:
                if not inode.listed_ns:
                    raise
                log.warning("store of %s does not answer: serving what is known", bucket.name)
                return
            self._finish(directory, prefix, seen, begun_ns)

    def _is_at(self, txn: Txn, directory: int, prefix: bytes) -> bool:
        """Whether the store still has the directory where it was asked for it: a rename that it
        followed meanwhile makes its answer mean nothing."""
        inode = txn.record(Table.INODES, namespace.key_bytes(directory), Inode)
        return (
            inode is not None and bool(inode.nlink) and self._store_prefix(txn, inode)[1] == prefix
        )

    @staticmethod
    def _is_on_its_way(txn: Txn, number: int) -> bool:
        """Whether the store is just moving the inode, or a directory above it: what it lacks at the
        place that is noted may be at the other."""
        inode = namespace.get(txn, number)
        if inode.parent in (0, ROOT):
            return False
        root = namespace.bucket_of(txn, inode.parent)
        return namespace.unsettled(txn, root, number) is not None

    def _store_prefix(self, txn: Txn, directory: Inode) -> tuple[Bucket, bytes]:
        if directory.parent == ROOT:
            return self._buckets.of_root(txn, directory.id), b""
        name = directory.stored.name if directory.stored else directory.name
        parent = directory.stored.parent if directory.stored else directory.parent
        root = namespace.bucket_of(txn, directory.parent)
        return self._buckets.of_root(txn, root), namespace.store_path_of(txn, parent, name)

    @staticmethod
    def _is_hidden(txn: Txn, bucket: Bucket, directory: Inode) -> bool:
        """Whether what the store has at the directory's place is another's, which was renamed."""
        if directory.id == bucket.root:
            return False
        stored = directory.stored
        at = (directory.parent, directory.name) if stored is None else (stored.parent, stored.name)
        return namespace.in_the_way(txn, Place(bucket.root, *at), directory.id) is not None

    def _finish_hidden(self, directory: int) -> None:
        """Nothing of ours is in the store yet: what the index has is all there is."""

        def change(txn: Txn) -> None:
            namespace.update(txn, namespace.get(txn, directory), listed_ns=time.time_ns())

        self._index.commit(change, durable=False)

    def _list_into(
        self, bucket: Bucket, directory: int, prefix: bytes, *, first: bool
    ) -> set[bytes]:
        """Adopt the store's listing page by page; the names that it has."""
        store = self._buckets.store(bucket)
        seen: set[bytes] = set()
        marker = b""
        while True:
            asked_ns = time.monotonic_ns()
            page = store.list(prefix, delimiter=True, marker=marker)
            entries = [e for e in page.entries if e.key != prefix]
            for start in range(0, len(entries), _BATCH):
                batch = entries[start : start + _BATCH]
                adopt = partial(
                    self._adopt_all,
                    bucket=bucket,
                    directory=directory,
                    prefix=prefix,
                    entries=self._detailed(store, batch),
                    asked_ns=asked_ns,
                )
                self.commit(adopt, first=first, durable=False)
                seen.update(e.key.removeprefix(prefix) for e in batch)
            if page.next_marker is None:
                return seen
            marker = page.next_marker

    def _detailed(self, store: Store, entries: Sequence[_Listed]) -> Sequence[_Listed]:
        """An S3 listing lacks attributes, and what is a symlink or a special file shows in those
        only; such objects are small, so small objects are asked for one by one. A directory's are
        those of its marker, which a listing hides behind its prefix."""

        def lacks(entry: _Listed) -> bool:
            if isinstance(entry, StoredPrefix):
                return not store.capabilities.native_directories
            return entry.attributes is None and entry.size_bytes <= _LINK_MAX_BYTES

        def asked(entry: _Listed) -> _Listed:
            try:
                return store.head(entry.key) if lacks(entry) else entry
            except StoreNotFound:
                return entry

        # A store of files tells all of them: its entries need no turn in the pool.
        return list(self._pool.map(asked, entries)) if any(map(lacks, entries)) else entries

    def _adopt_all(
        self,
        txn: Txn,
        bucket: Bucket,
        directory: int,
        prefix: bytes,
        entries: Sequence[StoredObject | StoredPrefix],
        asked_ns: int,
    ) -> None:
        if not self._is_at(txn, directory, prefix):
            return
        for entry in entries:
            name = entry.key.removeprefix(prefix)
            if self._is_ours(txn, directory, name, asked_ns):
                continue
            if isinstance(entry, StoredObject):
                self.adoption.adopt(txn, Place(bucket.root, directory, name), entry)
            else:
                self.adoption.adopt_implied(txn, directory, name)

    @staticmethod
    def _is_ours(txn: Txn, parent: int, name: bytes, asked_ns: int) -> bool:
        """Whether the index knows better than what the store was asked for at asked_ns: the name
        waits for the persister, or settled since, or something else's bytes still lie there."""
        return (
            dirty.find(txn, parent, name) is not None
            or dirty.away_at(txn, parent, name) is not None
            or dirty.settled_since(txn, parent, name, asked_ns)
        )

    def _finish(self, directory: int, prefix: bytes, seen: set[bytes], begun_ns: int) -> None:
        """The listing was whole: names it lacks, and that the store once had, are gone."""

        def change(txn: Txn) -> None:
            inode = namespace.get(txn, directory)
            if inode.nlink and not self._is_at(txn, directory, prefix):
                return  # still unknown: whoever wants to know asks again
            if self._is_on_its_way(txn, directory):
                return
            if inode.listed_ns and inode.nlink:
                for name, dentry in list(names.scan(txn, directory)):
                    if name in seen or self._is_ours(txn, directory, name, begun_ns):
                        continue
                    child = namespace.get(txn, dentry.inode)
                    at_home = child.stored is not None and (
                        child.stored.parent,
                        child.stored.name,
                    ) == (directory, name)
                    if child.is_dir:
                        if names.is_empty(txn, child.id) and (at_home or not child.explicit):
                            namespace.leave(txn, directory, name, child)
                    elif at_home:
                        namespace.leave(txn, directory, name, child)
                inode = namespace.get(txn, directory)
            namespace.update(txn, inode, listed_ns=time.time_ns())
            if inode.nlink and inode.parent != ROOT:
                # The last key that implied it may have gone before it was known.
                namespace.prune(txn, namespace.bucket_of(txn, inode.parent), directory)

        self.commit(change, durable=False)

    def learn_key(self, bucket: Bucket, key: bytes) -> None:
        """Ask the store about one key that the index does not know, or is to check again.

        Cheaper than listing a directory: one request. StoreUnavailable when there is no answer
        and the key is unknown.
        """
        self._learn_key(bucket, key, lambda store, stored_key: store.head(stored_key))

    def open_key(self, bucket: Bucket, key: bytes, start: int, stop: int) -> Opened | None:
        """As learn_key, with the bytes [start, stop) on their way behind the answer, where the
        store can do that: the caller closes it."""
        opened: Opened | None = None

        def close() -> None:
            nonlocal opened
            if opened is not None:
                opened.close()
                opened = None

        def ask(store: Store, stored_key: bytes) -> StoredObject:
            nonlocal opened
            close()
            opened = store.open(stored_key, start, stop)
            return store.head(stored_key) if opened is None else opened.found

        try:
            self._learn_key(bucket, key, ask)
        except BaseException:
            close()
            raise
        return opened

    def _learn_key(self, bucket: Bucket, key: bytes, ask: Ask) -> None:
        for _ in range(_ASKS_MAX):
            if self._learn_key_at(bucket, key, ask):
                return
        raise StoreUnavailable(f"the directories of {key!r} are renamed faster than it is found")

    def _learn_key_at(self, bucket: Bucket, key: bytes, ask: Ask) -> bool:
        """False if the store followed a rename meanwhile: its answer means nothing."""
        store = self._buckets.store(bucket)
        with self._index.read() as txn:
            stored_key = namespace.store_key_of(txn, bucket.root, key)
            has_place = namespace.locate(txn, bucket.root, key) is not None
        asked_ns = time.monotonic_ns()
        try:
            found: StoredObject | None = ask(store, stored_key)
        except StoreNotFound:
            found = None
        there = True

        def change(txn: Txn) -> None:
            nonlocal there
            there = namespace.store_key_of(txn, bucket.root, key) == stored_key
            if not there:
                return
            if found is None:
                self._vanished(txn, bucket, key, asked_ns)
                return
            directories, last = names.split_key(key)
            if self._leads_to_ours(txn, bucket.root, directories, asked_ns):
                return
            parent = namespace.make_directories(txn, bucket.root, directories, self._config)
            if self._is_ours(txn, parent, last, asked_ns):
                namespace.prune(txn, bucket.root, parent)
            elif namespace.in_the_way(txn, Place(bucket.root, parent, last), None) is None:
                self.adoption.adopt(txn, Place(bucket.root, parent, last), found)

        if found is not None or has_place:
            self.commit(change, durable=False)
        return there

    def commit(
        self,
        change: Callable[[Txn], None],
        *,
        first: bool = False,
        grows: bool = True,
        durable: bool = True,
    ) -> None:
        """Commit what the store told, which the mount's kernel did not do itself. Blocks.

        first: no name of the directory was known to be missing before, so that only those can be
        in the kernel that were in the index: they leave and are entered again, two changes.
        grows, durable: see Index.commit.
        """
        changes: list[Change] = []

        def recorded(txn: Txn) -> None:
            change(txn)
            changes[:] = txn.changes

        self._index.commit(recorded, grows=grows, durable=durable)
        times = Counter(changes)
        self.tell_kernel([c for c in times if not first or times[c] > 1])

    def _leads_to_ours(self, txn: Txn, root: int, directories: list[bytes], asked_ns: int) -> bool:
        """Whether a directory on the way is gone here, and the store has not followed yet."""
        parent = root
        for name in directories:
            dentry = names.find(txn, parent, name)
            if dentry is None:
                return self._is_ours(txn, parent, name, asked_ns)
            parent = dentry.inode
        return False

    def see(self, inodes: Sequence[Inode]) -> None:
        """Ask the store for the attributes of inodes that are known from a listing only. Blocks;
        StoreUnavailable."""
        for _ in self._pool.map(self._see_one, inodes):
            pass

    def _see_one(self, inode: Inode) -> None:
        with self._index.read() as txn:
            root, key = namespace.path_of(txn, inode.parent, inode.name)
            bucket = self._buckets.of_root(txn, root)
        self.learn_key(bucket, key)

    def look_again(self, inode: Inode) -> None:
        """Others replaced an inode's object in the store, as a reader just found: give its name
        what is there now. Blocks; an error is left to whoever asks next."""
        try:
            self._see_one(inode)
        except CacheError as exc:
            log.warning("inode %d was replaced in the store: %s", inode.id, exc)

    def _vanished(self, txn: Txn, bucket: Bucket, key: bytes, asked_ns: int) -> None:
        place = namespace.locate(txn, bucket.root, key)
        if place is None or self._is_ours(txn, place.parent, place.name, asked_ns):
            return
        dentry = names.find(txn, place.parent, place.name)
        if dentry is None:
            return
        inode = namespace.get(txn, dentry.inode)
        if inode.stored is None or inode.stored.revision != inode.revision:
            return
        if self._is_on_its_way(txn, inode.id):
            return
        if inode.is_dir:
            if inode.size:
                namespace.update(txn, markers.removed(txn, inode), stored=None)
                namespace.prune(txn, bucket.root, inode.id)
            return
        namespace.leave(txn, place.parent, place.name, inode)
        namespace.prune(txn, bucket.root, place.parent)

    # -------------------------------------------------------------------- checking again

    def must_check(self, bucket: Bucket, inode: Inode) -> bool:
        """Whether the bucket's `revalidate` asks for a look at the store before serving this."""
        after = self._buckets.config(bucket).revalidate_after_ns()
        if after is None or inode.stored is None:
            return False
        checked = self._checked.get(inode.id)
        return checked is None or (time.monotonic() - checked) * 1e9 > after

    def checked(self, inode: int) -> None:
        if len(self._checked) > 1 << 18:
            self._checked.clear()
        self._checked[inode] = time.monotonic()

    def refresh_aged(self) -> int:
        """List again the known directories of buckets with a revalidate age, so that the mount,
        whose kernel does not ask, learns of changes; the number listed. For the mover."""
        count = 0
        for bucket in self._buckets.list():
            after = self._buckets.config(bucket).revalidate_after_ns()
            if after is None:
                continue
            for directory in self._aged(bucket.root):
                try:
                    self.learn_directory(directory)
                    count += 1
                except (StoreUnavailable, NoSuchInode) as exc:
                    log.warning("bucket %s: %s", bucket.name, exc)
                    break
        return count

    def _aged(self, root: int) -> list[int]:
        found = []
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            with self._index.read() as txn:
                inode = txn.record(Table.INODES, namespace.key_bytes(directory), Inode)
                if inode is None or not inode.listed_ns:
                    continue
                if not self.is_known(txn, inode):
                    found.append(directory)
                waiting += [
                    d.inode for _, d in names.scan(txn, directory) if d.kind == Kind.DIRECTORY
                ]
        return found
