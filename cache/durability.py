"""Commits that are seen at once, and durable when somebody asks for that.

LMDB can commit without waiting for the disk (MDB_NOSYNC), which is a hundred times as fast, and a
power cut may then leave ruins: pages reach the disk in any order, and the root of the tree, a meta
page, before what it names. Two things make it safe here.

- A *durable point*: a copy of the meta page of a commit all of whose pages were synced, kept in a
  file of its own (docs/on-disk-format.md). After the page cache was lost, by a power cut or with
  the file system, the index goes back to it; after processes were killed it need not.
- LMDB writes no page of a snapshot that somebody reads. Each process that commits holds a read
  transaction, its *pin*, which is no newer than the durable point. So that point's pages stay.

`DurablePoint.reach` makes everything that was committed so far, by whatever process, durable: one
sync of the pages, one of the point. It holds up no commit, and serves all that wait at the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import lmdb
import msgspec
import xxhash

from cache import disk
from cache.errors import CacheError, FormatMismatch, OutOfSpace, WouldWait

log = logging.getLogger(__name__)

_DATA = "data.mdb"
_POINT = "durable"
_OPENED = "opened"

_HEAD_BYTES = 16
"""Of a page, before the meta record in it."""
_META = struct.Struct("<II QQ 96x QQ")
"""Magic, version, address and size of the map; two trees; the last page, the number of the commit:
struct MDB_meta of LMDB 0.9 on a machine of 64 bits, whose byte order is little-endian."""
_META_MAGIC = 0xBEEFC0DE
_META_VERSION = 1
_NUMBER = struct.Struct("<Q")
_SLOT_BYTES = 4096
_CHECKSUM_BYTES = 8

_MARK_AT = 2 * _SLOT_BYTES
"""Where the number of the slot is noted that is known to be on the disk. Never synced: it counts in
the page cache in which it was written."""
_SYNC_FAILED = "a sync failed"
"""In the place of a page cache's name: none has it, so whoever opens the index next goes back."""

_ENTER_S = 0.005
_TEND_S = 0.1
"""What nobody waits for is durable after so long; the time of a sync comes on top."""
_BEHIND_MAX = 64
"""Or after as many commits: pages that they replace are not used again before."""


class _Point(msgspec.Struct, array_like=True, frozen=True):
    sequence: int
    cache_of: str
    """The page cache that unsynced bytes are in (page_cache_of)."""
    meta: bytes
    """Empty: nothing was ever committed."""


def _number_of(meta: bytes) -> int:
    """The number of a meta record's commit. FormatMismatch if it is none."""
    if not meta:
        return 0
    magic, version, _, _, _, number = _META.unpack(meta)
    if (magic, version) != (_META_MAGIC, _META_VERSION):
        raise FormatMismatch("the index was written by another version of LMDB")
    return int(number)


def page_cache_of(path: Path) -> str | None:
    """A name for the page cache that a file's bytes are in until they are synced: another one after
    each boot, and after each mount of the file system. None where the kernel does not tell.

    A mounted ext4 or xfs has a directory in sysfs, whose inode is made with it and used once.
    """
    device = path.stat().st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    for kind in ("ext4", "xfs"):
        with contextlib.suppress(OSError):
            instance = Path("/sys/fs", kind, name).stat().st_ino
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {kind} {name} {instance}"
    return None


# ------------------------------------------------------------------ opening


