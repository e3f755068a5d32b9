"""What an attack on the S3 door is: a request that must be refused, and its harmless twin.

The tables of attacks (`attacks_*.py`) are made of these; `tests/test_s3_attacks.py` runs them all
against one running node. The codes are Amazon's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache import names, namespace
from cache.index import Table, Txn
from cache.records import InodeId
from tests.support.s3 import Answer, Door

BUCKET = "attacked"
OTHER_USER = "mallory"  # has a key, and was granted nothing
OTHER_BUCKET = "mallorys"  # their own, with an object `own`
KEPT = f"/{BUCKET}/kept"  # an object that must stay as it is
SCRATCH = f"/{BUCKET}/scratch"  # where the harmless twins write
KEPT_BODY = b"this must not change"

Shot = Callable[[Door], Answer]

_UNPROVEN = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


@dataclass(frozen=True)
class Attack:
    """A named attack. `codes`: the answers that are right, (status, code), the code "" for a HEAD.

    accepts: whether an answer to the twin is the one of a request that was let in; by default, one
    that succeeded.
    """

    name: str
    shoot: Shot
    codes: tuple[tuple[int, str], ...]
    twin: Shot
    accepts: Callable[[Answer], bool] = lambda answer: 200 <= answer.status < 300


def let_in(answer: Answer) -> bool:
    """The request came as far as its operation, whatever that said of the empty body."""
    return answer.status != 403 and answer.code not in _UNPROVEN


def sent(
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    sign: bool = True,
) -> Shot:
    """A request by the owner of everything; unsigned if sign is False."""
    return lambda door: door.request(method, target, headers, body, sign=sign)


def sent_by_another(
    method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> Shot:
    """A request that is proven, by a user who may do nothing here."""

    def shoot(door: Door) -> Answer:
        key = next(key for key in door.volume.keys.list() if key.user == OTHER_USER)
        return replace(door, key=key).request(method, target, headers, body)

    return shoot


# ------------------------------------------------------------------------------- what is touched


def fingerprint(door: Door) -> dict[str, Any]:
    """All that clients could have changed: buckets, names, objects, uploads, parts, keys, users in
    the index, and every file of the store. A few hundred microseconds for a few objects."""
    with door.volume.index.read() as txn:
        rows: dict[str, Any] = {
            table.value: list(txn.scan(table)) for table in Table if table.value in _DOCUMENTS
        }
        rows["names"] = [
            entry
            for bucket in door.volume.buckets.list()
            for entry in _names_below(txn, bucket.root, f"{bucket.name}/".encode())
        ]
    rows["store"] = sorted(_files_below(door.store))
    return rows


_DOCUMENTS = {"buckets", "uploads", "parts", "keys", "users", "groups", "versions"}


def _names_below(txn: Txn, directory: int, path: bytes) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for name, dentry in names.scan(txn, directory):
        inode = namespace.get(txn, InodeId(dentry.inode))
        attributes = namespace.object_attributes(txn, inode)
        found.append((path + name, inode.id, inode.size, inode.etag, inode.mtime_ns, attributes))
        if inode.is_dir:
            found += _names_below(txn, inode.id, path + name)
    return found


def _files_below(store: Path) -> list[tuple[str, int, int]]:
    return [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for path in store.rglob("*")
        if ".forebay-tmp" not in path.parts and path.is_file()
    ]
