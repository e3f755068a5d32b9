"""Making the store agree with the index, one name at a time.

persist(place) looks at both sides and does what is missing: upload, follow a rename, change
attributes, delete. It is convergent: repeating it, being killed in the middle of it, or two
processes racing for it end in the same state. Rules that keep it so:

- The store learns nothing that a power cut could undo here: commits that nobody has waited for are
  made durable first.
- One process works on a key of the store at a time (node lock on bucket and key); renaming a
  directory excludes all other work in its bucket.
- Before a place in the store is written or deleted, whatever inode still has its bytes there
  although its name moved on (`away`) is brought home first. That holds for the directories on the
  way too: a renamed directory moves before anything is put where it was. Where renames form a
  circle, one inode steps aside under a name of its own.
- Where the store was asked to move something and nobody noted the answer, that is found out first
  (cache/moving.py).
- A file takes the name of a directory, or a directory that of a file, when the other has left it;
  and what goes into a directory waits for that, too.
- A deletion leaves a key alone that belongs to a live name.
- An upload is conditional on the version the index knew; what others put there meanwhile is kept
  (cache/uploading.py).

Blocking, thread-safe. Raises StoreError classes; the caller retries (node/mover.py) or tells its
client (write_through).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from functools import partial

from cache import dirty, moving, namespace
from cache.buckets import Buckets
from cache.comparison import Comparison, aside_name
from cache.config import CacheConfig
from cache.contents import Contents
from cache.discovery import Discovery
from cache.errors import (
    DeadlineExceeded,
    NoSuchBucket,
    NoSuchInode,
    StoreNotFound,
    StoreUnavailable,
    WouldWait,
)
from cache.fetch import Fetcher
from cache.index import Index, Txn
from cache.keeping import Keeper
from cache.locks import NodeLocks
from cache.namespace import Place
from cache.reconcile import Reconciler
from cache.records import (
    Inode,
    QueueEntry,
)
from cache.relocation import Relocation
from cache.stores.base import Store, StoredObject
from cache.uploading import Uploader

log = logging.getLogger(__name__)

_LOOKS_MAX = 100


class Persister:
    def __init__(
        self,
        index: Index,
        contents: Contents,
        buckets: Buckets,
        fetcher: Fetcher,
        discovery: Discovery,
        locks: NodeLocks,
        config: CacheConfig,
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._comparison = Comparison(index, buckets)
        self._keeper = Keeper(index, contents, fetcher)
        self._relocation = Relocation(index)
        self._reconciler = Reconciler(
            index,
            Uploader(index, contents),
            discovery,
            self._comparison,
            self._keeper,
            self._relocation,
        )
        self._locks = locks
        self._deadline_s = config.fetch_deadline_s * 4

    def persist(self, place: Place, waiting: frozenset[int] = frozenset()) -> None:
        """Make the store agree about a name, and take it out of the queue.

        waiting: inodes that cannot move before this is done (see _bring_home)."""
        for _ in range(_LOOKS_MAX):
            try:
                task = self._comparison.look(place)
            except (NoSuchInode, NoSuchBucket):
                # The directory is gone and the reaper waited for its turn: nothing is left to do.
                self._index.commit(lambda txn: dirty.clear(txn, place.parent, place.name))
                return
            if task.foreign is not None:
                self._bring_home(task.foreign, waiting)
                continue
            if task.rival is not None:
                self.persist(task.rival, waiting)
                continue
            if task.inode is not None and task.inode.is_dir and task.has_moved:
                with self._locks.hold("bucket", place.bucket, deadline_s=self._deadline_s):
                    now = self._comparison.again(task)
                    done = (
                        now is not None and now.has_moved and self._reconciler.move_directory(now)
                    )
            else:
                with self._holding(place.bucket, task.key, task.inode):
                    now = self._comparison.again(task)
                    done = now is not None and self._reconciler.reconcile(now)
            if done:
                return
        raise StoreUnavailable(f"{place.name!r} changes faster than it can be persisted")

    @contextlib.contextmanager
    def claiming(self, place: Place) -> Iterator[bytes]:
        """Hold the locks under which the object of a place is written, after whoever still has
        bytes there went home; yields its key in the store. Blocks."""
        for _ in range(_LOOKS_MAX):
            task = self._comparison.look(place, taking=True)
            if task.foreign is not None:
                self._bring_home(task.foreign, frozenset())
                continue
            if task.rival is not None:
                self.persist(task.rival)
                continue
            # The inode's lock, too: what is under way with it would be noted after it was parted
            # from this place, and its other names be looked for here.
            replaced = [] if task.inode is None else [task.inode.id]
            with (
                self._holding(place.bucket, task.key, task.inode),
                self.standing_still(replaced),
            ):
                now = self._comparison.again(task, taking=True)
                if now is not None:
                    self._take_along(now.inode, place)
                    yield task.key
                    return
        raise StoreUnavailable(f"{place.name!r} changes faster than it can be written")

    @contextlib.contextmanager
    def standing_still(self, files: Iterable[int], *, wait: bool = True) -> Iterator[None]:
        """Have no upload replace these inodes in the store while they are given other names: it
        would not see that it replaces what may be the only copy. Blocks; wait: False for WouldWait.
        """
        deadline_s = self._deadline_s if wait else 0
        with contextlib.ExitStack() as held:
            for inode in sorted(files):  # two renames may cross
                try:
                    held.enter_context(self._locks.hold("named", inode, deadline_s=deadline_s))
                except DeadlineExceeded:
                    if wait:
                        raise
                    raise WouldWait(f"inode {inode} is being replaced in the store") from None
            yield

    @contextlib.contextmanager
    def _holding(self, bucket: int, key: bytes, inode: Inode | None = None) -> Iterator[None]:
        """The locks under which one key of the store is written.

        inode: whose place in the store is about to be noted. Renamed meanwhile, it would else be
        uploaded to two places at once, and only one of them can be noted."""
        deadline_s = self._deadline_s
        with contextlib.ExitStack() as held:
            held.enter_context(
                self._locks.hold("bucket", bucket, shared=True, deadline_s=deadline_s)
            )
            if inode is not None and not inode.is_dir:
                held.enter_context(self._locks.hold("inode", inode.id, deadline_s=deadline_s))
            held.enter_context(self._locks.hold("key", bucket, key, deadline_s=deadline_s))
            yield

    def _take_along(self, inode: Inode | None, place: Place) -> None:
        """Another name of a file may be about to be all that is left of it, and its bytes in the
        store to be written over: have them here. Under the locks of both."""
        if inode is None or inode.is_dir or inode.nlink < 2 or inode.stored is None:
            return
        if (inode.stored.parent, inode.stored.name) != (place.parent, place.name):
            return

        def mark(txn: Txn, current: Inode) -> None:
            for parent, name in namespace.links(txn, current):
                dirty.mark(txn, place.bucket, parent, name, current.size)

        self._keeper.keep_here(inode, mark)

    def part_with(self, place: Place) -> None:
        """Have the bytes of what the place leads to here: the store is about to lose them. Under
        the locks of its key (claiming). StoreUnavailable."""
        inode = self._comparison.look(place).inode
        if inode is None or inode.is_dir or inode.stored is None:
            return
        if (inode.stored.parent, inode.stored.name) == (place.parent, place.name):
            self._keeper.keep_here(inode)

    def _bring_home(self, inode_id: int, waiting: frozenset[int]) -> None:
        """Persist an inode that is away under its present name, so that its old place is free.
        waiting: inodes whose own move waits for this one."""
        with self._index.read() as txn:
            try:
                inode = namespace.get(txn, inode_id)
            except NoSuchInode:
                return
            place = None
            lost = moving.target(txn, inode_id) is not None and (inode.nlink or inode.is_dir)
            below: list[QueueEntry] = []
            if inode.stored is not None and (inode.nlink or inode.is_dir):
                root = namespace.bucket_of(txn, inode.parent)
                place = Place(root, inode.parent, inode.name)
                below = [] if inode.nlink else dirty.entries_of(txn, inode_id)
        if lost:
            self._settle(inode)
        elif place is None:
            # Not while it is on its way to the name that it has just lost: what is put where it
            # was would be taken along.
            with self._locks.hold("inode", inode_id, deadline_s=self._deadline_s):
                self._keeper.forget_place(inode)
        elif inode_id in waiting:
            self._step_aside(inode_id, place.bucket)
        elif inode.nlink:
            self.persist(place, waiting | {inode_id})
        else:
            # A directory that was removed: with what waits below it, it leaves the store.
            for entry in below:
                self.persist(place_of(entry), waiting | {inode_id})
            with self._locks.hold("bucket", place.bucket, shared=True, deadline_s=self._deadline_s):
                self._keeper.forget_place(inode)

    def _settle(self, inode: Inode) -> None:
        """Find out where an inode is that was being moved when somebody was killed, after those
        above its places."""
        with self._index.read() as txn:
            inode = namespace.get(txn, inode.id)
            at, root = moving.target(txn, inode.id), namespace.bucket_of(txn, inode.parent)
            if at is None:
                return
            assert inode.stored is not None, "what has no place in the store is on its way there"
            store = self._buckets.store(self._buckets.of_root(txn, root))
            above = namespace.unsettled(txn, root, inode.stored.parent, at[0])
            first = None if above is None else namespace.get(txn, above)
        if first is not None:
            self._settle(first)
        # Whoever moves it holds these, or all of the bucket, if he is alive after all.
        shared, deadline_s = not inode.is_dir, self._deadline_s
        with (
            self._locks.hold("bucket", root, shared=shared, deadline_s=deadline_s),
            self._locks.hold("inode", inode.id, deadline_s=deadline_s),
        ):
            self._relocation.settle(store, root, inode)

    def _step_aside(self, inode_id: int, root: int) -> None:
        """Names were exchanged, in a circle or with a directory's own child: nobody can go first.
        So one leaves its place in the store for a name of its own, until its turn comes."""
        with self._index.read() as txn:
            inode = namespace.get(txn, inode_id)
            lost = namespace.unsettled(txn, root, inode_id)
            first = None if lost is None else namespace.get(txn, lost)
        if first is not None:
            self._settle(first)
            return
        # Whoever finds it unlinked meanwhile parts it from its place under the inode's lock alone.
        with (
            self._locks.hold("bucket", root, deadline_s=self._deadline_s),
            self._locks.hold("inode", inode_id, deadline_s=self._deadline_s),
        ):
            plan = self._index.commit(partial(self._plan_aside, inode_id=inode_id, root=root))
            if plan is None:
                return
            store, old, new = plan
            log.info("the store moves %r out of the way, to %r", old, new)
            found: StoredObject | None = None
            if inode.is_dir:
                self._relocation.move_directory(store, root, inode, old, new)
            else:
                with contextlib.suppress(StoreNotFound):
                    found = self._relocation.move_file(store, inode, old, new)
            arrived = partial(self._relocation.arrived, number=inode_id, found=found)
            self._index.commit(arrived)

    def _plan_aside(self, txn: Txn, inode_id: int, root: int) -> tuple[Store, bytes, bytes] | None:
        """Note where the inode's bytes will be before they move; (store, from, to) in the store.
        The note's queue entry removes them from there should the inode vanish meanwhile."""
        inode = namespace.get(txn, inode_id)
        new = aside_name(inode)
        if inode.stored is None or inode.stored.name == new:
            return None
        if namespace.unsettled(txn, root, inode_id) is not None:
            return None  # begun, and killed, after this was looked at
        if dirty.away_at(txn, inode.stored.parent, inode.stored.name) != inode_id:
            return None  # it went elsewhere while the lock was waited for: others are there now
        old = namespace.store_path_of(txn, inode.stored.parent, inode.stored.name)
        moving.begin(txn, inode_id, root, new)
        dirty.mark(txn, root, root, new, 0)
        return self._buckets.store(self._buckets.of_root(txn, root)), old, new


def place_of(entry: QueueEntry) -> Place:
    return Place(entry.bucket, entry.parent, entry.name)
