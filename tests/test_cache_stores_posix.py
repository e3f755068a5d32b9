"""What only a directory as a store can get wrong: order of syncs, symlinks, changes by others."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.errors import (
    StoreChanged,
    StoreFull,
    StoreNotFound,
    StoreOverQuota,
    StoreRefused,
    StoreUnavailable,
)
from cache.records import Kind
from cache.stores import beneath
from cache.stores.base import ABSENT, StoredAttributes
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.stores.posix_listing import Listing
from tests.support.waiting import wait_until

PLAIN = StoredAttributes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def store(root: Path) -> Iterator[PosixStore]:
    opened = PosixStore(PosixStoreConfig(root, deadline_s=5))
    yield opened
    opened.close()


def put(store: PosixStore, key: bytes, body: bytes = b"body", **more: object) -> str:
    attributes = StoredAttributes(**more)  # type: ignore[arg-type]
    return store.put(key, [body], len(body), attributes).version


def content(store: PosixStore, key: bytes) -> bytes:
    return b"".join(store.read(key, 0, store.head(key).size_bytes, None))


def test_objects_are_plain_files(store: PosixStore, root: Path) -> None:
    put(store, b"a/b/c", b"text", mode=0o640, mtime_ns=10**18 + 7)
    path = root / "a" / "b" / "c"
    assert path.read_bytes() == b"text"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.stat().st_mtime_ns == 10**18 + 7


@pytest.mark.parametrize("last", [b"", b"end", bytes(1 << 20)])
def test_mebibytes_of_zeros_are_holes(store: PosixStore, root: Path, last: bytes) -> None:
    zeros = bytes(1 << 20)
    pieces = [zeros, b"begin", zeros, zeros, zeros, zeros, b"middle", zeros, zeros, last]
    body = b"".join(pieces)
    store.put(b"sparse", pieces, len(body), PLAIN)
    assert (root / "sparse").read_bytes() == body
    assert (root / "sparse").stat().st_blocks * 512 <= 3 << 20


def test_files_of_others_are_objects(store: PosixStore, root: Path) -> None:
    (root / "x").mkdir()
    (root / "x" / "y").write_bytes(b"cp")
    (root / "x" / "link").symlink_to("y")
    assert [entry.key for entry in store.list(b"", delimiter=False).entries] == [
        b"x/",
        b"x/link",
        b"x/y",
    ]
    assert content(store, b"x/y") == b"cp"
    found = store.head(b"x/link").attributes
    assert found is not None
    assert (found.kind, found.symlink_target) == (Kind.SYMLINK, b"y")


def test_order_is_bytes_then_rename_then_directory(
    store: PosixStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between any two of these leaves the old object or the new one, whole."""
    put(store, b"a/b", b"old")
    events: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "pwrite", "mkdir")}

    def name_of(descriptor: int) -> str:
        path = os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(root))
        return "file" if path.startswith("/.forebay-tmp/uploads/") else path or "/"

    def fsync(descriptor: int) -> None:
        events.append(f"fsync {name_of(descriptor)}")
        real["fsync"](descriptor)

    def pwrite(descriptor: int, piece: bytes, offset: int) -> int:
        events.append("write")
        return real["pwrite"](descriptor, piece, offset)  # type: ignore[no-any-return]

    def rename(source: bytes, target: bytes, **directories: int) -> None:
        events.append(f"rename to {os.fsdecode(target)}")
        real["rename"](source, target, **directories)

    def mkdir(name: bytes, *more: int, **directories: int) -> None:
        events.append(f"mkdir {os.fsdecode(name)}")
        real["mkdir"](name, *more, **directories)

    for name, replacement in (
        ("fsync", fsync), ("pwrite", pwrite), ("rename", rename), ("mkdir", mkdir),
    ):  # fmt: skip
        monkeypatch.setattr(os, name, replacement)
    put(store, b"a/b", b"new")
    assert events == ["write", "fsync file", "rename to b", "fsync /a"]
    events.clear()
    put(store, b"n/m/b", b"new")
    assert events == [
        "write", "fsync file", "mkdir n", "fsync /", "mkdir m", "fsync /n", "rename to b",
        "fsync /n/m",
    ]  # fmt: skip


