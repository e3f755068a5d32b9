"""Link counts while the kernel counts down by itself.

When an unlink or a rename has taken a name from a file, the kernel subtracts one from the link
count that it remembers, instead of asking for the new one. If it hears the new count too early,
from an answer to somebody who looked at another name of the file meanwhile, it subtracts from that.
The one name left then counts as none: stat(2) shows 0, link(2) answers ENOENT of its own accord,
and as attributes are believed forever it stays so.

So until the kernel has certainly subtracted, answers carry the count from before, not to be
remembered. Nobody can tell: the operation has not returned yet, or only just. It has subtracted

- when the thread that called unlink or rename asks something about the file: for regular files the
  kernel itself has it set the time of the change, before the system call returns;
- when the lock of the directory is free again, for which the `forget` thread waits
  (fuse/kernel.py); that tells about symlinks and special files.

Only the second may take long after the operation has returned, on a busy machine. So whoever asks
for the attributes once we have answered waits for it.

Answers to what the kernel asked before it subtracted, and gets afterwards, it drops by itself.
Files with one name are no concern: below zero it does not count.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from cache.records import Inode

_PATIENCE_S = 1.0
"""Who asks may itself hold the directory, for which the `forget` thread waits: link(2) does."""


@dataclass(slots=True, eq=False)
class Removal:
    """An operation under way that takes a name from a file with several."""

    inode: int
    links: int
    """How many the file had before."""
    thread: int
    """Who called it, as the kernel counts threads; 0 in a process id namespace it cannot see."""
    answered: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """Called when it is over."""


class Removals:
    """Those under way, at most one for each inode: the kernel locks it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[int, Removal] = {}

    def begin(self, inode: Inode, thread: int) -> Removal:
        """Before the change is committed. A removal of the same inode before this one is over."""
        removal = Removal(inode.id, inode.nlink, thread)
        with self._lock:
            self._under_way[inode.id] = removal
        return removal

    def answered(self, removal: Removal) -> Callable[[], None]:
        """The kernel is about to be answered; what is returned is called when it is done."""
        removal.answered = True
        return functools.partial(self.end, removal)

    def end(self, removal: Removal) -> None:
        """The kernel has returned from it, whatever came of it. Idempotent."""
        with self._lock:
            if self._under_way.get(removal.inode) is removal:
                del self._under_way[removal.inode]
            waiting, removal.waiting = removal.waiting, []
        for wake in waiting:
            with contextlib.suppress(trio.RunFinishedError):
                wake()

    def asks(self, inode: int, thread: int) -> None:
        """A thread asks something about an inode, so it has returned from what it did before."""
        removal = self._under_way.get(inode)
        if removal is not None and removal.thread == thread:
            self.end(removal)

    async def over(self, inode: int, thread: int) -> None:
        """Return when nobody but this thread has taken a name from the inode and was answered just
        now; after a second, though, in any case."""
        removal = self._under_way.get(inode)
        if removal is None or not removal.answered or removal.thread == thread:
            return
        over = trio.Event()
        with self._lock:
            if self._under_way.get(inode) is not removal:
                return
            loop = trio.lowlevel.current_trio_token()
            removal.waiting.append(functools.partial(loop.run_sync_soon, over.set))
        with trio.move_on_after(_PATIENCE_S):
            await over.wait()

    def links(self, inode: Inode) -> int:
        """The count to answer with."""
        removal = self._under_way.get(inode.id)
        return inode.nlink if removal is None else max(inode.nlink, removal.links)
