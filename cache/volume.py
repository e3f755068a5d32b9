"""The one door for both front ends, the mover and the tools: the cache, put together.

`Volume.open` reads top to bottom as the order of things: index, segments, contents, buckets,
fetching, persisting, and on them the verbs of each door. One per process, opened after the
process was started (never carried across a fork).
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Mapping

from cache import changes, metrics
from cache.access_times import AccessTimes
from cache.admission import Admission
from cache.bucket_links import BucketLinks
from cache.buckets import Buckets
from cache.config import VolumeConfig
from cache.contents import Contents
from cache.directories import Directories
from cache.discovery import Discovery
from cache.errors import CacheError
from cache.fetch import Fetcher
from cache.files import Files
from cache.first_reads import FirstReads
from cache.index import Index
from cache.keyring import Keyring
from cache.keys import Keys
from cache.locks import NodeLocks
from cache.multipart import Uploads
from cache.objects import Objects
from cache.open_files import OpenFiles
from cache.persist import Persister
from cache.publishing import Publisher
from cache.queue import Queue
from cache.reclaim import Reclaimer
from cache.recovery import Fsck, Reaper
from cache.renames import Renames
from cache.segments import Segments
from cache.stores.base import Store
from cache.users import Users
from cache.versioning import Versioning
from cache.versions import Versions
from cache.xattrs import ExtendedAttributes

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 1.0
ACCESS_TIMES_EVERY = 10
"""Turns of housekeeping between two writes of access times."""


class Volume:
    """See the module docstring. Attributes are the doors; each says what it does."""

    def __init__(
        self,
        config: VolumeConfig,
        stores: Mapping[str, Store],
        sink: changes.ChangeSink,
        is_mount: bool,
    ) -> None:
        cache = config.cache
        cache.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache.run_dir.mkdir(mode=0o700, exist_ok=True)
        self.config = config
        self.index = Index(cache.index_dir, cap_bytes=cache.index_bytes, sync=cache.sync, sink=sink)
        self.segments = Segments(self.index, cache)
        self.contents = Contents(self.index, self.segments)
        locks = NodeLocks(cache.run_dir / "locks")
        self.buckets = Buckets(self.index, config, stores, locks)
        self.bucket_links = BucketLinks(self.index)
        self.discovery = Discovery(self.index, self.buckets, locks, cache)
        self.fetcher = Fetcher(
            self.index,
            self.segments,
            self.contents,
            self.buckets,
            locks,
            cache,
            on_stale=self.discovery.look_again,
        )
        self.contents.filler = self.fetcher
        self.persister = Persister(
            self.index, self.contents, self.buckets, self.fetcher, self.discovery, locks, cache
        )
        self.buckets.persist = self.persister.persist
        self.admission = Admission(self.index, self.segments, cache)
        keeper = Versions(self.buckets, cache)
        self.versioning = Versioning(self.index, self.buckets, self.discovery, locks, cache)
        publisher = Publisher(self.index, self.buckets, keeper, cache)
        self.objects = Objects(
            self.index,
            self.contents,
            self.buckets,
            self.discovery,
            self.persister,
            self.admission,
            publisher,
            self.versioning,
        )
        self.objects.first_reads = FirstReads(
            self.index, self.buckets, self.discovery, self.fetcher, locks, cache.fetch_deadline_s
        )
        self.uploads = Uploads(
            self.index,
            self.contents,
            self.buckets,
            self.objects,
            self.persister,
            publisher,
            self.admission,
        )
        directories = Directories(self.index, self.buckets, self.discovery, self.versioning)
        self.files = Files(
            self.index, self.buckets, directories, self.discovery, self.persister, keeper
        )
        self.renames = Renames(self.index, self.buckets, directories, self.persister, keeper)
        self.xattrs = ExtendedAttributes(self.index, self.buckets)
        self.access_times = AccessTimes(self.index)
        self.open_files = OpenFiles(
            self.index,
            self.segments,
            self.contents,
            self.buckets,
            self.fetcher,
            self.persister,
            self.admission,
        )
        self.keys = Keys(self.index)
        self.users = Users(self.index)
        self.keyring = Keyring(cache.state_dir / "keyring.json")
        self.queue = Queue(self.index, self.buckets, self.persister, self.admission, cache)
        self.reclaimer = Reclaimer(self.index, self.segments, self.contents, cache)
        self.reaper = Reaper(self.index, cache.run_dir)
        self.fsck = Fsck(self.index, self.segments)
        self._mount_lock = self.reaper.claim_mount() if is_mount else None
        self._closing = threading.Event()
        self._housekeeper = threading.Thread(
            target=self._keep_house, name="housekeeping", daemon=True
        )
        self._housekeeper.start()

    @classmethod
    def open(
        cls, config: VolumeConfig, stores: Mapping[str, Store], *, is_mount: bool = False
    ) -> Volume:
        """Open the volume in this process. Blocks briefly.

        is_mount: this process is the mount, whose kernel knows what it does itself; all others
        tell the mount what to forget.
        """
        sink: changes.ChangeSink = changes.NOBODY
        if not is_mount:
            sink = changes.ChangeSender(config.cache.change_socket, metrics.FORGET_TIMEOUTS.inc)
        return cls(config, stores, sink, is_mount)

    def _keep_house(self) -> None:
        """What each process owes the others: descriptors of dead segments closed, reads noted; and
        the mount, inodes reaped that have neither a name nor a user."""
        for turn in itertools.count(1):
            if self._closing.wait(HOUSEKEEPING_S):
                return
            try:
                if turn % ACCESS_TIMES_EVERY == 0:
                    self.access_times.write()
                self.segments.drop_dead_files()
                self.contents.fold_heat()
                if self._mount_lock is not None:
                    self.reaper.run_as_mount(self.files.held() | self.open_files.held())
            except Exception:
                # Nothing is lost by a turn that fails; the next one does its work.
                log.exception("housekeeping failed")

    def close(self) -> None:
        """End every thread of ours that uses the index, let go of the segments, close the index.
        Blocks while a store is asked something, up to its deadline; none may ask us any more.
        Stores belong to the caller."""
        self._closing.set()
        self._housekeeper.join()
        try:
            self.access_times.write()
        except CacheError as exc:
            log.warning("when files were read last is forgotten: %s", exc)
        # Whoever persists waits for fetches; each of them uses the index until it ends.
        self.queue.close()
        self.open_files.close()
        self.fetcher.close()
        self.discovery.close()
        self.segments.close()
        self.index.close()
        if self._mount_lock is not None:
            os.close(self._mount_lock)
