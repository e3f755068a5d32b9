"""Versions on a real mount, beside S3: what is unlinked, replaced and brought back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
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
        enabled = {"Status": "Enabled"}
        served.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=enabled)
        yield served


def rows(doors: Doors, key: str) -> list[tuple[str, bool]]:
    """(kind, is latest) of the versions of a key, newest first by time of listing."""
    answer = doors.s3.list_object_versions(Bucket=BUCKET, Prefix=key)
    found = [("version", row["IsLatest"]) for row in answer.get("Versions", [])]
    return found + [("marker", row["IsLatest"]) for row in answer.get("DeleteMarkers", [])]


def marker_of(doors: Doors, key: str) -> str:
    answer = doors.s3.list_object_versions(Bucket=BUCKET, Prefix=key)
    (marker,) = answer["DeleteMarkers"]
    found: str = marker["VersionId"]
    return found


def refused(number: int, call: Any, *arguments: Any) -> None:
    with pytest.raises(OSError, match=r".") as error:
        call(*arguments)
    assert error.value.errno == number


def test_an_unlinked_file_comes_back(doors: Doors) -> None:
    """Also in the kernel, which counted its last link away."""
    path = doors.directory / "back"
    doors.write("back", b"one")
    doors.unlink("back")
    assert not path.exists()
    assert rows(doors, "back") == [("version", False), ("marker", True)]
    doors.s3.delete_object(Bucket=BUCKET, Key="back", VersionId=marker_of(doors, "back"))
    assert path.read_bytes() == b"one"
    assert os.stat(path).st_nlink == 1
    os.link(path, doors.directory / "second")
    assert (doors.directory / "second").read_bytes() == b"one"
    path.write_bytes(b"two")
    assert doors.get("back") == b"two"


def test_a_file_that_is_open_while_it_is_unlinked_and_comes_back(doors: Doors) -> None:
    path = doors.directory / "open"
    doors.write("open", b"one")
    with path.open("rb") as held:
        doors.unlink("open")
        doors.s3.delete_object(Bucket=BUCKET, Key="open", VersionId=marker_of(doors, "open"))
        assert path.read_bytes() == b"one"
        assert held.read() == b"one"
    assert os.stat(path).st_nlink == 1


def test_a_version_that_is_deleted_shows_the_one_before(doors: Doors) -> None:
    doors.put("shown", b"one")
    path = doors.directory / "shown"
    assert path.read_bytes() == b"one"
    second = doors.s3.put_object(Bucket=BUCKET, Key="shown", Body=b"two")["VersionId"]
    assert path.read_bytes() == b"two"
    doors.s3.delete_object(Bucket=BUCKET, Key="shown", VersionId=second)
    assert path.read_bytes() == b"one"


def test_an_atomic_replacement_is_a_new_version(doors: Doors) -> None:
    doors.write("text", b"one")
    doors.replace("text", b"two", "text.new")
    assert doors.read("text") == b"two"
    assert rows(doors, "text") == [("version", True), ("version", False)]


def test_the_hidden_directory_is_not_there(doors: Doors) -> None:
    doors.put("hidden/k", b"one")
    doors.put("hidden/k", b"two")
    hidden = doors.directory / ".forebay-versions"
    assert ".forebay-versions" not in os.listdir(doors.directory)
    assert not hidden.exists()
    refused(errno.EINVAL, os.mkdir, hidden)
    refused(errno.EXDEV, os.rename, doors.directory / "hidden", doors.directory / "moved")


def test_a_lock_holds_on_the_mount(doors: Doors, tmp_path: Path) -> None:
    doors.s3.put_object_lock_configuration(
        Bucket=BUCKET, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
    )
    doors.s3.put_object(
        Bucket=BUCKET,
        Key="locked",
        Body=b"one",
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=datetime.now(UTC) + timedelta(seconds=100),
    )
    path = doors.directory / "locked"
    refused(errno.EPERM, os.truncate, path, 0)
    refused(errno.EPERM, os.rename, path, doors.directory / "elsewhere")
    with pytest.raises(PermissionError):
        path.open("wb")
    doors.unlink("locked")
    assert rows(doors, "locked") == [("version", False), ("marker", True)]
