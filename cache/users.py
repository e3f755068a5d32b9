"""Users of the S3 door and their groups, in the index.

A user is a name; everything else about it is optional, and a name that only an access key, a
bucket's owner or `auth.mode = "simple"` knows counts as a user without a record (`Users.known`).
Policies are kept as the JSON text that was given: what it means is the S3 layer's.

Blocking (a commit to change), thread-safe; what reads one record is inline.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from cache.errors import NoSuchGroup, NoSuchUser, UserExists
from cache.index import Index, Table, Txn
from cache.keys import NAME_BYTES_MAX, AccessKey, check_name
from cache.records import Bucket, unpack


class User(msgspec.Struct, array_like=True, frozen=True):
    name: str
    display_name: str = ""  # as S3 shows it; empty: the name
    email: str = ""
    canonical_id: str = ""  # empty: canonical_id_of(name)
    admin: bool = False
    created_ns: int = 0
    groups: list[str] = []
    policies: dict[str, bytes] = {}  # name -> IAM JSON


class Group(msgspec.Struct, array_like=True, frozen=True):
    name: str
    created_ns: int
    policies: dict[str, bytes] = {}


@lru_cache(4096)
def canonical_id_of(name: str) -> str:
    """The canonical ID of a user who was given none: 64 hexadecimal digits, as S3 shows them."""
    return hashlib.sha256(b"forebay:" + name.encode("utf-8", "surrogateescape")).hexdigest()


def canonical_id(user: User) -> str:
    return user.canonical_id or canonical_id_of(user.name)


def display_name(user: User) -> str:
    return user.display_name or user.name


class Users:
    def __init__(self, index: Index) -> None:
        self._index = index

    # ------------------------------------------------------------------------------- users

    def create(self, user: User) -> User:
        """Enter a user. UserExists. A name that so far only keys or buckets knew gets its record
        by this."""
        check_name(user.name)
        user = msgspec.structs.replace(user, created_ns=user.created_ns or time.time_ns())

        def change(txn: Txn) -> User:
            if _find(txn, user.name) is not None:
                raise UserExists(f"user {user.name} exists")
            _check_unique(txn, user)
            for group in user.groups:
                _group(txn, group)
            txn.put_record(Table.USERS, user.name.encode(), user)
            return user

        return self._index.commit(change)

    def get(self, name: str) -> User:
        """NoSuchUser, unless the name has a record."""
        with self._index.read() as txn:
            return _user(txn, name)

    def known(self, name: str) -> User:
        """The user's record, or what stands for one without."""
        with self._index.read() as txn:
            return _find(txn, name) or User(name)

    def with_groups(self, name: str) -> tuple[User, list[Group]]:
        """As known, with the groups it is in; from one snapshot. Inline."""
        with self._index.read() as txn:
            user = _find(txn, name)
            if user is None:
                return User(name), []
            return user, [_group(txn, group) for group in user.groups]

    def list(self) -> Sequence[User]:
        with self._index.read() as txn:
            return [unpack(value, User) for _, value in txn.scan(Table.USERS)]

    def by_canonical_id(self, wanted: str) -> User | None:
        """The user, with a record or known by a key or as the owner of a bucket, who has this ID.
        Looks at all of them."""
        with self._index.read() as txn:
            for user in _all(txn):
                if canonical_id(user) == wanted:
                    return user
        return None

    def by_email(self, email: str) -> User | None:
        """Looks at all users. Addresses are compared without regard to case."""
        with self._index.read() as txn:
            for _, value in txn.scan(Table.USERS):
                user = unpack(value, User)
                if user.email and user.email.lower() == email.lower():
                    return user
        return None

    def change(self, name: str, change_of: Callable[[User], User]) -> User:
        """Replace a user's record, inside the commit. NoSuchUser, UserExists, NoSuchGroup."""

        def change(txn: Txn) -> User:
            user = change_of(_user(txn, name))
            assert user.name == name
            _check_unique(txn, user)
            for group in user.groups:
                _group(txn, group)
            txn.put_record(Table.USERS, name.encode(), user)
            return user

        return self._index.commit(change)

    def delete(self, name: str) -> int:
        """Remove a user and its access keys; the number of those. What it owns stays its name's.
        NoSuchUser."""

        def change(txn: Txn) -> int:
            _user(txn, name)
            txn.delete(Table.USERS, name.encode())
            keys = [
                key for key, value in txn.scan(Table.KEYS) if unpack(value, AccessKey).user == name
            ]
            for key in keys:
                txn.delete(Table.KEYS, key)
            return len(keys)

        return self._index.commit(change, grows=False)

    # ------------------------------------------------------------------------------ groups

    def create_group(self, name: str) -> Group:
        """UserExists if there is a group of this name."""
        check_name(name)
        group = Group(name, time.time_ns())

        def change(txn: Txn) -> Group:
            if txn.record(Table.GROUPS, name.encode(), Group) is not None:
                raise UserExists(f"group {name} exists")
            txn.put_record(Table.GROUPS, name.encode(), group)
            return group

        return self._index.commit(change)

    def group(self, name: str) -> Group:
        """NoSuchGroup."""
        with self._index.read() as txn:
            return _group(txn, name)

    def groups(self) -> Sequence[Group]:
        with self._index.read() as txn:
            return [unpack(value, Group) for _, value in txn.scan(Table.GROUPS)]

    def members(self, group: str) -> Sequence[User]:
        return [user for user in self.list() if group in user.groups]

    def change_group(self, name: str, change_of: Callable[[Group], Group]) -> Group:
        """Replace a group's record, inside the commit. NoSuchGroup."""

        def change(txn: Txn) -> Group:
            group = change_of(_group(txn, name))
            txn.put_record(Table.GROUPS, name.encode(), group)
            return group

        return self._index.commit(change)

    def delete_group(self, name: str) -> None:
        """Remove a group and its members' membership. NoSuchGroup."""

        def change(txn: Txn) -> None:
            _group(txn, name)
            txn.delete(Table.GROUPS, name.encode())
            members = [
                user
                for user in (unpack(value, User) for _, value in txn.scan(Table.USERS))
                if name in user.groups
            ]
            for user in members:
                left = [group for group in user.groups if group != name]
                without = msgspec.structs.replace(user, groups=left)
                txn.put_record(Table.USERS, user.name.encode(), without)

        self._index.commit(change, grows=False)