def test_failed_fsync_is_an_error_and_leaves_the_old_object(
    store: PosixStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, b"a", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable):
            put(store, b"a", b"new")
    assert content(store, b"a") == b"old"
    assert os.listdir(root / ".forebay-tmp" / "uploads") == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreOverQuota),
        (errno.EACCES, StoreRefused),
        (errno.EROFS, StoreRefused),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.ENOTCONN, StoreUnavailable),
    ],
)
def test_errno_has_its_meaning(
    store: PosixStore, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(number, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(expected):
            put(store, b"a")
    with pytest.raises(StoreNotFound):
        store.head(b"a")


@pytest.mark.parametrize("openat2", [True, False])
def test_symlinks_lead_nowhere(
    store: PosixStore,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    openat2: bool,
) -> None:
    monkeypatch.setattr(beneath, "HAS_OPENAT2", openat2 and beneath.HAS_OPENAT2)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "d").mkdir()
    (root / "d" / "up").symlink_to("../../outside")
    for key in (b"link/secret", b"d/up/secret", b"../outside/secret"):
        with pytest.raises(StoreNotFound):
            store.head(key)
        with pytest.raises(StoreNotFound):
            list(store.read(key, 0, 6, None))
        store.delete(key)
        put(store, key, b"mine")
        assert content(store, key) == b"mine"
    assert content(store, b"file") == os.fsencode(outside / "secret")  # the target, not its bytes
    put(store, b"file", b"replaced")
    assert store.head(b"link").attributes is not None
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_change_by_others_changes_the_version_and_drops_the_etag(
    store: PosixStore, root: Path
) -> None:
    version = put(store, b"a", b"12345", mtime_ns=10**18, s3_etag="abc-3")
    found = store.head(b"a").attributes
    assert found is not None
    assert found.s3_etag == "abc-3"
    with (root / "a").open("r+b") as file:
        file.write(b"54321")
    os.utime(root / "a", ns=(10**18, 10**18))  # whoever did it put the time back
    changed = store.head(b"a")
    assert changed.version != version
    with pytest.raises(StoreChanged):
        list(store.read(b"a", 0, 5, version))
    with pytest.raises(StoreChanged):
        store.put(b"a", [b"x"], 1, PLAIN, expected=version)
    (root / "a").write_bytes(b"longer than before")
    found = store.head(b"a").attributes
    assert found is not None
    assert found.s3_etag is None


def test_change_while_reading_is_noticed(store: PosixStore, root: Path) -> None:
    body = os.urandom(3 << 20)
    version = put(store, b"a", body)
    reader = store.read(b"a", 0, len(body), version)
    assert next(reader) == body[: 1 << 20]
    with (root / "a").open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"other bytes")
    with pytest.raises(StoreChanged):
        list(reader)


def test_root_that_is_gone_is_an_outage_not_an_empty_store(store: PosixStore, root: Path) -> None:
    put(store, b"a", b"kept")
    away = root.with_name("away")
    root.rename(away)
    for attempt in ("missing", "empty"):
        if attempt == "empty":
            root.mkdir()  # the bare mount point
        with pytest.raises(StoreUnavailable):
            store.head(b"a")
        with pytest.raises(StoreUnavailable):
            store.list(b"", delimiter=False)
        with pytest.raises(StoreUnavailable):
            store.delete(b"a")
        with pytest.raises(StoreUnavailable):
            put(store, b"b")
    assert os.listdir(root) == []
    root.rmdir()
    away.rename(root)
    assert content(store, b"a") == b"kept"


def test_same_store_mounted_again_is_taken_up(store: PosixStore, root: Path) -> None:
    put(store, b"a", b"kept")
    copy = root.with_name("copy")
    os.system(f"cp -a {root} {copy}")  # another directory with the same store-id
    root.rename(root.with_name("old"))
    copy.rename(root)
    assert content(store, b"a") == b"kept"


