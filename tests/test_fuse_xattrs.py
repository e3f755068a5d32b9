"""Extended attributes of a running node: beside S3, and as the tools that copy them see them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.doors import BUCKET, Doors
from tests.support.mount import requires_fuse
from tests.support.node import running_node

pytestmark = requires_fuse


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with running_node(tmp_path_factory.mktemp("node")) as node:
        served = Doors(node)
        served.s3.create_bucket(Bucket=BUCKET)
        yield served


def shown(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def refused(code: int, path: Path, name: str, value: bytes) -> None:
    with pytest.raises(OSError, match=r".") as error:
        os.setxattr(path, name, value)
    assert error.value.errno == code, name


def test_what_is_put_over_s3_is_seen_at_once_and_the_other_way_round(doors: Doors) -> None:
    doors.s3.put_object(
        Bucket=BUCKET,
        Key="object",
        Body=b"x",
        ContentType="text/plain",
        Metadata={"colour": "blue"},
        Tagging="project=a%20b",
    )
    path = doors.directory / "object"
    assert shown(path) == {"user.s3.meta.colour": b"blue", "user.s3.tag.project": b"a b"}
    assert os.getxattr(path, "user.forebay.content-type") == b"text/plain"
    assert os.getxattr(path, "user.forebay.etag") == b"9dd4e461268c8034f5c8564e155c67a6"
    os.setxattr(path, "user.s3.meta.colour", b"red")
    os.setxattr(path, "user.s3.tag.new", b"")
    os.removexattr(path, "user.s3.tag.project")
    head = doors.s3.head_object(Bucket=BUCKET, Key="object")
    assert (head["Metadata"], head["ETag"]) == (
        {"colour": "red"},
        '"9dd4e461268c8034f5c8564e155c67a6"',
    )
    tags = doors.s3.get_object_tagging(Bucket=BUCKET, Key="object")["TagSet"]
    assert tags == [{"Key": "new", "Value": ""}]
    doors.s3.delete_object_tagging(Bucket=BUCKET, Key="object")
    assert shown(path) == {"user.s3.meta.colour": b"red"}


def test_what_s3_does_not_take_is_refused_as_setxattr_says(doors: Doors) -> None:
    path = doors.directory / "limits"
    path.touch()
    refused(errno.EINVAL, path, "user.s3.meta.Upper", b"x")
    refused(errno.E2BIG, path, "user.s3.tag.long", b"x" * 257)
    for number in range(10):
        os.setxattr(path, f"user.s3.tag.{number}", b"")
    refused(errno.ENOSPC, path, "user.s3.tag.eleventh", b"")
    refused(errno.ENOTSUP, path, "user.forebay.etag", b"x")
    with pytest.raises(OSError, match=r".") as error:
        os.removexattr(path, "user.forebay.etag")
    assert error.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("copy", [["cp", "-a"], ["rsync", "-aX"]], ids=["cp", "rsync"])
def test_copies_keep_them_in_both_directions(doors: Doors, tmp_path: Path, copy: list[str]) -> None:
    if shutil.which(copy[0]) is None:
        pytest.skip(f"needs {copy[0]}")
    attributes = {"user.s3.meta.a": b"1", "user.s3.tag.t": b"2", "user.own": b"\0\xff"}
    source = doors.directory / f"from-{copy[0]}"
    source.write_bytes(b"content")
    for name, value in attributes.items():
        os.setxattr(source, name, value)
    outside, back = tmp_path / "outside", doors.directory / f"back-{copy[0]}"
    for old, new in ((source, outside), (outside, back)):
        done = run(*copy, old, new)
        assert (done.returncode, done.stderr) == (0, ""), done
    if not os.listxattr(outside):
        pytest.skip("the directory for temporary files has no extended attributes")
    assert shown(outside) == shown(back) == attributes
    assert back.read_bytes() == b"content"
    head = doors.s3.head_object(Bucket=BUCKET, Key=back.name)
    assert head["Metadata"] == {"a": "1"}


def test_getfattr_and_setfattr(doors: Doors) -> None:
    if shutil.which("setfattr") is None:
        pytest.skip("needs setfattr")
    path = doors.directory / "fattr"
    path.touch()
    assert run("setfattr", "-n", "user.s3.tag.t", "-v", "2", path).returncode == 0
    listed = run("getfattr", "--absolute-names", "-d", path).stdout
    assert listed.splitlines()[1:] == ['user.s3.tag.t="2"', ""]
    fact = run("getfattr", "--only-values", "--absolute-names", "-n", "user.forebay.state", path)
    assert fact.stdout in ("dirty", "clean")
    refusal = run("setfattr", "-n", "user.forebay.state", "-v", "clean", path)
    assert "Operation not supported" in refusal.stderr


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
