"""A whole node against a reference of dictionaries: random verbs through its mount and its S3
endpoint, both looked at after each; at the end the store, too.

What tests/test_cache_model.py does to the volume in one process, here with the kernel and its
caches, the gateways and the mover in between. (What the mount does beside a real file system, in
many more steps: tests/test_mounted_native.py.) FOREBAY_MODEL_STEPS sets how many steps a run takes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from cache.errors import CacheError, NameExists
from cache.stores.base import StoredObject
from cache.stores.posix import PosixStore, PosixStoreConfig
from fuse.errors import errno_of
from tests.support.model import Directory, File, Model
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, running_node
from tests.support.s3_raw import RawS3
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.support.volume import some_bytes
from tests.test_cache_model import any_keys, keys, offsets, paths, seeds, sizes, written

pytestmark = requires_fuse

STEPS = int(os.environ.get("FOREBAY_MODEL_STEPS", "450"))
STEPS_PER_CASE = 30


class MountedMachine(RuleBasedStateMachine):
    """See the module docstring. Each case has a bucket of its own."""

    node: ClassVar[RunningNode]
    buckets: ClassVar[Iterator[int]]
    finished: ClassVar[dict[str, Model]]

    def __init__(self) -> None:
        super().__init__()
        assert self.node.mount is not None
        self.name = f"model-{next(self.buckets)}"
        self.directory = self.node.mount / self.name
        self.s3 = RawS3(self.node.endpoint, connections=4)
        self.s3.make_bucket(self.name)
        self.model = Model()
        self.handles: list[tuple[BinaryIO, File]] = []

    def teardown(self) -> None:
        try:
            for handle, file in self.handles:
                handle.close()
                publish(file)
            self.check()
            for key, content in self.model.files.items():
                assert self.s3.get(self.name, key.decode()) == content.data
            self.finished[self.name] = self.model
        finally:
            for handle, _ in self.handles:
                handle.close()
            self.s3.close()

    # ------------------------------------------------------------------ comparing

    def at(self, path: bytes) -> Path:
        return self.directory / os.fsdecode(path)

    def both(
        self, expected: Callable[[], object], actual: Callable[[], object], *, exactly: bool = True
    ) -> None:
        """Do it in the model and through the mount: both succeed, or fail with the same errno.
        exactly=False: the kernel may find another of several faults first."""
        want = got = None
        try:
            expected()
        except CacheError as exc:
            want = errno_of(exc)
        try:
            actual()
        except OSError as exc:
            got = exc.errno
        assert (got == want) if exactly else (got is None) == (want is None), (got, want)
        self.check()

    def check(self) -> None:
        """Both doors show the model's names and sizes."""
        wanted = {key.decode(): size for key, size in self.model.sizes().items()}
        assert self.s3.sizes(self.name) == wanted
        # Empty, `.` and `..` and what is too long are no names in the mount, nor is what is below.
        for path in [b"", *(p[:-1] for p in self.model.directories if is_shown(p[:-1]))]:
            shown = os.listdir(self.at(path))
            assert {os.fsencode(name) for name in shown} == self.model.names(path)
            assert len(shown) == len(set(shown))
            for name in self.model.names(path):
                below = path + b"/" + name if path else name
                found = self.model.find(below)
                status = self.at(below).stat()
                if isinstance(found, File):
                    assert status.st_size == len(found.seen_by_mount), below
                else:
                    assert self.at(below).is_dir(), below

    def check_bytes(self, key: bytes) -> None:
        file = self.model.files[key]
        assert self.s3.get(self.name, key.decode()) == file.data
        if is_shown(key) and self.model.find(key) is file:
            assert self.at(key).read_bytes() == file.seen_by_mount

    def _file(self, path: bytes) -> File | None:
        with contextlib.suppress(CacheError):
            found = self.model.find(path)
            return found if isinstance(found, File) else None
        return None

    # ------------------------------------------------------------------ the S3 door

    @rule(key=any_keys, size=sizes, seed=seeds)
    def s3_put(self, key: bytes, size: int, seed: int) -> None:
        data = some_bytes(size, seed)
        self.model.put(key, File(data))
        self.s3.put(self.name, key.decode(), data)
        self.check()
        if not key.endswith(b"/"):
            self.check_bytes(key)

    @rule(key=any_keys)
    def s3_delete(self, key: bytes) -> None:
        self.model.delete(key)
        self.s3.delete(self.name, key.decode())
        self.check()

    @rule(source=keys, key=keys)
    def s3_copy(self, source: bytes, key: bytes) -> None:
        file = self.model.files.get(source)
        if file is not None and source != key:
            self.model.put(key, File(file.data))
            self.s3.copy(self.name, source.decode(), key.decode())
            self.check()
            self.check_bytes(key)

    @rule(key=keys, size=sizes, seed=seeds)
    def s3_upload(self, key: bytes, size: int, seed: int) -> None:
        data = some_bytes(size, seed)
        self.model.put(key, File(data))
        self.s3.upload(self.name, key.decode(), [data])
        self.check()
        self.check_bytes(key)

    # ------------------------------------------------------------------ the mount

    @rule(path=paths)
    def posix_create(self, path: bytes) -> None:
        self.both(lambda: self.model.create(path, File()), lambda: self.at(path).open("xb").close())

    @rule(path=paths)
    def posix_mkdir(self, path: bytes) -> None:
        self.both(
            lambda: self.model.create(path, Directory(explicit=True)),
            lambda: self.at(path).mkdir(),
        )

    @rule(path=paths, new=paths)
    def posix_link(self, path: bytes, new: bytes) -> None:
        self.both(
            lambda: self.model.link(path, new),
            lambda: os.link(self.at(path), self.at(new)),
            exactly=False,
        )

    @rule(path=paths)
    def posix_unlink(self, path: bytes) -> None:
        self.both(lambda: self.model.unlink(path), lambda: self.at(path).unlink())

    @rule(path=paths)
    def posix_rmdir(self, path: bytes) -> None:
        self.both(lambda: self.model.rmdir(path), lambda: self.at(path).rmdir())

    @rule(old=paths, new=paths, flags=st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def posix_rename(self, old: bytes, new: bytes, flags: int) -> None:
        def expected() -> None:
            exchange, replace = flags == RENAME_EXCHANGE, flags != RENAME_NOREPLACE
            if old == new and not replace:
                self.model.find(old)
                raise NameExists(new)
            self.model.rename(old, new, exchange=exchange, replace=replace)

        self.both(expected, lambda: renameat2(self.at(old), self.at(new), flags), exactly=False)

    @rule(path=paths, start=offsets, length=sizes, seed=seeds)
    def posix_write(self, path: bytes, start: int, length: int, seed: int) -> None:
        file = self._file(path)
        if file is not None:
            data = some_bytes(length, seed)
            with self.at(path).open("r+b") as opened:
                opened.seek(start)
                opened.write(data)
            file.unpublished = written(file.seen_by_mount, data, start)
            publish(file)
            self.check()
            self.check_bytes(path)

    @rule(path=paths, size=sizes, seed=seeds)
    def posix_rewrite(self, path: bytes, size: int, seed: int) -> None:
        file = self._file(path)
        if file is not None and file.unpublished is None:
            data = some_bytes(size, seed)
            self.at(path).write_bytes(data)
            file.data = data
            self.check()
            self.check_bytes(path)

    @rule(path=paths, size=sizes)
    def posix_truncate(self, path: bytes, size: int) -> None:
        file = self._file(path)
        # The kernel keeps what it has not handed over yet: what S3 shows then is in between.
        if file is not None and file.unpublished is None:
            os.truncate(self.at(path), size)
            file.data = file.data[:size].ljust(size, b"\0")
            self.check()
            self.check_bytes(path)

    # ------------------------------------------------------------------ files that stay open

    @precondition(lambda self: len(self.handles) < 3)
    @rule(path=paths)
    def handle_open(self, path: bytes) -> None:
        file = self._file(path)
        if file is not None:
            self.handles.append((self.at(path).open("r+b", buffering=0), file))

    @precondition(lambda self: self.handles)
    @rule(which=seeds, start=offsets, length=sizes, seed=seeds, syncs=st.booleans())
    def handle_write(self, which: int, start: int, length: int, seed: int, syncs: bool) -> None:
        handle, file = self.handles[which % len(self.handles)]
        data = some_bytes(length, seed)
        assert os.pwrite(handle.fileno(), data, start) == length
        file.unpublished = written(file.seen_by_mount, data, start)
        if syncs:
            os.fsync(handle.fileno())
            publish(file)
        self.check()
        assert os.pread(handle.fileno(), 1 << 20, 0) == file.seen_by_mount

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def handle_close(self, which: int) -> None:
        handle, file = self.handles.pop(which % len(self.handles))
        assert os.pread(handle.fileno(), 1 << 20, 0) == file.seen_by_mount
        handle.close()
        publish(file)
        self.check()


def publish(file: File) -> None:
    file.data, file.unpublished = file.seen_by_mount, None


def is_shown(path: bytes) -> bool:
    return all(0 < len(name) <= 255 for name in path.split(b"/"))


def check_store(directory: Path, bucket: str, model: Model) -> None:
    """The store holds the model's keys and bytes, and nothing else."""
    store = PosixStore(PosixStoreConfig(path=directory))
    prefix = bucket.encode() + b"/"
    found: dict[bytes, StoredObject] = {}
    marker = b""
    while True:
        page = store.list(prefix, delimiter=False, marker=marker)
        found |= {e.key: e for e in page.entries if isinstance(e, StoredObject)}
        if page.next_marker is None:
            break
        marker = page.next_marker
    for hidden in (b"", b".forebay/", b".forebay/bucket.json"):
        found.pop(prefix + hidden, None)
    assert set(found) == {prefix + key for key in [*model.files, *model.directories]}
    for key, file in model.files.items():
        head = found[prefix + key]
        assert b"".join(store.read(head.key, 0, head.size_bytes, head.version)) == file.data, key
    store.close()


def run(directory: Path, write_mode: str, steps: int) -> None:
    store = {"type": "posix", "path": str(directory / "store"), "creatable": True}
    with running_node(
        directory,
        auth={"mode": "simple"},
        stores={"main": store | {"write_mode": write_mode}},
        s3={"address": "127.0.0.1", "port": 0, "access_log": "off"},
    ) as node:
        MountedMachine.node = node
        MountedMachine.buckets = count()
        MountedMachine.finished = {}
        run_machine(
            MountedMachine,
            settings=settings(
                max_examples=max(1, steps // STEPS_PER_CASE),
                stateful_step_count=STEPS_PER_CASE,
                deadline=None,
                database=None,
                print_blob=True,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
        node.forebay("flush")
        for bucket, model in MountedMachine.finished.items():
            check_store(node.store_dir, bucket, model)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("write_mode", "share"), [("write_back", 3), ("write_through", 1)])
def test_the_node_is_what_the_model_is(tmp_path: Path, write_mode: str, share: int) -> None:
    run(tmp_path, write_mode, STEPS * share // 4)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("write_mode", ["write_back", "write_through"])
def test_the_node_is_what_the_model_is_for_long(tmp_path: Path, write_mode: str) -> None:
    run(tmp_path, write_mode, 80 * STEPS)