def _find(txn: Txn, name: str) -> User | None:
    # An LMDB key has 1 to 511 bytes; what a client calls itself may have any.
    key = name.encode("utf-8", "replace")
    return txn.record(Table.USERS, key, User) if 0 < len(key) <= NAME_BYTES_MAX else None


def _user(txn: Txn, name: str) -> User:
    found = _find(txn, name)
    if found is None:
        raise NoSuchUser(name)
    return found


def _group(txn: Txn, name: str) -> Group:
    found = txn.record(Table.GROUPS, name.encode(), Group)
    if found is None:
        raise NoSuchGroup(name)
    return found


def _all(txn: Txn) -> list[User]:
    users = {user.name: user for user in (unpack(v, User) for _, v in txn.scan(Table.USERS))}
    for _, value in txn.scan(Table.KEYS):
        name = unpack(value, AccessKey).user
        users.setdefault(name, User(name))
    for _, value in txn.scan(Table.BUCKETS):
        name = unpack(value, Bucket).owner
        if name:
            users.setdefault(name, User(name))
    return list(users.values())


def _check_unique(txn: Txn, user: User) -> None:
    for _, value in txn.scan(Table.USERS):
        other = unpack(value, User)
        if other.name == user.name:
            continue
        if user.email and other.email.lower() == user.email.lower():
            raise UserExists(f"user {other.name} has the address {user.email}")
        if canonical_id(other) == canonical_id(user):
            raise UserExists(f"user {other.name} has the canonical ID {canonical_id(user)}")
