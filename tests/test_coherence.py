"""The two doors agree at every moment, though the kernel never asks again for what it knows.

docs/semantics.md: what was acknowledged at one door is what the other door answers with next; who
began to read one version of an object reads it to its end.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.alternation import Alternator, hammer
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, running_node
from tests.support.s3_raw import RawS3

pytestmark = requires_fuse

BUCKET = "coherence"
CLIENTS = 4
ALTERNATIONS = 10_000
LARGE = 48 << 20  # more than the sockets between a server and a client that does not read can hold


def store_with(directory: Path, write_mode: str) -> dict[str, dict[str, object]]:
    store = {"type": "posix", "path": str(directory / "store"), "creatable": True}
    return {"main": store | {"write_mode": write_mode}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    directory = tmp_path_factory.mktemp("coherence")
    with running_node(
        directory,
        auth={"mode": "simple"},
        stores=store_with(directory, "write_back"),
        node={"gateways": 2},
    ) as node:
        yield node


@pytest.fixture
def s3(node: RunningNode) -> Iterator[RawS3]:
    with RawS3(node.endpoint, connections=4) as s3:
        if s3.request("HEAD", f"/{BUCKET}").status == 404:
            s3.make_bucket(BUCKET)
        yield s3


@pytest.fixture
def bucket(node: RunningNode, s3: RawS3) -> Path:
    """The bucket's directory in the mount."""
    assert node.mount is not None
    return node.mount / BUCKET


