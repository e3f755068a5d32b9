"""A part of a store: all of its keys begin with one prefix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cache.stores.base import (
    Capabilities,
    ListPage,
    Opened,
    PartUpload,
    Read,
    Store,
    StoredAttributes,
    StoredObject,
    StoredPrefix,
    Upload,
)


class Prefixed:
    """Holds the contract of stores/base.py; `prefix` ends in `/`, or is empty: the whole store."""

    def __init__(self, store: Store, prefix: bytes) -> None:
        assert prefix.endswith(b"/") or not prefix
        self._store = store
        self._prefix = prefix

    def _inner(self, key: bytes) -> bytes:
        """The store's own key for one of this part's."""
        return self._prefix + key

    def _outer(self, key: bytes) -> bytes:
        """The inverse of _inner."""
        return key.removeprefix(self._prefix)

    def _strip(self, found: StoredObject) -> StoredObject:
        return replace(found, key=self._outer(found.key))

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def check_attributes(self, attributes: StoredAttributes) -> None:
        self._store.check_attributes(attributes)

    def head(self, key: bytes) -> StoredObject:
        return self._strip(self._store.head(self._inner(key)))

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        return self._store.read(self._inner(key), start, stop, version)

    def open(self, key: bytes, start: int, stop: int) -> Opened | None:
        opened = self._store.open(self._inner(key), start, stop)
        return None if opened is None else replace(opened, found=self._strip(opened.found))

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> Upload:
        return self._store.begin_upload(self._inner(key), size_bytes, attributes)

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> PartUpload:
        return self._store.begin_parts(self._inner(key), attributes)

    def resume_parts(self, key: bytes, token: str) -> PartUpload:
        return self._store.resume_parts(self._inner(key), token)

    def put(
        self,
        key: bytes,
        body: Iterable[bytes | memoryview],
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        stored = self._store.put(self._inner(key), body, size_bytes, attributes, expected=expected)
        return self._strip(stored)

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
        stored = self._store.patch(
            self._inner(key), changed, read, size_bytes, attributes, version=version
        )
        return self._strip(stored)

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        stored = self._store.set_attributes(self._inner(key), attributes, expected=expected)
        return self._strip(stored)

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        stored = self._store.copy(self._inner(source), version, self._inner(target), attributes)
        return self._strip(stored)

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        stored = self._store.rename(self._inner(source), self._inner(target))
        return None if stored is None else self._strip(stored)

    def delete(self, key: bytes) -> None:
        self._store.delete(self._inner(key))

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        page = self._store.list(
            self._inner(prefix),
            delimiter=delimiter,
            marker=self._inner(marker) if marker else b"",
            limit=limit,
        )
        entries: list[StoredObject | StoredPrefix] = []
        for entry in page.entries:
            key = self._outer(entry.key)
            if key:  # the part's own directory is not one of its keys
                entries.append(replace(entry, key=key))
        after = page.next_marker
        return ListPage(entries, None if after is None else self._outer(after))

    def location(self, key: bytes) -> str:
        return self._store.location(self._inner(key))

    def statfs(self) -> tuple[int, int] | None:
        return self._store.statfs()

    def close(self) -> None:
        """The store is shared; whoever opened it closes it."""