def test_identity_protects_an_unmounted_mount_point(root: Path, tmp_path: Path) -> None:
    first = PosixStore(PosixStoreConfig(root))
    identity = first.identity
    first.close()
    PosixStore(PosixStoreConfig(root, identity=identity)).close()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StoreUnavailable):
        PosixStore(PosixStoreConfig(empty, identity=identity))
    assert os.listdir(empty) == []
    with pytest.raises(StoreUnavailable):
        PosixStore(PosixStoreConfig(tmp_path / "missing"))


def test_conditional_put_is_one_step_among_writers(store: PosixStore, root: Path) -> None:
    others = [PosixStore(PosixStoreConfig(root)) for _ in range(3)]
    won: list[int] = []
    barrier = threading.Barrier(12)

    def write(number: int) -> None:
        barrier.wait()
        try:
            others[number % 3].put(b"key", [b"%d" % number], len(b"%d" % number), PLAIN,
                                   expected=ABSENT)  # fmt: skip
        except StoreChanged:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert len(won) == 1
    assert content(store, b"key") == b"%d" % won[0]


def test_writers_of_a_file_and_of_a_directory_of_one_name(store: PosixStore) -> None:
    failures: list[BaseException] = []

    def repeat(key: bytes) -> None:
        try:
            for _ in range(40):
                put(store, key)
                store.delete(key)
                store.delete(b"n/")
        except BaseException as exc:  # noqa: BLE001  shown by the assertion below
            failures.append(exc)

    threads = [threading.Thread(target=repeat, args=(key,)) for key in (b"n", b"n/m", b"n/o")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list(b"", delimiter=False).entries == []


def test_hung_file_system_is_given_up_at_the_deadline(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PosixStore(PosixStoreConfig(root, deadline_s=0.2, threads_max=2))
    put(store, b"a")
    release = threading.Event()
    real = os.lstat

    def hang(*arguments: object, **more: object) -> os.stat_result:
        release.wait(100)
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "lstat", hang)
    began_s = time.monotonic()
    for _ in range(4):  # more than there are threads
        with pytest.raises(StoreUnavailable):
            store.head(b"a")
    assert time.monotonic() - began_s < 60
    release.set()
    monkeypatch.undo()

    def answers() -> bool:
        try:
            return store.head(b"a").size_bytes == 4
        except StoreUnavailable:
            return False

    wait_until(answers)
    store.close()


def test_leftovers_of_killed_processes_are_swept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PosixStore(PosixStoreConfig(root)).close()
    uploads = root / ".forebay-tmp" / "uploads"
    (uploads / "dead").write_bytes(b"x")
    held = os.open(uploads / "alive", os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    PosixStore(PosixStoreConfig(root)).close()
    assert sorted(os.listdir(uploads)) == ["alive", "dead"]  # too young to judge
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    PosixStore(PosixStoreConfig(root)).close()
    assert os.listdir(uploads) == ["alive"]
    os.close(held)


def test_large_directory_is_listed_page_by_page_without_reading_it_again(
    store: PosixStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "big"
    directory.mkdir()
    names = sorted(f"{number:05d}" for number in range(2500))
    for name in names:
        (directory / name).touch()
    os.utime(directory, (1, 1))  # changed long ago
    scans = 0
    real = os.scandir

    def scandir(path: int) -> object:
        nonlocal scans
        scans += 1
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found: list[bytes] = []
    marker: bytes | None = b""
    while marker is not None:
        page = store.list(b"big/", delimiter=True, marker=marker, limit=100)
        found += [entry.key for entry in page.entries]
        marker = page.next_marker
    assert found == [b"big/", *(b"big/" + name.encode() for name in names)]
    assert scans == 1
    (directory / "aaa").touch()
    page = store.list(b"big/", delimiter=True, marker=b"big/9")
    assert [entry.key for entry in page.entries] == [b"big/aaa"]


def test_a_page_begins_where_the_last_one_ended(
    store: PosixStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not walk over all the entries before: a million of them would be walked over in each
    of a thousand pages."""
    directory = root / "big" / "within"
    directory.mkdir(parents=True)
    for number in range(500):
        (directory / f"{number:05d}").touch()
    walked = 0
    grouped = Listing._grouped

    def counted(
        listing: Listing, directories: list[tuple[bytes, ...]], base: bytes, first: bytes
    ) -> Iterator[tuple[bytes, list[tuple[bytes, ...]]]]:
        nonlocal walked
        for found in grouped(listing, directories, base, first):
            walked += 1
            yield found

    monkeypatch.setattr(Listing, "_grouped", counted)
    for prefix, delimiter in ((b"big/within/", True), (b"big/within/004", True), (b"", False)):
        walked = 0
        marker = b"big/within/00480"
        page = store.list(prefix, delimiter=delimiter, marker=marker, limit=5)
        assert [e.key[-5:] for e in page.entries] == [b"%05d" % n for n in range(481, 486)]
        assert walked < 12


def test_deep_keys_do_not_exhaust_stack_or_descriptors(store: PosixStore) -> None:
    key = b"/" * 500 + b"leaf"
    put(store, key, b"deep")
    assert content(store, key) == b"deep"
    assert store.list(b"", delimiter=False).entries[-1].key == key
    store.delete(key)


def test_attributes_too_large_for_xattrs_are_refused(store: PosixStore, root: Path) -> None:
    size_bytes = 2 << 20  # beyond what any Linux file system takes in one xattr
    with pytest.raises(StoreRefused):
        put(store, b"a", metadata={"k": "v" * size_bytes})
    with pytest.raises(StoreNotFound):
        store.head(b"a")


def test_what_clients_attached_comes_first_where_xattrs_have_little_room(
    store: PosixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on ext4, which has 4 KiB for the xattrs of a file; here it is less."""
    setxattr = os.setxattr

    def within_limits(file: int, name: str, value: bytes) -> None:
        others = [os.getxattr(file, other) for other in os.listxattr(file) if other != name]
        if sum(map(len, others)) + len(value) > 3280:
            raise OSError(errno.ENOSPC, "no space")
        setxattr(file, name, value)

    monkeypatch.setattr(os, "setxattr", within_limits)
    told = {"s3_etag": "e" * 32, "checksums": "FULL_OBJECT::SHA256:" + "c" * 44}
    put(store, b"a", metadata={"k": "v" * 3150}, **told)
    found = store.head(b"a").attributes
    assert found is not None
    assert (found.metadata, found.checksums) == ({"k": "v" * 3150}, None)
    assert found.s3_etag == told["s3_etag"]
    tags = {"t": "x" * 3250}
    store.set_attributes(b"a", StoredAttributes(tags=tags, **told))  # type: ignore[arg-type]
    found = store.head(b"a").attributes
    assert found is not None
    assert (found.tags, found.s3_etag, found.metadata) == (tags, None, {})
    with pytest.raises(StoreRefused):
        store.set_attributes(b"a", StoredAttributes(tags={"t": "x" * 3400}))


def test_closed_store_keeps_no_descriptors_or_threads(root: Path) -> None:
    store = PosixStore(PosixStoreConfig(root))
    put(store, b"a")
    reader = store.read(b"a", 0, 4, None)
    assert next(reader) == b"body"
    reader.close()  # type: ignore[attr-defined]
    upload = store.begin_upload(b"b", None)
    upload.write(b"x" * (2 << 20))
    upload.abort()
    store.close()
    wait_until(
        lambda: not any(t.name.startswith(f"store {root}") for t in threading.enumerate()),
        deadline_s=10,
    )
    assert [link for link in _open_files() if str(root) in link] == []
    with pytest.raises(StoreUnavailable):
        store.head(b"a")


def _open_files() -> list[str]:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return links
