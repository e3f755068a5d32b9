"""A part of a store, all of whose keys begin with one prefix: the store of a single bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from cache.stores.base import (
    Capabilities,
    ListPage,
    PartUpload,
    Store,
    StoredAttributes,
    StoredObject,
    StoredPrefix,
    Upload,
)


class Prefixed:
    """Holds the contract of stores/base.py; `prefix` ends in `/`."""

    def __init__(self, store: Store, prefix: bytes) -> None:
        assert prefix.endswith(b"/")
        self._store = store
        self._prefix = prefix

    def _strip(self, found: StoredObject) -> StoredObject:
        return replace(found, key=found.key.removeprefix(self._prefix))

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def head(self, key: bytes) -> StoredObject:
        return self._strip(self._store.head(self._prefix + key))

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        return self._store.read(self._prefix + key, start, stop, version)

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> Upload:
        return self._store.begin_upload(self._prefix + key, size_bytes, attributes)

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> PartUpload:
        return self._store.begin_parts(self._prefix + key, attributes)

    def resume_parts(self, key: bytes, token: str) -> PartUpload:
        return self._store.resume_parts(self._prefix + key, token)

    def put(
        self,
        key: bytes,
        body: Iterable[bytes | memoryview],
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        stored = self._store.put(
            self._prefix + key, body, size_bytes, attributes, expected=expected
        )
        return self._strip(stored)

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        stored = self._store.set_attributes(self._prefix + key, attributes, expected=expected)
        return self._strip(stored)

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        stored = self._store.copy(self._prefix + source, version, self._prefix + target, attributes)
        return self._strip(stored)

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        stored = self._store.rename(self._prefix + source, self._prefix + target)
        return None if stored is None else self._strip(stored)

    def delete(self, key: bytes) -> None:
        self._store.delete(self._prefix + key)

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        page = self._store.list(
            self._prefix + prefix,
            delimiter=delimiter,
            marker=self._prefix + marker if marker else b"",
            limit=limit,
        )
        entries: list[StoredObject | StoredPrefix] = []
        for entry in page.entries:
            key = entry.key.removeprefix(self._prefix)
            if key:  # the bucket's own directory is not one of its keys
                entries.append(replace(entry, key=key))
        marker_next = page.next_marker
        return ListPage(
            entries,
            None if marker_next is None else marker_next.removeprefix(self._prefix),
        )

    def statfs(self) -> tuple[int, int] | None:
        return self._store.statfs()

    def close(self) -> None:
        """The store is shared; whoever opened it closes it."""
