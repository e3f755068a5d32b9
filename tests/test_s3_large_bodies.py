"""Bodies that are larger than what may wait here for the store."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.config import MIB
from cache.errors import DirtyLimit
from cache.records import WriteMode
from cache.snapshot import Piece, Snapshot
from cache.stores.posix import PosixStore, PosixStoreConfig
from tests.support.fault_store import FaultStore
from tests.support.s3 import Door, refused, serving
from tests.support.volume import some_bytes

CAPACITY_BYTES = 16 * MIB
DATA = some_bytes(20 * MIB)
MD5 = hashlib.md5(DATA).hexdigest()
BUCKET = "bucket"
SOURCE = {"Bucket": BUCKET, "Key": "source"}


class Node:
    """A gateway over a cache that is too small, and a store that has `source`."""

    def __init__(self, door: Door, store: FaultStore) -> None:
        self.volume = door.volume
        self.volume.buckets.adopt()
        self.store = store
        self.s3 = door.client()

    def begin(self) -> dict[str, Any]:
        upload = self.s3.create_multipart_upload(Bucket=BUCKET, Key="upload")
        return {"Bucket": BUCKET, "Key": "upload", "UploadId": upload["UploadId"]}

    def has_stored(self, key: str) -> bool:
        """Nothing waits for the store, which has DATA under the key."""
        path = f"{BUCKET}/{key}".encode()
        head = self.store.store.head(path)
        stored = b"".join(self.store.store.read(path, 0, head.size_bytes, head.version))
        return stored == DATA and not self.volume.queue.backlog().names

    def get(self, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body


@contextlib.contextmanager
def a_node(directory: Path, mode: WriteMode) -> Iterator[Node]:
    behind = directory / "behind"
    (behind / BUCKET).mkdir(parents=True)
    (behind / BUCKET / "source").write_bytes(DATA)
    store = FaultStore(PosixStore(PosixStoreConfig(path=behind)))
    with serving(directory, write_mode=mode, capacity_bytes=CAPACITY_BYTES, behind=store) as door:
        yield Node(door, store)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """In write_back."""
    with a_node(tmp_path, WriteMode.WRITE_BACK) as node:
        yield node


def test_a_put_goes_through_to_the_store(node: Node) -> None:
    node.s3.put_object(Bucket=BUCKET, Key="key", Body=DATA)
    assert node.has_stored("key")
    assert node.get("key") == DATA


def test_a_copy_goes_through_to_the_store(node: Node) -> None:
    node.s3.copy_object(Bucket=BUCKET, Key="key", CopySource=SOURCE)
    assert node.has_stored("key")
    assert node.get("key") == DATA


def test_a_part_is_refused_before_it_is_taken(node: Node) -> None:
    """Not over the wire: whether a client that is still sending reads the answer is its own."""
    upload_id = node.begin()["UploadId"]
    uploads = node.volume.uploads
    upload = uploads.get(BUCKET, b"upload", upload_id)
    with pytest.raises(DirtyLimit):
        uploads.part_writer(upload, 1, size_bytes=len(DATA))


def test_a_part_is_refused_before_its_source_is_read(node: Node) -> None:
    part = {**node.begin(), "PartNumber": 1, "CopySource": SOURCE}
    refused("SlowDown", 503, node.s3.upload_part_copy, **part)
    assert node.store.read_bytes == 0


def test_the_source_of_a_part_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    pieces = Snapshot.pieces

    def counted(snapshot: Snapshot, start: int, stop: int) -> Iterator[Piece]:
        asked.append((start, stop))
        return pieces(snapshot, start, stop)

    monkeypatch.setattr(Snapshot, "pieces", counted)
    with a_node(tmp_path, WriteMode.WRITE_THROUGH) as node:
        upload = node.begin()
        answer = node.s3.upload_part_copy(**upload, PartNumber=1, CopySource=SOURCE)
        assert asked.count((0, len(DATA))) == 1
        part = {"PartNumber": 1, "ETag": answer["CopyPartResult"]["ETag"]}
        assert part["ETag"] == f'"{MD5}"'
        node.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
        assert node.has_stored("upload")
