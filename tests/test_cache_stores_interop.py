"""Other programs read what the S3 store writes, and it reads what they write."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cache.records import Kind
from cache.stores.base import StoredAttributes
from cache.stores.s3 import S3Store, S3StoreConfig
from tests.support.stores import ACCESS_KEY, SECRET_KEY, moto_backend, program

MTIME_NS = 1_234_567_890_123_456_789
FILE = StoredAttributes(mode=0o640, uid=1234, gid=5678, mtime_ns=MTIME_NS)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3StoreConfig]:
    with moto_backend(tmp_path_factory.mktemp("moto")) as backend:
        assert isinstance(backend.config, S3StoreConfig)
        yield backend.config


@pytest.fixture
def store(config: S3StoreConfig) -> Iterator[S3Store]:
    opened = S3Store(config)
    yield opened
    opened.close()


def write_examples(store: S3Store, top: bytes) -> None:
    store.put(top, [], 0, StoredAttributes(kind=Kind.DIRECTORY, mode=0o755))
    store.put(top + b"file", [b"content"], 7, FILE)
    directory = StoredAttributes(kind=Kind.DIRECTORY, mode=0o2750, uid=1, gid=2, mtime_ns=10**18)
    store.put(top + b"dir/", [], 0, directory)
    link = StoredAttributes(kind=Kind.SYMLINK, symlink_target=b"../else where", mtime_ns=10**18)
    store.put(top + b"link", [], 0, link)
    fifo = StoredAttributes(kind=Kind.FIFO, mode=0o600, mtime_ns=10**18)
    store.put(top + b"fifo", [], 0, fifo)


# rclone -----------------------------------------------------------------------------------------


def rclone(config: S3StoreConfig, *arguments: str) -> str:
    environment = {
        **os.environ,
        "RCLONE_CONFIG": "",
        "RCLONE_CONFIG_NODE_TYPE": "s3",
        "RCLONE_CONFIG_NODE_PROVIDER": "Other",
        "RCLONE_CONFIG_NODE_ENDPOINT": config.endpoint_url,
        "RCLONE_CONFIG_NODE_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_CONFIG_NODE_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    done = subprocess.run(
        [program("rclone"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return done.stdout


def test_rclone_reads_our_objects(config: S3StoreConfig, store: S3Store, tmp_path: Path) -> None:
    store.put(b"rclone/file", [b"content"], 7, FILE)
    store.put(b"rclone/sub/large", [b"x" * 6_000_000], 6_000_000, FILE)
    listed = rclone(config, "lsf", "-R", "--files-only", "--format", "ps", "node:bucket/rclone")
    assert sorted(listed.split()) == ["file;7", "sub/large;6000000"]
    rclone(config, "copy", "-l", "node:bucket/rclone", str(tmp_path))
    copied = tmp_path / "file"
    assert copied.read_bytes() == b"content"
    assert copied.stat().st_mtime_ns == MTIME_NS
    assert (tmp_path / "sub" / "large").stat().st_mtime_ns == MTIME_NS


def test_we_read_what_rclone_writes(config: S3StoreConfig, store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"by rclone")
    source.chmod(0o751)
    os.utime(source, ns=(MTIME_NS, MTIME_NS))
    rclone(config, "copy", "--metadata", str(tmp_path), "node:bucket/from-rclone")
    found = store.head(b"from-rclone/file").attributes
    assert found is not None
    assert (found.kind, found.mode, found.mtime_ns) == (Kind.FILE, 0o751, MTIME_NS)
    assert (found.uid, found.gid) == (os.getuid(), os.getgid())


# s3fs -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def s3fs_mount(config: S3StoreConfig, directory: Path) -> Iterator[Path]:
    point = directory / "mount"
    point.mkdir()
    passwords = directory / "passwd"
    passwords.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
    passwords.chmod(0o600)
    options = (
        f"url={config.endpoint_url},use_path_request_style,passwd_file={passwords},"
        "endpoint=us-east-1"
    )
    with (directory / "s3fs.log").open("wb") as log:
        process = subprocess.Popen(
            [program("s3fs"), config.bucket, str(point), "-f", "-o", options],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 90
            while not os.path.ismount(point):
                assert process.poll() is None, (directory / "s3fs.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield point
        finally:
            subprocess.run(["fusermount3", "-uz", str(point)], timeout=20, check=False)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_s3fs_reads_our_objects_and_we_read_what_it_writes(
    config: S3StoreConfig, store: S3Store, tmp_path: Path
) -> None:
    assert urlsplit(config.endpoint_url).hostname == "127.0.0.1"
    write_examples(store, b"ours/")
    with s3fs_mount(config, tmp_path) as point:
        ours = point / "ours"
        status = (ours / "file").stat()
        assert (ours / "file").read_bytes() == b"content"
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert (status.st_uid, status.st_gid) == (1234, 5678)
        assert int(status.st_mtime) == MTIME_NS // 10**9
        directory = (ours / "dir").stat()
        assert stat.S_ISDIR(directory.st_mode)
        assert stat.S_IMODE(directory.st_mode) == 0o2750
        assert os.readlink(ours / "link") == "../else where"
        assert stat.S_ISFIFO((ours / "fifo").lstat().st_mode)

        theirs = point / "theirs"
        theirs.mkdir(mode=0o750)
        (theirs / "file").write_bytes(b"by s3fs")
        (theirs / "file").chmod(0o604)
        os.utime(theirs / "file", (10**9 + 5, 10**9 + 5))
        (theirs / "link").symlink_to("file")
    found = store.head(b"theirs/file")
    assert found.attributes is not None
    assert (found.attributes.mode, found.attributes.mtime_ns) == (0o604, (10**9 + 5) * 10**9)
    assert b"".join(store.read(b"theirs/file", 0, 7, found.version)) == b"by s3fs"
    link = store.head(b"theirs/link").attributes
    assert link is not None
    assert (link.kind, link.symlink_target) == (Kind.SYMLINK, b"file")
    made = store.head(b"theirs/").attributes
    assert made is not None
    assert (made.kind, made.mode) == (Kind.DIRECTORY, 0o750)
