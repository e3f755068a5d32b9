"""Calls that must not hold their caller longer than the store's deadline.

A system call on a hung NFS mount cannot be interrupted, and an HTTP answer that trickles in a
byte a second never meets a socket timeout. So a store makes its calls in threads of its own and
the caller gives up at the deadline: that is StoreUnavailable, "no answer", and the call may still
take effect later, as with any server whose answer was lost.

A call that was given up keeps its thread until it ends. Whatever it uses (descriptors, buffers)
must be released after it: `submit()` returns the future to hang the clean-up on. When every
thread is stuck, further calls wait in line and fail at their own deadline; once the store answers
again the threads come free. The threads are daemons, so that a dead mount cannot keep the
process from ending.

Any thread may call, except the pool's own threads (they would wait for themselves).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from cache.errors import StoreUnavailable

T = TypeVar("T")


class DeadlinePool:
    """At most `threads_max` daemon threads, started when they are needed."""

    def __init__(self, name: str, deadline_s: float, threads_max: int) -> None:
        self._name = name
        self.deadline_s = deadline_s
        self._threads_max = threads_max
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._thread_count = 0
        self._active_count = 0  # calls submitted and not ended
        self._closed = False
        self._release: Callable[[], None] | None = None

    def run(self, call: Callable[[], T]) -> T:
        """The result of call(), or its exception; StoreUnavailable at the deadline."""
        return self.wait(self.submit(call))

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Start call() and return at once."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise StoreUnavailable(f"{self._name} is closed")
            self._active_count += 1
            self._calls.put((future, call))
            if not self._idle.acquire(blocking=False) and self._thread_count < self._threads_max:
                self._thread_count += 1
                threading.Thread(
                    target=self._work, name=f"{self._name}-{self._thread_count}", daemon=True
                ).start()
        return future

    def wait(self, future: Future[T]) -> T:
        """The result of a submitted call; the deadline counts from now."""
        try:
            return future.result(self.deadline_s)
        except TimeoutError as exc:
            if future.done() and not future.cancelled():
                return future.result()  # it ended just now, or the call itself timed out
            future.cancel()
            raise StoreUnavailable(f"{self._name}: no answer in {self.deadline_s:g} s") from exc

    def close(self, release: Callable[[], None]) -> None:
        """Take no more calls; release() what they use when the last one under way has ended,
        which is now if there is none. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._thread_count):
                self._calls.put(None)
            if self._active_count:
                self._release = release
                return
        release()

    def _work(self) -> None:
        while True:
            item = self._calls.get()
            if item is None:
                return
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as exc:  # noqa: BLE001  handed to whoever waits
                    future.set_exception(exc)
                else:
                    future.set_result(result)
                    del result
            # Nothing of the call may live on in an idle thread: a body part is megabytes.
            del item, future, call
            self._idle.release()
            self._end_one()

    def _end_one(self) -> None:
        with self._lock:
            self._active_count -= 1
            release = self._release if self._active_count == 0 else None
        if release is not None:
            release()
