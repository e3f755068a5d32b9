"""The master keys of this node, under which the data keys of encrypted objects are wrapped.

They are a file of their own, `keyring.json` in state_dir, mode 0600: the index may be lost and
learned again from the store, these keys may not. A key has an id and versions; the newest version
wraps, all of them unwrap, none is ever removed. The key of SSE-S3 is made at its first use, those
of SSE-KMS by the operator (`forebay kms`).

Every look compares the file's identity with what was read before, so that a change by another
process counts at once. Blocking (a stat; rarely a read or a synced write), thread-safe.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from cache import disk
from cache.errors import FormatMismatch, InvalidName, NameExists, NoSuchMasterKey
from cache.frames import KEY_BYTES

NODE_KEY = "sse-s3"
"""Id of the key of SSE-S3."""
DEFAULT_KMS_KEY = "aws/s3"
"""The key of SSE-KMS where a request names none; Amazon's name for it. Made by the operator."""
_FORMAT = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.:-]{0,127}")

T = TypeVar("T")


class KeyVersion(msgspec.Struct, frozen=True):
    created_ns: int
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyVersion(created_ns={self.created_ns})"


Versions = list[KeyVersion]


class _File(msgspec.Struct):
    format: int = _FORMAT
    keys: dict[str, Versions] = {}  # by id; each from the oldest on


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One version of a key."""

    id: str
    version: int  # from 1
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySummary:
    """What may be shown of a key."""

    id: str
    versions: int
    created_ns: int
    rotated_ns: int


Summaries = list[KeySummary]


class Keyring:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Versions] = {}

    def newest(self, key_id: str) -> MasterKey:
        """The version to wrap under. NoSuchMasterKey."""
        versions = self._read().get(key_id)
        if not versions:
            raise NoSuchMasterKey(key_id)
        return MasterKey(key_id, len(versions), versions[-1].secret)

    def get(self, key_id: str, version: int) -> MasterKey:
        """The version that something is wrapped under. NoSuchMasterKey."""
        versions = self._read().get(key_id, [])
        if not 1 <= version <= len(versions):
            raise NoSuchMasterKey(key_id)
        return MasterKey(key_id, version, versions[version - 1].secret)

    def newest_of_node(self) -> MasterKey:
        """The version that SSE-S3 wraps under; made, and synced, if there is none yet."""
        if NODE_KEY not in self._read():
            self._change(lambda keys: keys.setdefault(NODE_KEY, [_new_version()]))
        return self.newest(NODE_KEY)

    def create(self, key_id: str) -> None:
        """Make a key for SSE-KMS. NameExists, InvalidName."""
        if not _ID.fullmatch(key_id) or key_id == NODE_KEY:
            raise InvalidName(f"not a key id: {key_id!r}")

        def change(keys: dict[str, Versions]) -> None:
            if key_id in keys:
                raise NameExists(f"the key {key_id} exists already")
            keys[key_id] = [_new_version()]

        self._change(change)

    def rotate(self, key_id: str) -> int:
        """Make a new version, which wraps from now on; its number. NoSuchMasterKey."""

        def change(keys: dict[str, Versions]) -> int:
            if key_id not in keys:
                raise NoSuchMasterKey(key_id)
            keys[key_id].append(_new_version())
            return len(keys[key_id])

        return self._change(change)

    def list(self) -> Summaries:
        return [
            KeySummary(key_id, len(versions), versions[0].created_ns, versions[-1].created_ns)
            for key_id, versions in sorted(self._read().items())
        ]

    # ------------------------------------------------------------------ the file

    def _read(self) -> dict[str, Versions]:
        with self._lock:
            try:
                status = self._path.stat()
            except FileNotFoundError:
                self._seen, self._keys = None, {}
                return self._keys
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity != self._seen:
                self._keys = self._load()
                self._seen = identity
            return self._keys

    def _load(self) -> dict[str, Versions]:
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except msgspec.DecodeError as exc:
            raise FormatMismatch(f"{self._path}: {exc}") from exc
        if file.format != _FORMAT:
            raise FormatMismatch(f"{self._path}: format {file.format}, want {_FORMAT}")
        return file.keys

    def _change(self, change: Callable[[dict[str, Versions]], T]) -> T:
        """Replace the file by one that `change` was applied to; one process at a time."""
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self._load() if self._path.exists() else {}
            result = change(keys)
            self._replace(msgspec.json.encode(_File(keys=keys)))
        return result

    def _replace(self, content: bytes) -> None:
        """Durable before anything is wrapped under a key that is in it."""
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            disk.write_at(descriptor, content, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self._path)
        disk.sync_directory(self._path.parent)


def _new_version() -> KeyVersion:
    return KeyVersion(time.time_ns(), os.urandom(KEY_BYTES))
