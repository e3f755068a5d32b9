"""A store in memory that has keys and nothing else, as S3 has: no directories, renames by copy and
delete, a new version with each copy. Thousands of schedules run against it in the time that a
server takes to start; that S3 stores behave so is what tests/test_cache_stores.py finds out."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from cache.errors import NotSupported, StoreChanged, StoreNotFound
from cache.stores.base import (
    ABSENT,
    Capabilities,
    ListPage,
    PartUpload,
    Read,
    StoredAttributes,
    StoredObject,
    StoredPrefix,
)
from cache.stores.bodies import upload_whole


class FlatStore:
    """See the module docstring. Thread-safe."""

    def __init__(self) -> None:
        self._objects: dict[bytes, tuple[StoredObject, bytes]] = {}
        self._versions = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            native_rename=False,
            native_directories=False,
            conditional_put=True,
            lists_attributes=False,
            keeps_markers=True,
        )

    def check_attributes(self, attributes: StoredAttributes) -> None:
        """It takes all."""

    def head(self, key: bytes) -> StoredObject:
        with self._lock:
            if key not in self._objects:
                raise StoreNotFound(repr(key))
            return self._objects[key][0]

    def _at(self, key: bytes, version: str | None) -> tuple[StoredObject, bytes]:
        found = self.head(key)
        if version is not None and found.version != version:
            raise StoreChanged(f"{key!r} is {found.version}, not {version}")
        return self._objects[key]

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        with self._lock:
            piece = self._at(key, version)[1][start:stop]
        if piece:
            yield piece

    def open(self, key: bytes, start: int, stop: int) -> None:
        del key, start, stop  # two questions to a dictionary cost no more than one

    def write(
        self, key: bytes, body: bytes, attributes: StoredAttributes | None, expected: str | None
    ) -> StoredObject:
        with self._lock:
            there = self._objects[key][0].version if key in self._objects else ABSENT
            if expected is not None and there != expected:
                raise StoreChanged(f"{key!r} is {there!r}, not {expected!r}")
            version = f'"{next(self._versions)}"'
            found = StoredObject(key, len(body), version, time.time_ns(), attributes)
            self._objects[key] = found, body
            return found

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> _Upload:
        del size_bytes, attributes
        return _Upload(self, key)

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> PartUpload:
        raise NotSupported("parts")

    def resume_parts(self, key: bytes, token: str) -> PartUpload:
        raise NotSupported("parts")

    def put(
        self,
        key: bytes,
        body: Iterable[bytes | memoryview],
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        return upload_whole(_Upload(self, key), body, size_bytes, attributes, expected)

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
        return self.put(key, read(0, size_bytes), size_bytes, attributes, expected=version)

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        with self._lock:
            return self.write(key, self._at(key, expected)[1], attributes, None)

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        with self._lock:
            return self.write(target, self._at(source, version)[1], attributes, None)

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        with self._lock:
            is_directory = source.endswith(b"/")
            keys = [k for k in self._objects if k == source or is_directory * k.startswith(source)]
            if not keys:
                raise StoreNotFound(repr(source))
            for key in keys:
                old, body = self._objects.pop(key)
                self.write(target + key[len(source) :], body, old.attributes, None)
            return None if is_directory else self.head(target)

    def delete(self, key: bytes) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        found: dict[bytes, StoredObject | StoredPrefix] = {}
        with self._lock:
            for key, (entry, _) in self._objects.items():
                if not key.startswith(prefix) or key <= marker:
                    continue
                name, slash, _ = key[len(prefix) :].partition(b"/")
                if delimiter and slash:
                    found[prefix + name + slash] = StoredPrefix(prefix + name + slash)
                else:
                    found[key] = dataclasses.replace(entry, attributes=None)
        return ListPage([found[key] for key in sorted(found)], None)

    def location(self, key: bytes) -> str:
        return repr(key)

    def statfs(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        """Nothing to give back."""


class _Upload:
    def __init__(self, store: FlatStore, key: bytes) -> None:
        self._store = store
        self._key = key
        self._body = bytearray()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self._body += chunk

    def commit(self, attributes: StoredAttributes, *, expected: str | None = None) -> StoredObject:
        return self._store.write(self._key, bytes(self._body), attributes, expected)

    def abort(self) -> None:
        """Nothing was sent."""
