"""A bucket's part of a store, as its users see it: without what Forebay keeps in it for itself.

At the root of the bucket's part, RESERVED is Forebay's own: the settings of the bucket
(`cache/bucket_documents.py`) and whatever else belongs to the bucket and is no object of it. No
listing shows it and no key leads there: keys of users that begin with RESERVED lie under ESCAPED,
the last name in there, which keeps their order among the others.

Holds the contract of stores/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cache.stores.base import ListPage, Store, StoredObject, StoredPrefix
from cache.stores.prefixed import Prefixed

RESERVED = b".forebay/"
ESCAPED = RESERVED + b"~keys/"

Entry = StoredObject | StoredPrefix
Entries = list[Entry]


class BucketPart(Prefixed):
    def __init__(self, store: Store, prefix: bytes) -> None:
        super().__init__(store, prefix)
        self._reserved = prefix + RESERVED
        self._escaped = prefix + ESCAPED

    def _inner(self, key: bytes) -> bytes:
        if key.startswith(RESERVED):
            return self._escaped + key[len(RESERVED) :]
        return self._prefix + key

    def _outer(self, key: bytes) -> bytes:
        if key.startswith(self._escaped):
            return RESERVED + key[len(self._escaped) :]
        return key.removeprefix(self._prefix)

    def _is_hidden(self, key: bytes) -> bool:
        return key.startswith(self._reserved) and not key.startswith(self._escaped)

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        if not RESERVED.startswith(prefix) or prefix == RESERVED:
            return super().list(prefix, delimiter=delimiter, marker=marker, limit=limit)
        after = self._inner(marker) if marker else b""
        if delimiter and marker.startswith(RESERVED):
            after = self._reserved  # all of it is one entry, which that page had
        while True:
            page = self._store.list(
                self._prefix + prefix, delimiter=delimiter, marker=after, limit=limit
            )
            entries = self._shown(page.entries, delimiter)
            last = page.next_marker
            if last is None:
                return ListPage(entries, None)
            if entries:
                # The next page begins there again, and meets only what is hidden before the rest.
                return ListPage(entries, entries[-1].key)
            after = self._escaped[:-1] if self._is_hidden(last) and not delimiter else last

    def _shown(self, found: Sequence[Entry], delimiter: bool) -> Entries:
        shown: Entries = []
        for entry in found:
            if entry.key == self._reserved and delimiter:
                shown += self._escaped_directory()
            elif not self._is_hidden(entry.key) and entry.key != self._prefix:
                shown.append(replace(entry, key=self._outer(entry.key)))
        return shown

    def _escaped_directory(self) -> Entries:
        """The users' own directory `.forebay/` as a delimited listing shows it, if there is one."""
        found = self._store.list(self._escaped, delimiter=False, limit=1).entries
        if not found:
            return []
        first = found[0]
        if isinstance(first, StoredObject) and self.capabilities.native_directories:
            return [replace(first, key=RESERVED)]
        return [StoredPrefix(RESERVED)]
