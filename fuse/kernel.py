"""What the kernel's caches must forget, and when they may be told.

The kernel believes names, missing names and attributes forever. Whoever changes them without the
kernel's doing (the S3 door, the store's own changes) has them forgotten before it acknowledges.

`forget` blocks: to drop a name the kernel waits for the operations under way in that directory,
which wait for our handlers. So it is called from threads that hold nothing and that no handler
waits for, never from the loop; measured, the process could otherwise not even be killed. For our
own threads, which a handler may wait for, there is `forget_soon`.

The kernel's own operations (a create, an unlink through the mount) need no call: it knows. Except
that it counts the links of a file by itself, and can be led astray (fuse/links.py).
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections.abc import Callable, Sequence

import pyfuse3

from cache.changes import Change

log = logging.getLogger(__name__)

Then = Callable[[], None]

_NOT_CACHED = (
    errno.ENOENT,  # the kernel does not know the name or inode
    errno.ENOTDIR,  # nor the parent as a directory
    errno.ENODEV,  # the mount is gone, and its caches with it
    errno.ENOTCONN,
    errno.ENOSYS,  # nobody has greeted us yet (FUSE_INIT): nothing was looked up
)


class KernelCache:
    """The caches of this process's one mount. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._mounted = False
        self._under_way = 0
        self._soon: queue.SimpleQueue[tuple[Sequence[Change], Then | None] | None]
        self._soon = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    def mounted(self) -> None:
        """From now on there is something to forget. Called before the first request is served."""
        with self._lock:
            self._mounted = True
        self._worker = threading.Thread(target=self._forget_queued, name="forget", daemon=True)
        self._worker.start()

    def forget(self, changes: Sequence[Change]) -> None:
        """Return when the kernel has forgotten; at once where nothing is mounted. Blocks."""
        with self._lock:
            if not self._mounted:
                return
            self._under_way += 1
        try:
            for change in changes:
                _forget(change)
        finally:
            with self._lock:
                self._under_way -= 1
                self._idle.notify_all()

    def forget_soon(self, changes: Sequence[Change], then: Then | None = None) -> None:
        """Have another thread forget, and call `then` there. Never blocks.

        The queue needs no bound: what is put here is little for each operation that was given up
        on or took one of its names from a file, and what a look at the store found changed there.
        """
        if changes:
            self._soon.put((changes, then))

    def unmounting(self, timeout_s: float) -> bool:
        """Begin no more, and wait for what is under way; False if it did not end in time.

        After it, and only then, the session may be destroyed: the calls use it.
        """
        with self._lock:
            self._mounted = False
            self._soon.put(None)
            return self._idle.wait_for(lambda: self._under_way == 0, timeout_s)

    def _forget_queued(self) -> None:
        while (item := self._soon.get()) is not None:
            changes, then = item
            try:
                self.forget(changes)
            except Exception:
                log.exception("forgetting %d changes failed", len(changes))
            if then is not None:
                then()


def _forget(change: Change) -> None:
    try:
        if change.name:
            pyfuse3.invalidate_entry(change.parent, change.name)
        else:
            # Attributes only: bytes of an inode never change but through the mount.
            pyfuse3.invalidate_inode(change.inode, attr_only=True)
    except OSError as exc:
        if exc.errno not in _NOT_CACHED:
            raise
