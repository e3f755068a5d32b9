"""Bucket links: further names by which S3 clients know a bucket, as Apache Ozone has them.

A link is a name for a name: it leads to whatever bucket has that name now, and to none while there
is none. A bucket of the link's own name comes first. Policies, also those of forms, name the bucket
itself. Links are not seen in the mount, and not kept in the store.

Blocking (a commit to change), thread-safe; `resolve` is inline.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from cache.buckets import check_bucket_name
from cache.errors import BucketExists, NoSuchBucket
from cache.index import Index, Table, Txn
from cache.records import Bucket, BucketLink, unpack


class BucketLinks:
    def __init__(self, index: Index) -> None:
        self._index = index

    def create(self, name: str, bucket: str) -> BucketLink:
        """Let `name` lead to a bucket; a link to a link leads to where that does. NoSuchBucket,
        BucketExists, InvalidName."""
        check_bucket_name(name)

        def change(txn: Txn) -> BucketLink:
            for table in (Table.BUCKETS, Table.BUCKET_LINKS):
                if txn.get(table, name.encode()) is not None:
                    raise BucketExists(name, "")
            target = _follow(txn, bucket)
            if txn.get(Table.BUCKETS, target.encode()) is None:
                raise NoSuchBucket(bucket)
            link = BucketLink(name, target, time.time_ns())
            txn.put_record(Table.BUCKET_LINKS, name.encode(), link)
            return link

        return self._index.commit(change)

    def delete(self, name: str) -> bool:
        """Remove a link, and nothing of the bucket; False if there is none."""
        return self._index.commit(
            lambda txn: txn.delete(Table.BUCKET_LINKS, name.encode()), grows=False
        )

    def list(self) -> Sequence[BucketLink]:
        with self._index.read() as txn:
            return [unpack(value, BucketLink) for _, value in txn.scan(Table.BUCKET_LINKS)]

    def resolve(self, name: str) -> str:
        """The name of the bucket that a name leads to: itself, if it is no link."""
        with self._index.read() as txn:
            return _follow(txn, name)

    def with_links(self, buckets: Sequence[Bucket]) -> Sequence[Bucket]:
        """These buckets, and each once more under every name that leads to it; by name."""
        found = {bucket.name: bucket for bucket in buckets}
        linked = [
            msgspec.structs.replace(found[link.bucket], name=link.name, created_ns=link.created_ns)
            for link in self.list()
            if link.bucket in found and link.name not in found
        ]
        return sorted([*buckets, *linked], key=lambda bucket: bucket.name) if linked else buckets


def _follow(txn: Txn, name: str) -> str:
    key = name.encode("utf-8", "replace")
    if not 0 < len(key) < 256 or txn.get(Table.BUCKETS, key) is not None:
        return name
    link = txn.record(Table.BUCKET_LINKS, key, BucketLink)
    return name if link is None else link.bucket
