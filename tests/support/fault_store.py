"""A store that fails on demand: wraps a real one, and counts what is asked of it.

A fault is a function of (operation, key) that is called before the operation (`before`) or when
it has taken effect and its answer is on the way (`after`); raise from it what the store's user
shall meet. An error in `after` is a lost answer: the effect stands.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from cache.errors import StoreUnavailable
from cache.stores.base import (
    Capabilities,
    ListPage,
    Opened,
    PartUpload,
    Read,
    Store,
    StoredAttributes,
    StoredObject,
    Upload,
)

Fault = Callable[[str, bytes], None]


def no_fault(operation: str, key: bytes) -> None:
    """The store works."""


def unavailable(operation: str, key: bytes) -> None:
    """The store does not answer, whatever is asked."""
    raise StoreUnavailable(f"{operation} {key!r}: the store is down, says the test")


class FaultStore:
    """See the module docstring. Thread-safe as far as the faults are."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.before: Fault = no_fault
        self.after: Fault = no_fault
        self.calls: Counter[str] = Counter()
        self.read_bytes = 0
        self._lock = threading.Lock()

    def _begin(self, operation: str, key: bytes) -> None:
        with self._lock:
            self.calls[operation] += 1
        self.before(operation, key)

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities

    def check_attributes(self, attributes: StoredAttributes) -> None:
        self.store.check_attributes(attributes)

    def head(self, key: bytes) -> StoredObject:
        self._begin("head", key)
        found = self.store.head(key)
        self.after("head", key)
        return found

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        self._begin("read", key)
        yield from self._counted(key, self.store.read(key, start, stop, version))

    def _counted(self, key: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            with self._lock:
                self.read_bytes += len(chunk)
            yield chunk
            self.after("read", key)

    def open(self, key: bytes, start: int, stop: int) -> Opened | None:
        self._begin("open", key)
        opened = self.store.open(key, start, stop)
        self.after("open", key)
        return None if opened is None else replace(opened, chunks=self._counted(key, opened.chunks))

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> Upload:
        self._begin("begin_upload", key)
        return _FaultUpload(self, key, self.store.begin_upload(key, size_bytes, attributes))

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> PartUpload:
        self._begin("begin_parts", key)
        return _FaultParts(self, key, self.store.begin_parts(key, attributes))

    def resume_parts(self, key: bytes, token: str) -> PartUpload:
        return _FaultParts(self, key, self.store.resume_parts(key, token))

    def put(
        self,
        key: bytes,
        body: Iterable[bytes | memoryview],
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        self._begin("put", key)
        found = self.store.put(key, body, size_bytes, attributes, expected=expected)
        self.after("put", key)
        return found

    def patch(
        self,
        key: bytes,
        changed: Sequence[tuple[int, int]],
        read: Read,
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        version: str,
    ) -> StoredObject:
        self._begin("put", key)
        found = self.store.patch(key, changed, read, size_bytes, attributes, version=version)
        self.after("put", key)
        return found

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        self._begin("set_attributes", key)
        found = self.store.set_attributes(key, attributes, expected=expected)
        self.after("set_attributes", key)
        return found

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        self._begin("copy", target)
        found = self.store.copy(source, version, target, attributes)
        self.after("copy", target)
        return found

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        self._begin("rename", target)
        found = self.store.rename(source, target)
        self.after("rename", target)
        return found

    def delete(self, key: bytes) -> None:
        self._begin("delete", key)
        self.store.delete(key)
        self.after("delete", key)

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        self._begin("list", prefix)
        page = self.store.list(prefix, delimiter=delimiter, marker=marker, limit=limit)
        self.after("list", prefix)
        return page

    def location(self, key: bytes) -> str:
        return self.store.location(key)

    def statfs(self) -> tuple[int, int] | None:
        return self.store.statfs()

    def close(self) -> None:
        self.store.close()


class _FaultUpload:
    def __init__(self, faults: FaultStore, key: bytes, upload: Upload) -> None:
        self._faults = faults
        self._key = key
        self._upload = upload

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self._upload.write(chunk)

    def commit(self, attributes: StoredAttributes, *, expected: str | None = None) -> StoredObject:
        self._faults._begin("upload", self._key)
        found = self._upload.commit(attributes, expected=expected)
        self._faults.after("upload", self._key)
        return found

    def abort(self) -> None:
        self._upload.abort()


class _FaultParts:
    def __init__(self, faults: FaultStore, key: bytes, parts: PartUpload) -> None:
        self._faults = faults
        self._key = key
        self._parts = parts

    @property
    def token(self) -> str:
        return self._parts.token

    def write_part(self, number: int, chunks: Iterable[bytes | memoryview], size_bytes: int) -> str:
        self._faults._begin("write_part", self._key)
        tag = self._parts.write_part(number, chunks, size_bytes)
        self._faults.after("write_part", self._key)
        return tag

    def copy_part(self, number: int, source: bytes, start: int, stop: int, version: str) -> str:
        self._faults._begin("copy_part", self._key)
        tag = self._parts.copy_part(number, source, start, stop, version)
        self._faults.after("copy_part", self._key)
        return tag

    def commit(
        self,
        parts: list[tuple[int, str]],
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        self._faults._begin("commit_parts", self._key)
        found = self._parts.commit(parts, attributes, expected=expected)
        self._faults.after("commit_parts", self._key)
        return found

    def abort(self) -> None:
        self._parts.abort()
