"""What several processes on the host do to the same files of the mount: appends, locks, mappings,
the groups that they are in, and directories that are listed while they change."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mount import Mounted, mounted, requires_fuse
from tests.support.syscalls import Directory

pytestmark = requires_fuse

PROCESSES = 4
GIB = 1 << 30
requires_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    # Not below pytest's own directory: no other user gets through that.
    with tempfile.TemporaryDirectory(prefix="forebay-") as directory:
        home = Path(directory)
        home.chmod(0o755)
        with mounted(home, allow_other=True) as mount:
            yield mount


@pytest.fixture
def here(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    directory = mount.bucket / request.node.name
    directory.mkdir()
    return directory


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python of its own with `sys.argv[1:]`; it says what it has to say on stdout."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return output


APPEND = """
import os, sys
path, name, lines = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_WRONLY | os.O_APPEND)
for number in range(lines):
    os.write(file, f"{name} {number} {'x' * (number % 97)}\\n".encode())
"""


def test_several_processes_append_without_loss(here: Path) -> None:
    file = here / "log"
    file.touch()
    writers = [start(APPEND, file, name, 500) for name in range(PROCESSES)]
    for writer in writers:
        ended(writer)
    lines = [line.split(" ") for line in file.read_text().splitlines()]
    assert len(lines) == PROCESSES * 500
    for name in range(PROCESSES):
        mine = [(int(number), len(rest)) for who, number, rest in lines if who == str(name)]
        assert mine == [(number, number % 97) for number in range(500)]


HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == "flock":
    fcntl.flock(file, fcntl.LOCK_EX)
else:
    fcntl.lockf(file, fcntl.LOCK_EX, 10, 100)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_lock_of_one_process_holds_off_others_until_it_ends(here: Path, kind: str) -> None:
    path = here / "locked"
    path.write_bytes(bytes(200))
    holder = start(HOLD, path, kind)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with path.open("r+b") as file:
        if kind == "flock":
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            with pytest.raises(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 105)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 110)  # beside it
        holder.kill()
        holder.wait()
        if kind == "flock":
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 105)
    holder.communicate()


MAP = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(file, 0) as shared:
    print(shared[:5].decode(), flush=True)
    sys.stdin.readline()
    print(shared[:5].decode(), flush=True)
    shared[5:10] = b"other"
    print("written", flush=True)
    sys.stdin.readline()
"""


def test_mappings_reads_and_writes_of_several_processes_agree(here: Path) -> None:
    path = here / "mapped"
    path.write_bytes(b"first" + bytes(10_000))
    other = start(MAP, path)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "first\n"
    with path.open("r+b", buffering=0) as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[:5] = b"alone"
            assert file.read(5) == b"first"
        file.seek(0)
        file.write(b"again")
        other.stdin.write("\n")
        other.stdin.flush()
        assert [other.stdout.readline() for _ in range(2)] == ["again\n", "written\n"]
        assert file.read(5) == b"other"  # before anybody synced it
    other.communicate("\n", timeout=100)
    assert path.read_bytes()[:10] == b"againother"


GROUPS = """
import os, sys
os.setgroups([int(g) for g in sys.argv[3:]])
os.setresgid(4000, 4000, 4000)
os.setresuid(4000, 4000, 4000)
try:
    print(os.open(sys.argv[1], int(sys.argv[2])) > 0)
except PermissionError:
    print(False)
"""


@requires_root
def test_supplementary_groups_count(here: Path) -> None:
    path = here / "of-a-group"
    path.write_text("x")
    os.chown(path, 0, 5000)
    path.chmod(0o640)
    assert ended(start(GROUPS, path, os.O_RDONLY, 5000, 6000)) == "True\n"
    assert ended(start(GROUPS, path, os.O_RDONLY, 6000)) == "False\n"
    assert ended(start(GROUPS, path, os.O_RDWR, 5000)) == "False\n"