class Opened:
    """An index that this process is about to open, or has open."""

    def __init__(self, directory: Path, *, sync: bool) -> None:
        """Before LMDB opens it: if nobody has it open, go back to the durable point, where what
        was not synced may be lost. Blocks while another process does the same.

        sync: False for an index that need not survive a power cut.
        """
        self.point: DurablePoint | NoPoint = NoPoint()
        self._directory = directory
        self._descriptor = os.open(
            directory / _OPENED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            self._enter(keep=sync)
            # The same for all that have it open, whatever they themselves want, or can see.
            if (directory / _POINT).exists():
                self.point = DurablePoint(directory)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _enter(self, *, keep: bool) -> None:
        """Have the lock that all share, after the first of them, whoever that is, came to an end
        with _start: he may be killed, or fail, in it."""
        while True:
            if self._locks(fcntl.LOCK_EX):
                _start(self._directory, keep=keep)
            # Not one step from the other lock to this one: somebody may be first in between, and
            # does the same again, which does no harm.
            if self._locks(fcntl.LOCK_SH):
                return
            time.sleep(_ENTER_S)

    def _locks(self, lock: int) -> bool:
        try:
            fcntl.flock(self._descriptor, lock | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self, *, whole: bool) -> None:
        """After LMDB has closed it. whole: all that was committed is durable, so that the last one
        to close it leaves an index that needs no point to go back to."""
        try:
            if whole and self.point.is_kept and self._locks(fcntl.LOCK_EX):
                (self._directory / _POINT).unlink(missing_ok=True)
                disk.sync_directory(self._directory)
        finally:
            os.close(self._descriptor)


def _start(directory: Path, *, keep: bool) -> None:
    """Nobody has the index open. keep: a durable point is wanted from now on."""
    path, data = directory / _POINT, directory / _DATA
    cache_of = page_cache_of(directory)
    point = _read_file(path)
    if point is not None and point.cache_of != cache_of:
        _go_back(data, point)
    if cache_of is None or not keep:
        path.unlink(missing_ok=True)
    else:
        _make_anew(path, point, cache_of)
    disk.sync_directory(directory)


def _make_anew(path: Path, point: _Point | None, cache_of: str) -> None:
    """Who had the index open last need not have known of a durable point."""
    path.touch(mode=0o600)
    with path.open("r+b", buffering=0) as file:
        try:
            meta = _newest_meta(path.with_name(_DATA))
        except OSError:
            if point is not None:
                _write_failure(file.fileno(), point)
            raise
        sequence = 0 if point is None else point.sequence
        for number in (sequence + 1, sequence + 2):  # both slots: the file has its size
            _write(file.fileno(), _Point(number, cache_of, meta))


def _go_back(data: Path, point: _Point) -> None:
    """Have the index as it was at the durable point. Repeating it does no harm."""
    if not data.exists():
        return
    number = _number_of(point.meta)
    with data.open("r+b", buffering=0) as file:
        if not point.meta:
            file.truncate(0)
        else:
            log.warning("what was not synced is lost: the index goes back to commit %d", number)
            # LMDB takes the newer of its two; the other must not be one from later.
            older = point.meta[: -_NUMBER.size] + _NUMBER.pack(max(0, number - 1))
            for meta, slot in ((older, (number + 1) % 2), (point.meta, number % 2)):
                disk.write_at(file.fileno(), meta, _meta_at(slot))
        disk.sync_data(file.fileno())


def _meta_at(slot: int) -> int:
    return slot * os.sysconf("SC_PAGE_SIZE") + _HEAD_BYTES


def _newest_meta(data: Path) -> bytes:
    """Of an index that nobody has open, after what it names was synced; empty if there is none."""
    if not data.exists() or data.stat().st_size < _meta_at(2):
        return b""  # its maker was killed before anything was in it
    with data.open("rb", buffering=0) as file:
        disk.sync_data(file.fileno())
        metas = [os.pread(file.fileno(), _META.size, _meta_at(slot)) for slot in (0, 1)]
    return max(metas, key=_number_of)


# ------------------------------------------------------------------ the point's file


def _read(descriptor: int) -> _Point | None:
    """The newer of two slots; a power cut can spoil the one that is being written."""
    found = []
    for slot in (0, 1):
        raw = os.pread(descriptor, _SLOT_BYTES, slot * _SLOT_BYTES)
        length = int.from_bytes(raw[_CHECKSUM_BYTES : _CHECKSUM_BYTES + 2], "big")
        body = raw[_CHECKSUM_BYTES : _CHECKSUM_BYTES + 2 + length]
        if length and xxhash.xxh3_64_digest(body) == raw[:_CHECKSUM_BYTES]:
            found.append(msgspec.msgpack.decode(body[2:], type=_Point))
    return max(found, key=lambda point: point.sequence, default=None)


def _write(descriptor: int, point: _Point) -> None:
    encoded = msgspec.msgpack.encode(point)
    body = len(encoded).to_bytes(2, "big") + encoded
    slot = (xxhash.xxh3_64_digest(body) + body).ljust(_SLOT_BYTES, b"\0")
    disk.write_at(descriptor, slot, point.sequence % 2 * _SLOT_BYTES)
    disk.sync_data(descriptor)
    _mark(descriptor, point)


def _believe(descriptor: int, point: _Point) -> None:
    """Whoever wrote it may have been killed before it was on the disk."""
    if os.pread(descriptor, _NUMBER.size, _MARK_AT) != _NUMBER.pack(point.sequence):
        disk.sync_data(descriptor)
        _mark(descriptor, point)


def _mark(descriptor: int, point: _Point) -> None:
    """Note that the point is on the disk."""
    disk.write_at(descriptor, _NUMBER.pack(point.sequence), _MARK_AT)


def _write_failure(descriptor: int, point: _Point) -> None:
    """After a sync that failed nobody may believe what the page cache says was written: have the
    next one to open the index go back. If this fails, too, the disk is gone."""
    failed = msgspec.structs.replace(point, sequence=point.sequence + 1, cache_of=_SYNC_FAILED)
    with contextlib.suppress(OSError):
        _write(descriptor, failed)


def _read_file(path: Path) -> _Point | None:
    try:
        with path.open("rb", buffering=0) as file:
            return _read(file.fileno())
    except FileNotFoundError:
        return None


# ------------------------------------------------------------------ reaching it


class NoPoint:
    """In the place of a DurablePoint where LMDB has to sync each commit, as the kernel does not
    tell whether what was not synced is lost; or where nobody has to."""

    is_kept = False

    def begin(self, env: lmdb.Environment) -> None:
        pass

    def keep(self) -> None:
        pass

    def committing(self, *, wait: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def owe(self) -> None:
        pass

    def reach(self) -> None:
        pass

    def close(self) -> bool:
        return True


class DurablePoint:
    """Of one index, in one process. Thread-safe."""

    is_kept = True

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / _POINT, os.O_RDWR | os.O_CLOEXEC)
        self._data = -1
        self._directory = directory
        self._env: lmdb.Environment
        self._reaching = threading.Lock()  # while one syncs, others wait: it may do for them
        self._reached = 0
        self._pinning = threading.Lock()
        self._pin: lmdb.Transaction | None = None
        self._pinned: int | None = None  # the number of the commit that the pin sees
        self._committing = 0
        self._committed_at = 0.0
        self._behind = 0  # commits that nobody waits for, about
        self._failed: CacheError | None = None
        self._wake = threading.Event()
        self._closing = False
        self._keeper = threading.Thread(target=self._keep, name="durability", daemon=True)

    def begin(self, env: lmdb.Environment) -> None:
        """LMDB has opened the index, and nothing was committed by this process yet."""
        self._env = env
        self._data = os.open(self._directory / _DATA, os.O_RDONLY | os.O_CLOEXEC)

    def keep(self) -> None:
        """All tables are open: begin to look after what nobody waits for. py-lmdb opens a table
        under the interpreter's lock, which another thread of ours may be in need of."""
        self._keeper.start()

    @contextlib.contextmanager
    def committing(self, *, wait: bool) -> Iterator[None]:
        """For the length of a write transaction: there is a pin. To have one may take two
        syncs; wait: False for WouldWait instead. OutOfSpace if a sync failed."""
        self._check()
        with self._pinning:
            pinned = self._pin is not None
            if not (pinned or wait):
                raise WouldWait("there is no pin yet")
            self._committing += 1
        try:
            if not pinned:
                with self._reaching:
                    if self._pin is None:
                        self._reach(None)
            yield
        finally:
            with self._pinning:
                self._committing -= 1
                self._committed_at = time.monotonic()

    def owe(self) -> None:
        """Something was committed that nobody waits for: it is durable in a moment."""
        self._behind += 1
        if self._behind >= _BEHIND_MAX:
            self._wake.set()

    def reach(self) -> None:
        """Return once everything that was committed before, by any process, is durable. Blocks.
        OutOfSpace when the disk failed, now or before: nobody knows any more what it has."""
        self._check()
        with self._env.begin() as txn:
            wanted = int(txn.id())
        if wanted > self._reached:
            with self._reaching:
                if wanted > self._reached:
                    self._reach(wanted)

    def close(self) -> bool:
        """Before the environment is closed. Whether what was committed is durable now."""
        self._closing = True
        self._wake.set()
        if self._keeper.is_alive():
            self._keeper.join()
        try:
            self.reach()
        except (CacheError, OSError) as exc:
            log.error("%s", exc)
            return False
        finally:
            if self._pin is not None:
                self._pin.abort()
            os.close(self._file)
            os.close(self._data)
        return True

    def _check(self) -> None:
        if self._failed is not None:
            raise OutOfSpace(str(self._failed))

    def _reach(self, wanted: int | None) -> None:
        """Under _reaching. wanted: what another process may have reached; None: have a pin."""
        self._check()
        with _locked(self._file):
            point = _read(self._file)
            assert point is not None, "the durable point was removed under a running node"
            if point.cache_of == _SYNC_FAILED:
                self._fail("another process of the node could not sync it")
            number = _number_of(point.meta)
            try:
                _believe(self._file, point)
                if wanted is not None and number >= wanted and not self._is_old(number):
                    self._reached = number
                    return
                self._behind = 0
                pin, meta = self._snapshot()
                try:
                    if _number_of(meta) != number:  # else it is, and only the pin was wanted
                        disk.sync_data(self._data)
                        _write(self._file, _Point(point.sequence + 1, point.cache_of, meta))
                except OSError:
                    pin.abort()
                    raise
            except OSError as exc:
                _write_failure(self._file, point)
                self._fail(str(exc))
        with self._pinning:
            before, self._pin = self._pin, pin
            self._pinned = self._reached = _number_of(meta)
        if before is None:
            self._wake.set()
        else:
            before.abort()

    def _is_old(self, number: int) -> bool:
        """Whether our pin keeps what was replaced long before a commit."""
        pinned = self._pinned
        return pinned is not None and number > pinned + _BEHIND_MAX

    def _fail(self, why: str) -> NoReturn:
        """After a failed sync the page cache proves nothing: never retry and believe."""
        self._failed = OutOfSpace(f"the index could not be synced: {why}")
        raise self._failed

    def _snapshot(self) -> tuple[lmdb.Transaction, bytes]:
        """A pin of the last commit, and its meta record."""
        # Who may write keeps all others from it, and so from that record.
        writer = self._env.begin(write=True)
        try:
            pin = self._env.begin()
            number = int(pin.id())
            meta = os.pread(self._data, _META.size, _meta_at(number % 2))
        finally:
            writer.abort()
        if _number_of(meta) != number:
            pin.abort()
            raise FormatMismatch("the index is written by another version of LMDB")
        return pin, meta

    def _let_go(self) -> None:
        """Of the pin, if nobody commits, nor did just now."""
        with self._pinning:
            if self._committing or time.monotonic() - self._committed_at <= 2 * _TEND_S:
                return
            pin, self._pin, self._pinned = self._pin, None, None
        if pin is not None:
            pin.abort()

    def _keep(self) -> None:
        """In a thread: what nobody waits for becomes durable, and a pin that nobody needs, which
        keeps pages of the index from being used again, goes."""
        while not self._closing:
            self._wake.wait(_TEND_S if self._pin is not None else None)
            self._wake.clear()
            if self._pin is None:
                continue
            try:
                self.reach()
            except (CacheError, OSError, lmdb.Error) as exc:
                log.error("%s", exc)
                if self._failed is not None:
                    return
                continue
            self._let_go()


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Among processes; a killed one holds it no longer."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
