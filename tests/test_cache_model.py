"""The volume against a reference of dictionaries: random verbs of both doors, evictions, restarts,
persists in any order with answers lost, changes behind our back.

FOREBAY_MODEL_STEPS sets how many steps a run of each machine takes in all, and makes it another
run each time; `long` runs do without. A failure prints the steps that lead to it, shortened.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from cache import dirty
from cache.errors import CacheError, PreconditionFailed, StoreUnavailable
from cache.open_file import OpenFile
from cache.persist import place_of
from cache.publishing import Object
from cache.records import Kind, ObjectAttributes, WriteMode
from cache.stores.base import StoredAttributes
from cache.uploading import LOST_AND_FOUND
from tests.support.fault_store import no_fault
from tests.support.model import Directory, File, Model, parent_of
from tests.support.volume import BUCKET, TestVolume, some_bytes

STEPS = int(os.environ.get("FOREBAY_MODEL_STEPS", "1500"))
STEPS_PER_CASE = 30
# Shrinking takes minutes; a run that looks for any bug at all may do without.
PHASES = (Phase.generate, *([] if "FOREBAY_MODEL_RAW" in os.environ else [Phase.shrink]))

# Few names, so that verbs meet; `a-b` sorts between `a` and `a/`.
posix_names = st.sampled_from([b"a", b"b", b"a-b"])
LONG = b"n" * 256
s3_names = st.sampled_from([b"a", b"b", b"a-b", b"a", b"b", b"", LONG])
paths = st.lists(posix_names, min_size=1, max_size=3).map(b"/".join)
keys = (
    st.lists(s3_names, min_size=1, max_size=3)
    .map(b"/".join)
    .filter(lambda key: not key.endswith(b"/") and key != b"")
)
any_keys = st.one_of(keys, keys, keys, paths, paths.map(lambda path: path + b"/"))
# Around what is inline, one block, one extent.
sizes = st.sampled_from([0, 1, 100, 4095, 4096, 4097, 9000, 258_048, 258_049, 300_000])
offsets = st.sampled_from([0, 1, 100, 4090, 4096, 5000, 260_000])
seeds = st.integers(0, 1000)
delimiters = st.sampled_from([b"", b"/", b"-", b"/a", b"b"])
prefixes = st.sampled_from([b"", b"a", b"a/", b"a-", b"b/a", b"n", b"zz"])


class VolumeMachine(RuleBasedStateMachine):
    """See the module docstring. Subclasses choose the write mode."""

    write_mode: ClassVar[WriteMode] = WriteMode.WRITE_BACK
    revalidate: ClassVar[str] = "never"

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="forebay-model-"))
        self.box = self._make_box()
        self.model = Model()
        self.handles: list[tuple[OpenFile, File]] = []

    def _make_box(self) -> TestVolume:
        return TestVolume(self.base, write_mode=self.write_mode, revalidate=self.revalidate)

    @initialize(answers_get_lost=st.booleans())
    def begin(self, answers_get_lost: bool) -> None:
        self.answers_get_lost = answers_get_lost
        assert self.box.listed() == []

    # ------------------------------------------------------------------ comparing

    def both(self, expected: Callable[[], object], actual: Callable[[], object]) -> object:
        """Do it in the model and in the volume: same error class, or the volume's result."""
        want = got = result = None
        try:
            expected()
        except CacheError as exc:
            want = exc
        try:
            result = actual()
        except CacheError as exc:
            got = exc
        assert type(got) is type(want), f"volume: {got!r}, model: {want!r}"
        return result

    def check_names(self) -> None:
        listed = self.box.volume.objects.list(BUCKET, limit=100_000).entries
        found = {e.key: e.size for e in listed if isinstance(e, Object)}
        assert found == self.model.sizes()
        assert list(found) == sorted(found)

    def check_fsck(self) -> None:
        assert self.box.fsck().problems == []

    def teardown(self) -> None:
        try:
            if self.box is not None:
                self.finish()
        finally:
            self.box.close()
            shutil.rmtree(self.base)

    def finish(self) -> None:
        self.release_all()
        self.check_names()
        self.box.reap()
        assert self.box.fsck(read_data=True).problems == []
        self.box.drain()
        self.check_store()
        self.box.reap()
        self.box.evict()
        self.check_everything()
        self.box.reap()
        report = self.box.fsck(read_data=True)
        assert report.problems == []

    def check_store(self) -> None:
        """The store is what the model is, byte for byte."""
        if self.answers_get_lost:
            self._drop_lost_and_found()
        stored = self.box.stored()
        wanted = set(self.model.files) | set(self.model.directories)
        assert set(stored) == wanted
        for key, file in self.model.files.items():
            head = self.box.store.store.head(key)
            assert head.attributes is not None
            assert head.attributes.kind == file.kind
            if file.kind == Kind.SYMLINK:
                assert head.attributes.symlink_target == file.data
            else:
                assert self.box.stored_bytes(key) == file.data, key
                assert head.attributes.mode == file.mode, key
        for key, directory in self.model.directories.items():
            assert self.box.store.store.head(key).size_bytes == len(directory.data), key
            if directory.data:
                assert self.box.stored_bytes(key) == directory.data, key

    def _drop_lost_and_found(self) -> None:
        """What we uploaded without learning of it and then changed looks like a change by others:
        it is kept aside, needlessly, and nothing is lost."""
        aside = [key for key in self.box.stored() if key.startswith(LOST_AND_FOUND)]
        for key in reversed(aside):
            self.box.store.store.delete(key)

    def check_everything(self) -> None:
        for key in self.model.s3_keys():
            assert self.box.get(key) == self.model.get(key), key
        for path in [b"", *(p[:-1] for p in self.model.directories)]:
            self.compare_names(path)

    def compare_names(self, path: bytes) -> None:
        shown = self.both(lambda: self.model.names(path), lambda: self.box.names(path))
        if shown is not None:
            assert isinstance(shown, list)
            assert len(set(shown)) == len(shown)
            assert set(shown) == self.model.names(path)

    # ------------------------------------------------------------------ the S3 door

    @rule(key=any_keys, size=sizes, seed=seeds)
    def s3_put(self, key: bytes, size: int, seed: int) -> None:
        data = some_bytes(size, seed)
        self.model.put(key, File(data))
        found = self.box.put(key, data)
        assert found.etag == hashlib.md5(data).hexdigest()
        self.check_names()

    @rule(key=any_keys, size=sizes)
    def s3_put_if_absent(self, key: bytes, size: int) -> None:
        data = some_bytes(size)

        def absent(found: Object | None) -> None:
            if found is not None:
                raise PreconditionFailed("If-None-Match")

        def expected() -> None:
            if key in self.model.s3_keys():
                raise PreconditionFailed("If-None-Match")
            self.model.put(key, File(data))

        self.both(expected, lambda: self.box.put(key, data, check=absent))
        self.check_names()

    @rule(key=any_keys)
    def s3_get(self, key: bytes) -> None:
        found = self.both(lambda: self.model.get(key), lambda: self.box.get(key))
        assert found is None or found == self.model.get(key)

    @rule(key=keys, start=offsets, length=offsets)
    def s3_get_range(self, key: bytes, start: int, length: int) -> None:
        file = self.model.files.get(key)
        if file is not None:
            stop = min(len(file.data), start + length)
            start = min(start, stop)
            assert self.box.get(key, start, stop) == file.data[start:stop]

    @rule(key=any_keys)
    def s3_delete(self, key: bytes) -> None:
        self.model.delete(key)
        self.box.delete(key)
        self.check_names()

    @rule(source=keys, key=keys)
    def s3_copy(self, source: bytes, key: bytes) -> None:
        file = self.model.files.get(source)
        if file is None or file.kind != Kind.FILE:
            return
        self.model.put(key, File(file.data))
        objects = self.box.volume.objects
        objects.copy(objects.get(BUCKET, source), BUCKET, key, attributes=ObjectAttributes())
        self.check_names()
        assert self.box.get(key) == file.data

    @rule(
        key=keys,
        parts=st.lists(sizes, min_size=1, max_size=3),
        seed=seeds,
        aborts=st.booleans(),
        copied=st.none() | keys,
    )
    def s3_multipart(
        self, key: bytes, parts: list[int], seed: int, aborts: bool, copied: bytes | None
    ) -> None:
        uploads = self.box.volume.uploads
        upload = uploads.create(BUCKET, key, owner="me", attributes=ObjectAttributes())
        made = []
        body = b""
        for number, size in enumerate(parts, 1):
            data = some_bytes(size, (seed, number))
            writer = uploads.part_writer(upload, number, size_bytes=size)
            writer.write(data)
            made.append(writer.commit(etag=hashlib.md5(data).hexdigest(), checksums={}))
            body += data
        source = self.model.files.get(copied) if copied is not None else None
        if source is not None and copied is not None and source.kind == Kind.FILE:
            found = self.box.volume.objects.get(BUCKET, copied)
            middle = len(source.data) // 3
            made.append(
                uploads.copy_part(upload, len(parts) + 1, found, middle, len(source.data), etag="e")
            )
            body += source.data[middle:]
        if aborts:
            uploads.abort(upload)
        else:
            uploads.complete(upload, made, etag="e-1", attributes=ObjectAttributes())
            self.model.put(key, File(body))
            assert self.box.get(key) == body
        assert uploads.list(BUCKET) == []
        self.check_names()

    @rule(
        prefix=prefixes,
        delimiter=delimiters,
        after=st.one_of(st.just(b""), any_keys),
        limit=st.integers(1, 5),
    )
    def s3_list(self, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> None:
        found: list[bytes] = []
        wanted = self.model.listing(prefix, delimiter, after)
        while True:
            page = self.box.volume.objects.list(
                BUCKET, prefix=prefix, delimiter=delimiter, after=after, limit=limit
            )
            assert len(page.entries) <= limit
            found += [entry.key for entry in page.entries]
            if not page.truncated:
                break
            assert page.last == found[-1]
            after = page.last
        assert found == wanted

    # ------------------------------------------------------------------ the POSIX door

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def posix_create(self, path: bytes, mode: int) -> None:
        self.both(
            lambda: self.model.create(path, File(mode=mode)),
            lambda: self.box.create(path, mode=mode),
        )
        self.check_names()

    @rule(path=paths)
    def posix_mkdir(self, path: bytes) -> None:
        self.both(
            lambda: self.model.create(path, Directory(explicit=True)),
            lambda: self.box.mkdir(path),
        )
        self.check_names()

    @rule(path=paths, leads_to=paths)
    def posix_symlink(self, path: bytes, leads_to: bytes) -> None:
        self.both(
            lambda: self.model.create(path, File(leads_to, Kind.SYMLINK, 0o777)),
            lambda: self.box.create(path, Kind.SYMLINK, target=leads_to, mode=0o777),
        )
        self.check_names()

    @rule(path=paths, new=paths)
    def posix_link(self, path: bytes, new: bytes) -> None:
        self.both(lambda: self.model.link(path, new), lambda: self.box.link(path, new))
        self.check_names()

    @rule(path=paths)
    def posix_unlink(self, path: bytes) -> None:
        self.both(lambda: self.model.unlink(path), lambda: self.box.unlink(path))
        self.check_names()

    @rule(path=paths)
    def posix_rmdir(self, path: bytes) -> None:
        self.both(lambda: self.model.rmdir(path), lambda: self.box.rmdir(path))
        self.check_names()

    @rule(old=paths, new=paths, exchange=st.booleans(), replace=st.booleans())
    def posix_rename(self, old: bytes, new: bytes, exchange: bool, replace: bool) -> None:
        self.both(
            lambda: self.model.rename(old, new, exchange=exchange, replace=replace),
            lambda: self.box.rename(old, new, exchange=exchange, replace=replace),
        )
        self.check_names()

    @rule(path=paths, mode=st.sampled_from([0o600, 0o640]))
    def posix_chmod(self, path: bytes, mode: int) -> None:
        def expected() -> None:
            found = self.model.find(path)
            found.mode = mode
            if isinstance(found, Directory):
                found.explicit = True

        self.both(expected, lambda: self.box.chmod(path, mode))
        self.check_names()

    @rule(path=paths)
    def posix_readdir(self, path: bytes) -> None:
        self.compare_names(path)

    def _file(self, path: bytes) -> File | None:
        try:
            found = self.model.find(path)
        except CacheError:
            return None
        return found if isinstance(found, File) and found.kind == Kind.FILE else None

    @rule(path=paths, start=offsets, length=sizes, seed=seeds)
    def posix_write(self, path: bytes, start: int, length: int, seed: int) -> None:
        file = self._file(path)
        if file is not None:
            data = some_bytes(length, seed)
            self.box.write(path, data, start)
            file.data = written(file.seen_by_mount, data, start)
            file.unpublished = None
            self.check_names()

    @rule(path=paths, size=sizes)
    def posix_truncate(self, path: bytes, size: int) -> None:
        file = self._file(path)
        if file is not None:
            self.box.volume.open_files.truncate(self.box.inode(path).id, size)
            file.data = file.seen_by_mount[:size].ljust(size, b"\0")
            file.unpublished = None
            self.check_names()

    @rule(path=paths, start=offsets, length=offsets)
    def posix_read(self, path: bytes, start: int, length: int) -> None:
        file = self._file(path)
        if file is not None:
            wanted = file.seen_by_mount[start : start + length]
            assert self.box.read(path, start, length) == wanted

    @precondition(lambda self: len(self.handles) < 3)
    @rule(path=paths)
    def handle_open(self, path: bytes) -> None:
        file = self._file(path)
        if file is not None:
            opened = self.box.volume.open_files.open(self.box.inode(path).id, write=True)
            self.handles.append((opened, file))

    @precondition(lambda self: self.handles)
    @rule(which=seeds, start=offsets, length=sizes, seed=seeds, flushes=st.booleans())
    def handle_write(self, which: int, start: int, length: int, seed: int, flushes: bool) -> None:
        opened, file = self.handles[which % len(self.handles)]
        data = some_bytes(length, seed)
        opened.write(start, data)
        file.unpublished = written(file.seen_by_mount, data, start)
        if flushes:
            opened.flush()
            file.data, file.unpublished = file.unpublished, None
        self.check_names()

    @precondition(lambda self: self.handles)
    @rule(which=seeds, start=offsets, length=offsets)
    def handle_read(self, which: int, start: int, length: int) -> None:
        opened, file = self.handles[which % len(self.handles)]
        wanted = file.seen_by_mount[start : start + length]
        assert opened.read(start, length) == wanted
        assert opened.cached(start, memoryview(bytearray(length))) in (None, wanted)

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def handle_close(self, which: int) -> None:
        opened, file = self.handles.pop(which % len(self.handles))
        opened.release()
        if file.unpublished is not None and all(other is not file for _, other in self.handles):
            file.data, file.unpublished = file.unpublished, None
        self.check_names()

    def release_all(self) -> None:
        while self.handles:
            self.handle_close(0)

    # ------------------------------------------------------------------ the node

    @rule()
    def drain(self) -> None:
        self.box.drain()
        self.check_store()

    @rule(which=seeds, lost=st.booleans())
    def persist_one(self, which: int, lost: bool) -> None:
        """Any entry of the queue, in any order. lost: the store does it and we never learn."""
        with self.box.volume.index.read() as txn:
            entries = dirty.entries(txn)
        if not entries:
            return

        def lose_answer(operation: str, key: bytes) -> None:
            if operation in ("put", "rename", "delete", "copy", "set_attributes"):
                raise StoreUnavailable("killed before the answer was noted")

        lost = lost and self.answers_get_lost
        self.box.store.after = lose_answer if lost else no_fault
        try:
            self.box.volume.persister.persist(place_of(entries[which % len(entries)]))
        except StoreUnavailable:
            assert lost
        finally:
            self.box.store.after = no_fault
        self.check_names()

    @rule()
    def evict(self) -> None:
        self.box.evict()
        self.check_names()

    @rule()
    def reclaim(self) -> None:
        self.box.volume.contents.fold_heat()
        self.box.volume.segments.close()
        self.box.volume.reclaimer.seal_abandoned()
        self.box.volume.reclaimer.run_once()

    @rule()
    def reap(self) -> None:
        self.box.reap()
        self.check_fsck()

    @rule()
    def restart(self) -> None:
        self.release_all()
        self.box.restart()
        self.check_names()
        self.check_fsck()

    @rule()
    def lose_the_cache(self) -> None:
        """Only the store is left; there every directory is one."""
        self.release_all()
        self.box.drain()
        self.check_store()
        self.box.forget_all()
        for directory in self.model.directories.values():
            directory.explicit = True
        # Hard links are separate files from now on.
        self.model.files = {
            key: File(file.data, file.kind, file.mode) for key, file in self.model.files.items()
        }
        self.check_names()


class WriteBackMachine(VolumeMachine):
    pass


class WriteThroughMachine(VolumeMachine):
    write_mode = WriteMode.WRITE_THROUGH


class RevalidatingMachine(VolumeMachine):
    """Every look asks the store again, where others make changes too: what we have not persisted
    must not be undone by it, and what they did must appear, whole.

    No hard links: in the store those are objects of their own, which others change one by one.
    """

    revalidate = "always"

    def check_names(self) -> None:
        self.box.age()
        super().check_names()

    @rule()
    def posix_link(self) -> None:
        """Not here."""

    @rule(key=keys, size=sizes, seed=seeds)
    def others_put(self, key: bytes, size: int, seed: int) -> None:
        self.box.drain()
        self.check_store()
        data = some_bytes(size, seed)
        made = {parent for parent in parents_of(key) if parent not in self.model.directories}
        self.box.store.store.put(key, [data] if data else [], size, StoredAttributes())
        self.model.put(key, File(data))
        for parent in made:
            self.model.directories[parent].explicit = True
        self.check_names()
        assert self.box.get(key) == data

    @rule(which=seeds)
    def others_delete(self, which: int) -> None:
        self.box.drain()
        self.check_store()
        if self.model.files:
            key = sorted(self.model.files)[which % len(self.model.files)]
            self.box.store.store.delete(key)
            self.model.delete(key)
            self.check_names()
            self.check_names()


def parents_of(key: bytes) -> list[bytes]:
    found = []
    while key := parent_of(key):
        found.append(key)
    return found


def written(old: bytes, data: bytes, start: int) -> bytes:
    """The bytes after a pwrite(2); one of no bytes changes nothing, also behind the end."""
    if not data:
        return old
    return old[:start].ljust(start, b"\0") + data + old[start + len(data) :]


def run(machine: type[VolumeMachine], steps: int, *, derandomize: bool) -> None:
    run_machine(
        machine,
        settings=settings(
            max_examples=max(1, steps // STEPS_PER_CASE),
            stateful_step_count=STEPS_PER_CASE,
            deadline=None,
            derandomize=derandomize,
            database=None,
            report_multiple_bugs=False,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )


MACHINES = [WriteBackMachine, WriteThroughMachine, RevalidatingMachine]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_volume_does_what_the_model_does(machine: type[VolumeMachine]) -> None:
    run(machine, STEPS, derandomize="FOREBAY_MODEL_STEPS" not in os.environ)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_volume_does_what_the_model_does_for_long(machine: type[VolumeMachine]) -> None:
    run(machine, int(os.environ.get("FOREBAY_MODEL_STEPS", "60000")), derandomize=False)
