"""Access keys of S3 users, in the index. The secret is shown to its user once, when it is made."""

from __future__ import annotations

import secrets
import string
import time

import msgspec

from cache.errors import CacheError
from cache.index import Index, Table, Txn
from cache.records import unpack

_ID_LETTERS = string.ascii_uppercase + "234567"


class AccessKey(msgspec.Struct, array_like=True, frozen=True):
    access_key: str
    secret: str
    user: str
    created_ns: int

    def __repr__(self) -> str:
        return f"AccessKey({self.access_key!r}, user={self.user!r})"


class NoSuchAccessKey(CacheError):
    def __init__(self, access_key: str) -> None:
        super().__init__(f"no such access key: {access_key}")


class Keys:
    """Blocking (a commit to change), thread-safe; get() is inline."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def create(self, user: str) -> AccessKey:
        key = AccessKey(
            access_key="FB" + "".join(secrets.choice(_ID_LETTERS) for _ in range(18)),
            secret=secrets.token_urlsafe(30),
            user=user,
            created_ns=time.time_ns(),
        )
        self._index.commit(lambda txn: txn.put_record(Table.KEYS, key.access_key.encode(), key))
        return key

    def list(self) -> list[AccessKey]:
        with self._index.read() as txn:
            return [unpack(value, AccessKey) for _, value in txn.scan(Table.KEYS)]

    def get(self, access_key: str) -> AccessKey | None:
        # An LMDB key has 1 to 511 bytes; what a client sends may have any.
        name = access_key.encode("utf-8", "replace")[:256]
        if not name:
            return None
        with self._index.read() as txn:
            found = txn.record(Table.KEYS, name, AccessKey)
        return found if found is not None and found.access_key == access_key else None

    def revoke(self, access_key: str) -> None:
        """NoSuchAccessKey when there is none."""

        def change(txn: Txn) -> None:
            if not txn.delete(Table.KEYS, access_key.encode()):
                raise NoSuchAccessKey(access_key)

        self._index.commit(change, grows=False)
