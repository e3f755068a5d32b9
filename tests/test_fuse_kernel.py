"""The promise of the change bus at the mount: what another process acknowledged, the next look
through the mount sees, though the kernel believes what it knows forever.

The test process is the other door: it opens the same volume, as a gateway does.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.changes import Change
from cache.config import BucketConfig, CacheConfig, VolumeConfig
from cache.publishing import Object
from cache.records import ObjectAttributes
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from fuse.kernel import KernelCache
from tests.support.mount import BUCKET, Mounted, mounted, requires_fuse
from tests.support.waiting import wait_until

ROUNDS = 200


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    home = tmp_path_factory.mktemp("kernel")
    with mounted(home) as mount:
        yield mount


@pytest.fixture(scope="module")
def door(mount: Mounted) -> Iterator[Volume]:
    """The volume, opened as by a gateway."""
    config = VolumeConfig(
        cache=CacheConfig(state_dir=mount.state, capacity_bytes=2 << 30),
        buckets=(BucketConfig(name=BUCKET, store="main"),),
    )
    store = PosixStore(PosixStoreConfig(path=mount.store))
    volume = Volume.open(config, {"main": store})
    yield volume
    volume.close()
    store.close()


def put(door: Volume, key: str, body: bytes) -> Object:
    writer = door.objects.writer(BUCKET, key.encode(), size_bytes=len(body))
    try:
        writer.write(body)
        etag = hashlib.md5(body).hexdigest()
        return writer.commit(etag=etag, attributes=ObjectAttributes())
    except BaseException:
        writer.abort()
        raise


@requires_fuse
def test_every_change_is_seen_by_the_next_look(mount: Mounted, door: Volume) -> None:
    file = mount.bucket / "alternating"
    for number in range(ROUNDS):
        assert not file.exists()  # now the kernel knows that it is missing
        put(door, "alternating", b"%d" % number)
        assert file.stat().st_size == len(str(number))
        assert file.read_bytes() == b"%d" % number
        put(door, "alternating", b"again %d" % number)
        assert file.read_bytes() == b"again %d" % number
        assert os.listdir(mount.bucket).count("alternating") == 1
        door.objects.delete(BUCKET, b"alternating")
        assert "alternating" not in os.listdir(mount.bucket)


@requires_fuse
def test_under_readers_that_never_rest(mount: Mounted, door: Volume) -> None:
    file = mount.bucket / "hammered"
    put(door, "hammered", b"0")
    stop = threading.Event()
    failures: list[Exception] = []

    def hammer() -> None:
        last = 0
        try:
            while not stop.is_set():
                number = int(file.read_bytes())
                assert number >= last
                last = number
                os.listdir(mount.bucket)
        except (AssertionError, OSError, ValueError) as exc:
            failures.append(exc)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, ROUNDS):
            put(door, "hammered", b"%d" % number)
            assert file.read_bytes() == b"%d" % number
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []


@requires_fuse
def test_directories_that_keys_imply_come_and_go(mount: Mounted, door: Volume) -> None:
    for number in range(20):
        assert not (mount.bucket / "implied").exists()
        put(door, "implied/deep/key", b"%d" % number)
        assert (mount.bucket / "implied" / "deep" / "key").read_bytes() == b"%d" % number
        door.objects.delete(BUCKET, b"implied/deep/key")


@requires_fuse
def test_an_open_file_keeps_its_version(mount: Mounted, door: Volume) -> None:
    old = os.urandom(3_000_000)
    put(door, "versioned", old)
    with (mount.bucket / "versioned").open("rb") as opened:
        put(door, "versioned", b"new")
        assert (mount.bucket / "versioned").read_bytes() == b"new"
        assert opened.read() == old
        door.objects.delete(BUCKET, b"versioned")
        opened.seek(0)
        assert opened.read() == old


@requires_fuse
def test_what_is_written_through_the_mount_is_there_for_s3_at_close(
    mount: Mounted, door: Volume
) -> None:
    file = mount.bucket / "from-mount"
    for number in range(20):
        body = os.urandom(100_000 + number)
        file.write_bytes(body)
        found, snapshot = door.objects.open(BUCKET, b"from-mount")
        with snapshot:
            assert found.size == len(body)
            assert found.etag == hashlib.md5(body).hexdigest()
            assert snapshot.read(0, found.size) == body
    file.unlink()
    assert [e.key for e in door.objects.list(BUCKET, prefix=b"from-mount").entries] == []


@requires_fuse
def test_what_a_listing_through_the_mount_finds_changed_in_the_store_is_seen(
    tmp_path: Path,
) -> None:
    """The mount process itself learns of it; its kernel has to, too."""
    (tmp_path / "store").mkdir()
    for name in ("changed", "removed"):
        (tmp_path / "store" / name).write_text("old")
    with mounted(tmp_path, bucket={"revalidate": "always"}) as mount:
        assert (mount.bucket / "changed").read_text() == "old"
        assert (mount.bucket / "removed").read_text() == "old"
        assert not (mount.bucket / "added").exists()
        (mount.store / "changed").write_text("newer")
        (mount.store / "removed").unlink()
        (mount.store / "added").write_text("added")

        def is_new() -> bool:
            os.listdir(mount.bucket)
            return (
                (mount.bucket / "added").exists()
                and not (mount.bucket / "removed").exists()
                and (mount.bucket / "changed").read_text() == "newer"
            )

        wait_until(is_new)


def test_without_a_mount_there_is_nothing_to_forget() -> None:
    kernel = KernelCache()
    kernel.forget([Change(1, b"name", 0), Change(0, b"", 1)])
    assert kernel.unmounting(1.0)


def test_a_forget_under_way_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    began, go = threading.Event(), threading.Event()

    def slow(parent: int, name: bytes) -> None:
        began.set()
        assert go.wait(60)

    monkeypatch.setattr("pyfuse3.invalidate_entry", slow)
    kernel = KernelCache()
    kernel.mounted()
    kernel.forget_soon([Change(1, b"name", 0)])
    assert began.wait(60)
    assert not kernel.unmounting(0.05)
    go.set()
    assert kernel.unmounting(60)
