"""A part of a multipart upload on its way: to the cache, and in write_through on to the store.

The store pulls a part's bytes from an iterator, a client pushes them: a thread with a queue of two
chunks stands between, so that memory stays bounded and the store's pace holds back the client.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from cache.errors import InvalidPart, NoSuchUpload, StoreNotFound
from cache.records import Part
from cache.staging import Staged, stage
from cache.stores.base import PartUpload


class _Pump:
    """Turns pushed chunks into the iterator that a store pulls from, in its own thread."""

    def __init__(self, parts: PartUpload, number: int, size_bytes: int) -> None:
        self._chunks: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._cancelled = False
        self._ended = False  # the last chunk, None, was taken from the queue
        self.tag = ""
        self._thread = threading.Thread(
            target=self._run, args=(parts, number, size_bytes), name="part", daemon=True
        )
        self._thread.start()

    def _run(self, parts: PartUpload, number: int, size_bytes: int) -> None:
        try:
            try:
                self.tag = parts.write_part(number, self._arriving(), size_bytes)
            except StoreNotFound as exc:
                raise NoSuchUpload(f"part {number}: the store lost its upload") from exc
        except BaseException as exc:  # noqa: BLE001  the pusher raises it
            self._error = exc
            while not self._ended:  # let the pusher finish; it meets the error in the end
                self._ended = self._chunks.get() is None

    def _arriving(self) -> Iterator[bytes]:
        while (chunk := self._chunks.get()) is not None:
            yield chunk
        self._ended = True
        if self._cancelled:
            raise InvalidPart("the client broke off")

    def push(self, chunk: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._chunks.put(chunk)

    def finish(self) -> str:
        self._chunks.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.tag

    def cancel(self) -> None:
        """End the store's part early: it sees a body that breaks off, and drops it."""
        self._cancelled = True
        self._chunks.put(None)
        self._thread.join()


Enter = Callable[[Staged | None, str, dict[str, str], str], Part]
"""Enters a part into its upload: (bytes, etag, checksums, tag of the store's part)."""


class PartWriter:
    """One part on its way. One thread at a time; nothing is visible before commit()."""

    def __init__(
        self,
        number: int,
        size_bytes: int,
        staged: Staged | None,
        passing: PartUpload | None,
        enter: Enter,
    ) -> None:
        """staged: where a copy is made; passing: the store's upload. One of them there is."""
        self._number = number
        self._size_bytes = size_bytes
        self._written = 0
        self._staged = staged
        self._enter = enter
        if staged is not None:
            staged.never_inline()
        self._pump = None if passing is None else _Pump(passing, number, size_bytes)

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append; as ObjectWriter.write."""
        self._written += len(chunk)
        if self._written > self._size_bytes:
            raise InvalidPart(f"part {self._number} is longer than announced")
        self._staged = stage(self._staged, chunk, needed=self._pump is None)
        if self._pump is not None:
            self._pump.push(bytes(chunk))

    def commit(self, *, etag: str, checksums: dict[str, str]) -> Part:
        """Enter the part into its upload, durably. NoSuchUpload if that is gone meanwhile."""
        if self._written != self._size_bytes:
            raise InvalidPart(f"part {self._number} has {self._written} bytes")
        tag = ""
        if self._pump is not None:
            pump, self._pump = self._pump, None
            tag = pump.finish()
        if self._staged is not None:
            self._staged.finish()
        try:
            return self._enter(self._staged, etag, checksums, tag)
        finally:
            if self._staged is not None:
                self._staged.release()

    def abort(self) -> None:
        """Give the part up, if it was not committed. Idempotent."""
        if self._staged is not None:
            self._staged.release()
        if self._pump is not None:
            pump, self._pump = self._pump, None
            pump.cancel()
