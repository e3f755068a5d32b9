"""Access keys of S3 users, in the index. The secret is shown to its user once, when it is made."""

from __future__ import annotations

import secrets
import string
import time

import msgspec

from cache.errors import CacheError, InvalidName
from cache.index import Index, Table, Txn
from cache.records import unpack

_ID_LETTERS = string.ascii_uppercase + "234567"
NAME_BYTES_MAX = 256
"""Of a user, a group, or an access key."""


class AccessKey(msgspec.Struct, array_like=True, frozen=True):
    access_key: str
    secret: str
    user: str
    created_ns: int
    token: str = ""  # of temporary keys: without it nothing that they sign is taken
    expires_ns: int = 0  # of temporary keys; 0: never

    def __repr__(self) -> str:
        return f"AccessKey({self.access_key!r}, user={self.user!r})"


class NoSuchAccessKey(CacheError):
    def __init__(self, access_key: str) -> None:
        super().__init__(f"no such access key: {access_key}")


class AccessKeyExists(CacheError):
    def __init__(self, access_key: str) -> None:
        super().__init__(f"there is an access key {access_key} already; its secret was shown once")


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

    def create_named(self, user: str) -> AccessKey:
        """A key whose ID is the user's name, with a secret of 64 hexadecimal digits, as Ozone gives
        them. AccessKeyExists."""
        check_name(user)
        key = AccessKey(user, secrets.token_hex(32), user, time.time_ns())

        def change(txn: Txn) -> AccessKey:
            name = key.access_key.encode()
            if txn.record(Table.KEYS, name, AccessKey) is not None:
                raise AccessKeyExists(key.access_key)
            txn.put_record(Table.KEYS, name, key)
            return key

        return self._index.commit(change)

    def create_temporary(self, user: str, duration_s: int) -> AccessKey:
        """A key for a while, with a session token that every request signed with it must bring."""
        now_ns = time.time_ns()
        key = AccessKey(
            access_key="ASIA" + "".join(secrets.choice(_ID_LETTERS) for _ in range(16)),
            secret=secrets.token_urlsafe(30),
            user=user,
            created_ns=now_ns,
            token=secrets.token_urlsafe(96),
            expires_ns=now_ns + duration_s * 10**9,
        )
        self._index.commit(lambda txn: txn.put_record(Table.KEYS, key.access_key.encode(), key))
        return key

    def forget_expired(self, kept_s: float = 86400.0) -> int:
        """Remove temporary keys that expired kept_s seconds ago; their number. Until then who uses
        one is told that it is expired, and not that there never was one."""
        before_ns = time.time_ns() - int(kept_s * 1e9)
        with self._index.read() as txn:
            expired = [
                name
                for name, value in txn.scan(Table.KEYS, b"ASIA", b"ASIA")
                if 0 < unpack(value, AccessKey).expires_ns < before_ns
            ]

        def change(txn: Txn) -> None:
            for name in expired:
                txn.delete(Table.KEYS, name)

        if expired:
            self._index.commit(change, grows=False)
        return len(expired)

    def list(self) -> list[AccessKey]:
        with self._index.read() as txn:
            return [unpack(value, AccessKey) for _, value in txn.scan(Table.KEYS)]

    def get(self, access_key: str) -> AccessKey | None:
        # An LMDB key has 1 to 511 bytes; what a client sends may have any.
        name = access_key.encode("utf-8", "replace")[:NAME_BYTES_MAX]
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


def check_name(name: str) -> None:
    """InvalidName unless it can be a user's or group's name: text that fits into an ARN and a
    header."""
    if not name or len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        raise InvalidName(f"a name has 1 to {NAME_BYTES_MAX} bytes")
    if not name.isprintable() or name != name.strip() or "*" in name or "?" in name:
        raise InvalidName(f"not a name: {name!r} (printable, without * and ?)")
