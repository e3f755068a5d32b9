"""Listings of an S3 store: pages in byte order of the real keys, from a marker on.

A page continues from a key, not from the server's token: it can be asked for by another process,
or tomorrow. Servers differ in what they do with a marker that is no key or ends in `/`; so what
comes back is compared with the marker here, and the server's own token is followed only until
something beyond the marker came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from cache.errors import StoreCorrupt
from cache.stores.base import ListPage, StoredObject, StoredPrefix
from cache.stores.deadline import DeadlinePool
from cache.stores.s3_client import store_errors
from cache.stores.s3_keys import LAST, prefix_text, to_bytes, to_text
from cache.stores.s3_requests import ObjectRequests, version_of

_PAGE_KEYS_MAX = 1000  # as many as S3 ever answers


class Listing:
    """Lists one store. Any thread may call; requests run in the store's threads."""

    def __init__(self, requests: ObjectRequests, pool: DeadlinePool) -> None:
        self._requests = requests
        self._pool = pool

    def page(self, prefix: bytes, *, delimiter: bool, marker: bytes, limit: int) -> ListPage:
        """See `base.Store.list`."""
        if self._requests.config.listing == "unordered":
            return self._sorted_page(prefix, delimiter, marker, limit)
        for page, is_truncated in self._pages(prefix, delimiter, marker, limit):
            entries = _after(page, prefix, marker)
            if not is_truncated and len(entries) <= limit:
                return ListPage(entries, None)
            last = _last_certain(page)
            entries = [entry for entry in entries if entry.key <= last][:limit]
            # Nothing beyond the marker yet (others' prefix, a server that begins anew): go on.
            if entries:
                return ListPage(entries, entries[-1].key)
        return ListPage([], None)

    def _sorted_page(self, prefix: bytes, delimiter: bool, marker: bytes, limit: int) -> ListPage:
        """A page of a server that does not list in order: all is read, and sorted here."""
        found: dict[bytes, StoredObject | StoredPrefix] = {}
        for page, _ in self._pages(prefix, delimiter, b"", _PAGE_KEYS_MAX):
            found.update((entry.key, entry) for entry in page)
        entries = sorted(_after(found.values(), prefix, marker), key=lambda entry: entry.key)
        if len(entries) > limit:
            return ListPage(entries[:limit], entries[limit - 1].key)
        return ListPage(entries, None)

    def _pages(
        self, prefix: bytes, delimiter: bool, marker: bytes, limit: int
    ) -> Iterator[tuple[list[StoredObject | StoredPrefix], bool]]:
        """(entries, is truncated) of one answer after another."""
        parameters: dict[str, Any] = {
            "Bucket": self._requests.config.bucket,
            "Prefix": self._requests.config.prefix + prefix_text(prefix),
            "MaxKeys": max(1, min(limit, _PAGE_KEYS_MAX)),
        }
        if delimiter:
            parameters["Delimiter"] = "/"
        start = ""
        if marker:
            # A directory that was listed as a prefix is left behind with all that is in it.
            behind = LAST if delimiter and marker.endswith(b"/") and marker != prefix else ""
            start = self._requests.config.prefix + to_text(marker) + behind
        start_name = "Marker" if self._requests.config.listing == "v1" else "StartAfter"
        continued: set[str] = set()
        while True:
            asked = {**parameters, start_name: start} if start else dict(parameters)
            response, token = self._pool.run(partial(self._ask, prefix, asked))
            yield list(self._entries(response)), bool(response.get("IsTruncated"))
            if not response.get("IsTruncated"):
                return
            if not token or token in continued:
                raise StoreCorrupt(f"list {prefix!r}: the server repeats a page")
            continued.add(token)
            if self._requests.config.listing == "v1":
                start = token
            else:
                parameters["ContinuationToken"] = token

    def _ask(self, prefix: bytes, parameters: dict[str, Any]) -> tuple[Any, str]:
        """One request, and what continues it."""
        response: Any
        with store_errors("list", prefix):
            if self._requests.config.listing != "v1":
                response = self._requests.client.list_objects_v2(**parameters)
                return response, str(response.get("NextContinuationToken", ""))
            response = self._requests.client.list_objects(**parameters)
        # Without a delimiter V1 does not say NextMarker: the last key is it.
        keys = [item["Key"] for item in response.get("Contents", [])]
        return response, str(response.get("NextMarker") or max(keys, default=""))

    def _entries(self, response: Any) -> Iterator[StoredObject | StoredPrefix]:
        skip = len(self._requests.config.prefix)
        for item in response.get("Contents", []):
            modified_ns = int(item["LastModified"].timestamp() * 1000) * 10**6
            yield StoredObject(
                to_bytes(item["Key"][skip:]), int(item["Size"]), version_of(item), modified_ns
            )
        for item in response.get("CommonPrefixes", []):
            yield StoredPrefix(to_bytes(item["Prefix"][skip:]))


def _after(
    entries: Iterable[StoredObject | StoredPrefix], prefix: bytes, marker: bytes
) -> list[StoredObject | StoredPrefix]:
    """Those that the caller asked for, in byte order."""
    wanted = [
        entry
        for entry in entries
        if entry.key and entry.key > marker and entry.key.startswith(prefix)
    ]
    wanted.sort(key=lambda entry: entry.key)
    return wanted


def _last_certain(page: Iterable[StoredObject | StoredPrefix]) -> bytes:
    """The key up to which a truncated page is complete. Servers count objects for sure; some
    (moto's V1, rclone) put more prefixes into the page than belong before its last object, and
    what lies between those would be lost if the next page began behind them."""
    objects = [entry.key for entry in page if isinstance(entry, StoredObject)]
    return max(objects or [entry.key for entry in page], default=b"")