def alternate(node: RunningNode, bucket: str, alternations: int) -> None:
    """Run the clients, and somebody who looks at all of it meanwhile; nothing may be stale."""
    assert node.mount is not None
    mount = node.mount
    seed = int(os.environ.get("FOREBAY_SEED", "20261121"))
    stop = threading.Event()
    problems: list[str] = []
    failures: list[BaseException] = []
    clients = [RawS3(node.endpoint, connections=4) for _ in range(CLIENTS)]
    clients[0].make_bucket(bucket)
    alternators = [
        Alternator(s3, mount, bucket, f"client-{number}", seed + number)
        for number, s3 in enumerate(clients)
    ]

    def guarded(run: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            try:
                run()
            except BaseException as exc:  # noqa: BLE001 - raised in the test's thread
                failures.append(exc)

        return call

    working = [
        threading.Thread(target=guarded(lambda a=a: a.run(alternations // CLIENTS)))  # type: ignore[misc]
        for a in alternators
    ]
    looks = []
    looker = RawS3(node.endpoint, connections=2)
    looking = threading.Thread(
        target=guarded(lambda: looks.append(hammer(looker, mount, bucket, stop, problems)))
    )
    begun = time.monotonic()
    for thread in [*working, looking]:
        thread.start()
    serving = [
        name for name, pid in node.pids.items() if name.startswith("gateway") and _connections(pid)
    ]
    for thread in working:
        thread.join()
    took_s = time.monotonic() - begun
    stop.set()
    looking.join()
    for s3 in [*clients, looker]:
        s3.close()
    stale = [line for a in alternators for line in a.stale] + problems
    if failures:
        # Its cause may be one of these: a kernel that was not told in time, for instance.
        late = [line for line in node.log.splitlines() if "did not confirm in time" in line]
        failures[0].add_note("\n".join(["before it:", *stale, *late]))
        raise failures[0]
    done = sum(a.alternations for a in alternators)
    counts: dict[str, int] = {}
    for alternator in alternators:
        for change, count in alternator.counts.items():
            counts[change] = counts.get(change, 0) + count
    sys.stdout.write(
        f"\nseed {seed}: {done} alternations by {CLIENTS} clients over {len(serving)} gateways in "
        f"{took_s:.1f} s = {done / took_s:.0f}/s, {len(stale)} stale; "
        f"{sum(looks)} looks beside them; {counts}\n"
    )
    assert not stale, "\n".join(stale[:20])
    assert done >= alternations
    assert len(serving) == 2, "all connections went to one gateway"
    node.forebay("flush")
    stored = {
        path.relative_to(node.store_dir / bucket).as_posix(): path.read_bytes()
        for path in (node.store_dir / bucket).rglob("*")
        if path.is_file() and path.parent.name != ".forebay"  # the bucket's own settings
    }
    assert stored == {
        f"{alternator.directory}/{name}": content
        for alternator in alternators
        for name, content in alternator.expected.items()
    }


def _connections(pid: int) -> int:
    return sum(
        c.status == psutil.CONN_ESTABLISHED for c in psutil.Process(pid).net_connections("tcp")
    )


@pytest.mark.timeout(600)
def test_no_answer_is_stale_in_ten_thousand_alternations(node: RunningNode) -> None:
    alternate(node, "alternations", ALTERNATIONS)


def test_no_answer_is_stale_in_write_through(tmp_path: Path) -> None:
    with running_node(
        tmp_path, auth={"mode": "simple"}, stores=store_with(tmp_path, "write_through")
    ) as node:
        alternate(node, "alternations", 600)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_answer_is_stale_in_two_hundred_thousand_alternations(node: RunningNode) -> None:
    alternate(node, "many-alternations", 200_000)


# ------------------------------------------------------------------ what the kernel knows


def test_the_kernel_does_not_ask_again(node: RunningNode, s3: RawS3, bucket: Path) -> None:
    """The premise of all this: with the mount process stopped, known names are still answered,
    those that exist and those that do not; and an attribute is."""
    s3.put(BUCKET, "known/name", b"x" * 10)
    (bucket / "known/name").stat()
    assert not (bucket / "known/missing").exists()
    pid = node.pids["mount"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = _stat_elsewhere(bucket / "known/name")
        missing = _stat_elsewhere(bucket / "known/missing")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (found.returncode, found.stdout) == (0, "10\n"), found
    assert missing.returncode == 1, missing
    assert "No such file" in missing.stderr
    # And yet: a 200 on a PUT means that the next stat sees it.
    s3.put(BUCKET, "known/missing", b"yyy")
    s3.put(BUCKET, "known/name", b"zz")
    assert (bucket / "known/missing").stat().st_size == 3
    assert (bucket / "known/name").stat().st_size == 2


def _stat_elsewhere(path: Path) -> subprocess.CompletedProcess[str]:
    """stat(1), which hangs in our stead if the kernel asks the mount after all."""
    return subprocess.run(
        ["stat", "--format=%s", path], capture_output=True, text=True, timeout=60, check=False
    )


# ------------------------------------------------------------------ versions under a reader

REPLACEMENTS: dict[str, Callable[[RawS3, Path, str], object]] = {
    "put": lambda s3, _, key: s3.put(BUCKET, key, b"new"),
    "copy": lambda s3, _, key: (s3.put(BUCKET, "new", b"new"), s3.copy(BUCKET, "new", key)),
    "upload": lambda s3, _, key: s3.upload(BUCKET, key, [b"new"]),
    "delete": lambda s3, _, key: (s3.delete(BUCKET, key), s3.put(BUCKET, key, b"new")),
    "rename": lambda _, bucket, key: (
        (bucket / "temporary").write_bytes(b"new"),
        (bucket / "temporary").rename(bucket / key),
    ),
}


def large_body(mark: str) -> bytes:
    block = hashlib.sha256(mark.encode()).digest() * 2048
    return block * (LARGE // len(block))


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_an_open_file_keeps_its_version(s3: RawS3, bucket: Path, how: str) -> None:
    old = large_body(how)
    s3.put(BUCKET, f"held-{how}", old)
    with (bucket / f"held-{how}").open("rb") as file:
        read = [file.read(1 << 20)]
        REPLACEMENTS[how](s3, bucket, f"held-{how}")
        assert (bucket / f"held-{how}").read_bytes() == b"new"
        assert s3.get(BUCKET, f"held-{how}") == b"new"
        read.append(file.read())
        assert os.fstat(file.fileno()).st_size == len(old)
    assert b"".join(read) == old


@pytest.mark.parametrize("how", [*REPLACEMENTS, "write", "truncate"])
def test_a_slow_download_keeps_its_version(
    node: RunningNode, s3: RawS3, bucket: Path, how: str
) -> None:
    old = large_body(how)
    key = f"downloaded-{how}"
    s3.put(BUCKET, key, old)
    with RawS3(node.endpoint) as slow:
        answer = slow.start("GET", f"/{BUCKET}/{key}")
        read = [answer.read(1000)]
        if how == "write":  # in place: the inode stays, its content is another
            with (bucket / key).open("r+b") as file:
                file.seek(LARGE // 2)
                file.write(b"new")
        elif how == "truncate":
            os.truncate(bucket / key, 3)
        else:
            REPLACEMENTS[how](s3, bucket, key)
        now = s3.get(BUCKET, key)
        read.append(answer.read())
    assert b"".join(read) == old
    expected = {
        "write": old[: LARGE // 2] + b"new" + old[LARGE // 2 + 3 :],
        "truncate": old[:3],
    }.get(how, b"new")
    assert now == expected
    assert (bucket / key).read_bytes() == expected


def test_what_an_open_descriptor_writes_stays_with_its_version(s3: RawS3, bucket: Path) -> None:
    """A PUT over a file that a program has open for writing takes the name; what the program
    writes afterwards goes to the file without a name, as after rename(2)."""
    s3.put(BUCKET, "written", b"old " * 1000)
    with (bucket / "written").open("r+b") as file:
        file.write(b"OLD")
        file.flush()
        s3.put(BUCKET, "written", b"new")
        assert (bucket / "written").read_bytes() == b"new"
        file.seek(0)
        assert file.read() == b"OLD " + b"old " * 999
        file.write(b"more")
        file.flush()
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_nlink == 0
    assert (bucket / "written").read_bytes() == b"new"
    assert s3.get(BUCKET, "written") == b"new"


def test_new_directories_of_a_key_are_seen_where_nothing_was(s3: RawS3, bucket: Path) -> None:
    """The first missing part of a path may be known as missing; directories vanish with their last
    key, and that is seen too."""
    assert not (bucket / "deep").exists()
    s3.put(BUCKET, "deep/er/est/key", b"x")
    assert [p.name for p in (bucket / "deep/er/est").iterdir()] == ["key"]
    s3.put(BUCKET, "deep/er/est/key2", b"x")
    assert sorted(os.listdir(bucket / "deep/er/est")) == ["key", "key2"]
    for name in ("key", "key2"):
        s3.delete(BUCKET, f"deep/er/est/{name}")
    assert not (bucket / "deep").exists()
    assert "deep" not in os.listdir(bucket)


def test_a_key_beside_a_directory_of_its_name(s3: RawS3, bucket: Path) -> None:
    """S3 may hold `a` and `a/b`; the mount shows the directory, and the file again once the
    directory is gone."""
    s3.put(BUCKET, "beside", b"file")
    assert (bucket / "beside").read_bytes() == b"file"
    s3.put(BUCKET, "beside/b", b"x")
    assert (bucket / "beside").is_dir()
    assert (bucket / "beside/b").read_bytes() == b"x"
    assert s3.get(BUCKET, "beside") == b"file"
    s3.delete(BUCKET, "beside/b")
    assert (bucket / "beside").read_bytes() == b"file"


def test_a_small_file_that_was_emptied_has_none_of_its_old_bytes(s3: RawS3, bucket: Path) -> None:
    """Its bytes lie in the index, and once stayed there after the file was emptied: hidden by its
    size, in its ETag, and seen again when it grew."""
    file = bucket / "emptied"
    file.write_bytes(b"o" * 200)
    file.write_bytes(b"")
    with file.open("ab") as appending:
        appending.write(b"new")
    answer = s3.request("GET", f"/{BUCKET}/emptied").expect(200)
    assert answer.headers["etag"] == f'"{hashlib.md5(b"new").hexdigest()}"'
    os.truncate(file, 100)
    assert s3.get(BUCKET, "emptied") == b"new" + bytes(97)


def test_an_encrypted_object_has_its_size_and_gives_no_bytes(s3: RawS3, bucket: Path) -> None:
    headers = {"x-amz-server-side-encryption": "AES256"}
    body = b"x" * 70_000
    s3.request("PUT", f"/{BUCKET}/sealed", headers=headers, body=body).expect(200)
    file = bucket / "sealed"
    assert file.stat().st_size == len(body)
    calls: list[Callable[[], object]] = [
        file.read_bytes,
        lambda: file.open("ab"),
        lambda: file.write_bytes(b"plain"),
        lambda: os.truncate(file, 0),
    ]
    for call in calls:
        with pytest.raises(PermissionError):
            call()
    file.chmod(0o600)
    file = file.rename(bucket / "renamed")
    assert s3.get(BUCKET, "renamed") == body
    s3.put(BUCKET, "renamed", b"plain")
    assert file.read_bytes() == b"plain"
