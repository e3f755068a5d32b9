"""The background worker of the node: one process, a few chores, each of them the cache's own work.

It decides when; `cache/queue.py` (persist), `cache/reclaim.py` (evict) and `cache/recovery.py`
decide what and how. Nothing here is needed to serve: a node whose mover is down acknowledges, reads
and lists as before, until its bounds are reached. On SIGTERM it drains the queue, for as long as
the supervisor allows, and reports what is left.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from cache.queue import Backlog
from cache.volume import Volume
from node.chores import Chore, Chores
from node.draining import as_facts, drain
from node.lifecycle import Lifecycle

log = logging.getLogger(__name__)

_NOTHING_MOVES_S = 5.0
"""A drain in which no name got done for so long, and none is under way, is given up: the store does
not answer, and what waits is safe where it is."""
_CLOSE_S = 1.0
"""Part of the time of a stop that is kept for closing the index."""

_FIRST_LOOK_S = 5.0
"""The most that the doors of a node with a new index wait for its buckets. A store that does not
answer must not keep them shut."""

READER_CHECK_S = 30.0
"""Slots of killed readers pin pages of the index, which then only grows (reliability row 29)."""


def serve(
    volume: Volume,
    *,
    upload_age_max_s: float,
    lifecycle_day_s: int,
    ready: Callable[[], None],
    report: Callable[[dict[str, Any]], None],
    grace_s: Callable[[], float],
) -> bool:
    """Do the chores until SIGTERM, then drain. Blocks; call it in the main thread. Whether the
    volume may be closed: not while a chore is still at work in it. Then the process must end as it
    is, which cuts that off.

    upload_age_max_s: 0 for never. `ready` is called once the chores run and buckets are known,
    `report` with what is left at the end, `grace_s` after SIGTERM: seconds that the end may take.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    lifecycle = Lifecycle(volume, lifecycle_day_s)
    looked = threading.Event()

    def find_buckets() -> int:
        try:
            return volume.buckets.adopt()
        finally:
            looked.set()

    unknown = volume.buckets.are_unknown
    chores = Chores(_chores(volume, lifecycle, find_buckets, upload_age_max_s))
    chores.start()
    if unknown:
        # The index is new, or was lost: clients would be told that there is no such bucket.
        looked.wait(_FIRST_LOOK_S)
    ready()
    stopping.wait()
    deadline = time.monotonic() + max(0.0, grace_s() - _CLOSE_S)
    chores.stop(timeout_s=min(1.0, grace_s() / 4))
    report(as_facts(_drain(volume, deadline)))
    left = chores.stop(timeout_s=0)
    if left:
        log.warning("cut off at the end: %s; the next start goes on with it", ", ".join(left))
    return not left


def _chores(
    volume: Volume,
    lifecycle: Lifecycle,
    find_buckets: Callable[[], int],
    upload_age_max_s: float,
) -> list[Chore]:
    reclaimer = volume.reclaimer

    def abort_stale_uploads() -> int:
        return volume.uploads.abort_stale(upload_age_max_s) if upload_age_max_s else 0

    return [
        Chore("persist", volume.queue.run_once, every_s=0.1, busy_s=0.01),
        Chore("reclaim", reclaimer.run_once, every_s=0.5, busy_s=0.05),
        Chore("seal", reclaimer.seal_abandoned, every_s=10),
        Chore("reap", volume.reaper.run_without_mount, every_s=2, busy_s=0.05),
        Chore("find buckets", find_buckets, every_s=60),
        Chore("read settings", volume.buckets.read_unread, every_s=5),
        Chore("lifecycle", lifecycle.run_once, every_s=lifecycle.every_s),
        Chore("look for changes", volume.discovery.refresh_aged, every_s=1),
        Chore("forget settled names", volume.queue.forget_settled, every_s=30, busy_s=0.1),
        Chore("clear readers", volume.index.clear_stale_readers, every_s=READER_CHECK_S),
        Chore("abort stale uploads", abort_stale_uploads, every_s=min(60, upload_age_max_s or 60)),
        Chore("forget expired keys", volume.keys.forget_expired, every_s=600),
        Chore("drop unknown files", reclaimer.drop_unknown_files, every_s=600),
    ]


def _drain(volume: Volume, deadline: float) -> Backlog:
    """Persist until nothing is left, nothing moves, or the time is over. What is left."""
    backlog = volume.queue.backlog()
    if backlog.names:
        log.info("draining %d names, %d bytes", backlog.names, backlog.dirty_bytes)
    drain(
        volume.queue,
        lambda: volume.queue.backlog().names,
        deadline=deadline,
        give_up_s=_NOTHING_MOVES_S,
    )
    backlog = volume.queue.backlog()
    if backlog.names:
        log.warning(
            "%d names (%d bytes) are not in the store yet; the next start goes on with them",
            backlog.names,
            backlog.dirty_bytes,
        )
    return backlog
