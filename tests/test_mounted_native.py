"""The mounted tree against a real directory: random system calls on the mount and on ext4 come to
the same, call by call, and so do the trees they leave.

S3 clients take part: a PUT counts as a rename over the name, a DELETE as an unlink, and what GET
and LIST answer is compared with the ext4. Others read the same tree meanwhile, and write so much
beside it that the cache evicts. FOREBAY_MODEL_STEPS sets how many steps a run takes.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from tests.support.conformance import company
from tests.support.loop_disk import loop_disk, requires_loop
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, running_node
from tests.support.s3_raw import RawS3
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.support.trees import differences
from tests.support.volume import some_bytes
from tests.test_cache_model import PHASES

pytestmark = [requires_fuse, requires_loop]

STEPS = int(os.environ.get("FOREBAY_MODEL_STEPS", "20000"))
STEPS_PER_CASE = 100
BUCKET = "native"
_HANDLES_MAX = 3

# Few names, so that calls meet; `a-b` sorts between `a` and `a/`.
names = st.sampled_from(["a", "b", "a-b", "a/b", "a/a", "b/a", "a/b/a", "l", "l/a"])
offsets = st.sampled_from([0, 1, 100, 4095, 4096, 5000, 65_536, 260_000, 1 << 20])
lengths = st.sampled_from([0, 1, 100, 4096, 4097, 9000, 70_000])
sizes = st.one_of(offsets, lengths)
seeds = st.integers(0, 1000)
modes = st.sampled_from([0o644, 0o600, 0o777, 0o4755, 0o2755, 0o1777, 0o2644, 0])
owners = st.sampled_from([-1, 0, 1000, 65_534])
open_flags = st.sampled_from(
    [
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC,
        os.O_RDWR | os.O_APPEND | os.O_CREAT,
        os.O_RDWR | os.O_NOFOLLOW,
        os.O_RDONLY,
        os.O_WRONLY | os.O_TRUNC,
        os.O_RDONLY | os.O_DIRECTORY,
    ]
)


@dataclass
class Handle:
    """The same file, open on the mount and on the ext4."""

    mounted: int
    native: int
    flags: int

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class NativeMachine(RuleBasedStateMachine):
    """See the module docstring. Each case has a directory of its own."""

    node: ClassVar[RunningNode]
    disk: ClassVar[Path]
    s3: ClassVar[RawS3]
    cases: ClassVar[Iterator[int]]

    def __init__(self) -> None:
        super().__init__()
        assert self.node.mount is not None
        # A symbolic link at the top may lead to `../a`: that is the case's own, too.
        self.name = f"case-{next(self.cases)}/tree"
        self.roots = (self.node.mount / BUCKET / self.name, self.disk / self.name)
        for root in self.roots:
            root.mkdir(parents=True)
        self.handles: list[Handle] = []

    def teardown(self) -> None:
        try:
            self._settle()
            for handle in self.handles:
                self._compare_handle(handle)
            assert differences(*self.roots, times=False) == []
            assert self._listed() == self._expected_listing()
        finally:
            for handle in self.handles:
                os.close(handle.mounted)
                os.close(handle.native)

    # ------------------------------------------------------------------ comparing

    def both(self, call: Callable[[Path], object], *paths: str) -> tuple[object, object]:
        """Call it with either root: both return, or both fail with the same errno. Then what is
        at the paths is compared. What the two returned."""
        outcomes = []
        for root in self.roots:
            try:
                outcomes.append((None, call(root)))
            except OSError as exc:
                outcomes.append((exc.errno, None))
        (ours, mounted), (theirs, native) = outcomes
        assert ours == theirs, f"{_name_of(ours)}, on ext4 {_name_of(theirs)}"
        for path in paths:
            self._compare(path)
        return mounted, native

    def _compare(self, path: str) -> None:
        ours, theirs = (_status(root / path) for root in self.roots)
        assert ours == theirs, f"{path}: {ours}, on ext4 {theirs}"

    def _compare_handle(self, handle: Handle) -> None:
        ours, theirs = (_described(os.fstat(fd)) for fd in (handle.mounted, handle.native))
        assert ours == theirs
        if not stat.S_ISDIR(ours[0]) and handle.flags & os.O_ACCMODE != os.O_WRONLY:
            assert os.pread(handle.mounted, 1 << 22, 0) == os.pread(handle.native, 1 << 22, 0)

    def _settle(self) -> None:
        """What is written to open files becomes visible to S3 with fsync."""
        for handle in self.handles:
            if handle.writable:
                os.fsync(handle.mounted)

    def _listed(self) -> dict[str, int]:
        prefix = f"{self.name}/"
        listed = self.s3.sizes(BUCKET, prefix)
        return {key.removeprefix(prefix): size for key, size in listed.items() if key != prefix}

    def _expected_listing(self) -> dict[str, int]:
        found = {}
        for above, directories, files in os.walk(self.roots[1]):
            for name in (*directories, *files):
                path = Path(above) / name
                status = path.lstat()
                key = str(path.relative_to(self.roots[1]))
                if stat.S_ISDIR(status.st_mode):
                    found[key + "/"] = 0
                elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    found[key] = status.st_size
        return found

    def _is_plain(self, path: str) -> bool:
        """A PUT or DELETE here is what rename(2) over it or unlink(2) are: real directories lead
        there, and no directory is there."""
        *above, _ = Path(path).parents
        if any(not stat.S_ISDIR(_mode(self.roots[1] / p)) for p in above):
            return False
        return not stat.S_ISDIR(_mode(self.roots[1] / path))

    # ------------------------------------------------------------------ names

    @rule(path=names, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.both(lambda root: os.mkdir(root / path, mode), path)

    @rule(path=names)
    def rmdir(self, path: str) -> None:
        self.both(lambda root: os.rmdir(root / path), path)

    @rule(path=names)
    def unlink(self, path: str) -> None:
        self.both(lambda root: os.unlink(root / path), path)

    @rule(old=names, new=names, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.both(lambda root: renameat2(root / old, root / new, flags), old, new)

    @rule(old=names, new=names)
    def link(self, old: str, new: str) -> None:
        self.both(lambda root: os.link(root / old, root / new, follow_symlinks=False), old, new)

    @rule(path=names, leads_to=st.sampled_from(["a", "b", "a/b", "../a", "nowhere", "l"]))
    def symlink(self, path: str, leads_to: str) -> None:
        self.both(lambda root: os.symlink(leads_to, root / path), path)

    @rule(path=st.sampled_from(["l", "b/a"]), kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]))
    def mknod(self, path: str, kind: int) -> None:
        self.both(lambda root: os.mknod(root / path, kind | 0o600), path)

    @rule(path=names)
    def list_directory(self, path: str) -> None:
        ours, theirs = self.both(lambda root: sorted(os.listdir(root / path)))
        assert ours == theirs

    # ------------------------------------------------------------------ attributes

    @rule(path=names, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.both(lambda root: os.chmod(root / path, mode), path)

    @rule(path=names, uid=owners, gid=owners)
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.both(lambda root: os.lchown(root / path, uid, gid), path)

    @rule(path=names, atime=seeds, mtime=seeds)
    def utimens(self, path: str, atime: int, mtime: int) -> None:
        times = (atime * 1_000_000_007, mtime * 1_000_000_007)
        self.both(lambda root: os.utime(root / path, ns=times, follow_symlinks=False), path)
        ours, theirs = self.both(lambda root: (root / path).lstat().st_mtime_ns)
        assert ours == theirs

    @rule(path=names, size=sizes)
    def truncate(self, path: str, size: int) -> None:
        if stat.S_ISREG(_mode(self.roots[1] / path, follow=True)):
            self.both(lambda root: os.truncate(root / path, size), path)

    # ------------------------------------------------------------------ files that stay open

    @precondition(lambda self: len(self.handles) < _HANDLES_MAX)
    @rule(path=names, flags=open_flags, mode=modes)
    def open(self, path: str, flags: int, mode: int) -> None:
        kind = _mode(self.roots[1] / path, follow=True)
        if stat.S_ISFIFO(kind):
            flags |= os.O_NONBLOCK
        ours, theirs = self.both(lambda root: os.open(root / path, flags, mode), path)
        if ours is not None:
            assert isinstance(ours, int)
            assert isinstance(theirs, int)
            if stat.S_ISFIFO(os.fstat(theirs).st_mode):
                os.close(ours)
                os.close(theirs)
            else:
                self.handles.append(Handle(ours, theirs, flags))

    def _with(self, which: int, call: Callable[[int], object]) -> None:
        """The same call on both descriptors of a handle."""
        handle = self.handles[which % len(self.handles)]
        outcomes = []
        for descriptor in (handle.mounted, handle.native):
            try:
                outcomes.append((None, call(descriptor)))
            except OSError as exc:
                outcomes.append((exc.errno, None))
        assert outcomes[0] == outcomes[1]
        self._compare_handle(handle)

    @precondition(lambda self: self.handles)
    @rule(which=seeds, start=offsets, length=lengths, seed=seeds)
    def pwrite(self, which: int, start: int, length: int, seed: int) -> None:
        data = some_bytes(length, seed)
        self._with(which, lambda fd: os.pwrite(fd, data, start))

    @precondition(lambda self: self.handles)
    @rule(which=seeds, length=lengths, seed=seeds)
    def write(self, which: int, length: int, seed: int) -> None:
        data = some_bytes(length, seed)
        self._with(which, lambda fd: os.write(fd, data))

    @precondition(lambda self: self.handles)
    @rule(which=seeds, start=offsets, whence=st.sampled_from([os.SEEK_SET, os.SEEK_END]))
    def seek_and_read(self, which: int, start: int, whence: int) -> None:
        def call(descriptor: int) -> tuple[int, bytes]:
            return os.lseek(descriptor, start, whence), os.read(descriptor, 5000)

        if not stat.S_ISDIR(os.fstat(self.handles[which % len(self.handles)].native).st_mode):
            self._with(which, call)

    @precondition(lambda self: self.handles)
    @rule(which=seeds, size=sizes)
    def ftruncate(self, which: int, size: int) -> None:
        self._with(which, lambda fd: os.ftruncate(fd, size))

    @precondition(lambda self: self.handles)
    @rule(which=seeds, seed=seeds, shared=st.booleans())
    def map_and_write(self, which: int, seed: int, shared: bool) -> None:
        handle = self.handles[which % len(self.handles)]
        status = os.fstat(handle.native)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return
        if handle.flags & os.O_ACCMODE != os.O_RDWR:
            return
        start = seed * 7919 % status.st_size
        data = some_bytes(min(5000, status.st_size - start), seed)

        def call(descriptor: int) -> bytes:
            access = mmap.ACCESS_WRITE if shared else mmap.ACCESS_COPY
            with mmap.mmap(descriptor, 0, access=access) as mapped:
                mapped[start : start + len(data)] = data
                return mapped[max(0, start - 100) : start + 6000]

        self._with(which, call)

    @precondition(lambda self: self.handles)
    @rule(which=seeds, mode=modes)
    def fchmod(self, which: int, mode: int) -> None:
        self._with(which, lambda fd: os.fchmod(fd, mode))

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def fsync(self, which: int) -> None:
        self._with(which, os.fsync)

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def drop_pages(self, which: int) -> None:
        """So that what is read next comes from us."""
        handle = self.handles[which % len(self.handles)]
        if stat.S_ISREG(os.fstat(handle.native).st_mode):
            os.fsync(handle.mounted)
            os.posix_fadvise(handle.mounted, 0, 0, os.POSIX_FADV_DONTNEED)
            self._compare_handle(handle)

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def close(self, which: int) -> None:
        handle = self.handles.pop(which % len(self.handles))
        self._compare_handle(handle)
        os.close(handle.mounted)
        os.close(handle.native)

    # ------------------------------------------------------------------ the S3 door

    @rule(path=names, length=lengths, seed=seeds)
    def put(self, path: str, length: int, seed: int) -> None:
        if not self._is_plain(path):
            return
        data = some_bytes(length, seed)
        self.s3.put(BUCKET, f"{self.name}/{path}", data)
        temporary = self.disk / "temporary"
        temporary.write_bytes(data)
        temporary.chmod(0o644)
        temporary.rename(self.roots[1] / path)
        self._compare(path)

    @rule(path=names)
    def delete(self, path: str) -> None:
        if self._is_plain(path):
            self.s3.delete(BUCKET, f"{self.name}/{path}")
            with contextlib.suppress(FileNotFoundError):
                (self.roots[1] / path).unlink()
            self._compare(path)

    @rule(path=names)
    def get(self, path: str) -> None:
        if self._is_plain(path) and stat.S_ISREG(_mode(self.roots[1] / path)):
            self._settle()
            answer = self.s3.get(BUCKET, f"{self.name}/{path}")
            assert answer == (self.roots[1] / path).read_bytes()


def _mode(path: Path, *, follow: bool = False) -> int:
    """The kind; 0 of what is not there."""
    try:
        return path.stat().st_mode if follow else path.lstat().st_mode
    except OSError:
        return 0


def _status(path: Path) -> object:
    try:
        return _described(path.lstat())
    except OSError as exc:
        return _name_of(exc.errno)


def _described(status: os.stat_result) -> tuple[int, ...]:
    """What two file systems have in common: not the size of a directory, nor its link count where
    they count otherwise."""
    is_directory = stat.S_ISDIR(status.st_mode)
    size = 0 if is_directory else status.st_size
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, size


def _name_of(code: int | None) -> str:
    return "success" if code is None else errno.errorcode[code]


def run(directory: Path, steps: int) -> None:
    store = {"type": "posix", "path": str(directory / "store"), "creatable": True}
    with (
        loop_disk(directory / "image", directory / "ext4", 1 << 30) as disk,
        running_node(
            directory,
            auth={"mode": "simple"},
            stores={"main": store | {"write_mode": "write_back"}},
            cache={"capacity_bytes": "64MiB", "segment_bytes": "4MiB"},
            node={"gateways": 1},
        ) as node,
        RawS3(node.endpoint) as s3,
    ):
        s3.make_bucket(BUCKET)
        NativeMachine.node, NativeMachine.disk, NativeMachine.s3 = node, disk.directory, s3
        NativeMachine.cases = count()
        with company.keep(node.endpoint, BUCKET) as beside:
            run_machine(
                NativeMachine,
                settings=settings(
                    max_examples=max(1, steps // STEPS_PER_CASE),
                    stateful_step_count=STEPS_PER_CASE,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    phases=PHASES,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        assert beside.failures == []
        node.forebay("flush")
        assert node.mount is not None
        assert differences(node.mount / BUCKET, node.store_dir / BUCKET) == []
        assert "no problems" in node.forebay("fsck").stdout


@pytest.mark.timeout(600)
def test_the_mount_does_what_ext4_does(tmp_path: Path) -> None:
    run(tmp_path, STEPS)


@pytest.mark.long
@pytest.mark.timeout(24 * 3600)
def test_the_mount_does_what_ext4_does_for_long(tmp_path: Path) -> None:
    run(tmp_path, 50 * STEPS)