def test_a_directory_stays_open_while_others_rename_over_it_and_it_is_renamed(here: Path) -> None:
    for name in ("old", "new"):
        (here / name).mkdir()
    (here / "new/file").write_text("new")
    descriptor = os.open(here / "old", os.O_RDONLY | os.O_DIRECTORY)
    moved = os.open(here / "new", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (here / "new").rename(here / "old")
        assert os.listdir(moved) == ["file"]
        assert os.listdir(descriptor) == []
        with pytest.raises(FileNotFoundError):
            os.open("more", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
        os.close(os.open("more", os.O_CREAT | os.O_WRONLY, dir_fd=moved))
    finally:
        os.close(descriptor)
        os.close(moved)
    assert sorted(os.listdir(here / "old")) == ["file", "more"]


CHURN = """
import os, sys
directory = sys.argv[1]
print("at work", flush=True)
for number in range(10**9):
    os.close(os.open(f"{directory}/passing-{number % 500}", os.O_CREAT | os.O_WRONLY))
    if number >= 250:
        os.unlink(f"{directory}/passing-{(number - 250) % 500}")
"""


def test_a_listing_is_whole_and_without_doubles_while_others_change_the_directory(
    here: Path,
) -> None:
    staying = {f"staying-{number}" for number in range(300)}
    for name in staying:
        (here / name).touch()
    churn = start(CHURN, here)
    assert churn.stdout is not None
    churn.stdout.readline()
    try:
        for _ in range(5):
            with Directory(here) as directory:
                names = directory.rest()
            found = [name for name in names if name in staying]
            assert len(found) == len(staying) == len(set(found))
    finally:
        churn.kill()
        churn.communicate()


# ------------------------------------------------------------------ large and sparse


def check_sparse(mount: Mounted, path: Path, size: int) -> None:
    """Three blocks far apart in a file of that size, there and in the store."""
    block = os.urandom(5000)
    places = (0, size // 2 + 123, size - len(block))
    with path.open("w+b", buffering=0) as file:
        os.ftruncate(file.fileno(), size)
        for place in places:
            assert os.pwrite(file.fileno(), block, place) == len(block)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for place in places:
            assert os.pread(file.fileno(), len(block), place) == block
        assert os.pread(file.fileno(), 4096, size // 3) == bytes(4096)
        # The kernel's own answer where a FUSE daemon has none: all is data.
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == size
        assert os.lseek(file.fileno(), 100, os.SEEK_DATA) == 100
    with path.open("rb") as file, pytest.raises(OSError, match=r"\[Errno 6\]"):  # ENXIO
        os.lseek(file.fileno(), size, os.SEEK_DATA)


@pytest.mark.parametrize(
    "size", [2 * GIB, pytest.param(150 * GIB, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_a_sparse_file_is_sparse_in_the_store(tmp_path: Path, size: int) -> None:
    """And stays that when it is changed by who has none of it cached."""
    with mounted(tmp_path, data_deadline_s=600) as mount:
        path, stored = mount.bucket / "sparse", mount.store / "sparse"
        begun = time.monotonic()
        check_sparse(mount, path, size)
        sys.stdout.write(f"{size / GIB:.0f} GiB in {time.monotonic() - begun:.1f} s\n")
        assert path.stat().st_size == size
        assert stored.stat().st_size == size
        assert stored.stat().st_blocks * 512 <= 8 << 20
    shutil.rmtree(mount.state)
    block = os.urandom(5000)
    with mounted(tmp_path, data_deadline_s=600) as mount, path.open("r+b", buffering=0) as file:
        for place in (size // 3, size):
            assert os.pwrite(file.fileno(), block, place) == len(block)
        begun = time.monotonic()
        os.fsync(file.fileno())
        sys.stdout.write(f"changed in {time.monotonic() - begun:.1f} s\n")
        assert stored.stat().st_size == size + len(block)
        assert stored.stat().st_blocks * 512 <= 16 << 20
        with stored.open("rb") as there:
            for place in (size // 3, size):
                assert os.pread(there.fileno(), len(block), place) == block
