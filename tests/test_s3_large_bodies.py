"""Bodies that are larger than what may wait here for the store."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

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
IN_PARTS = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)


class Node:
    """A gateway over a cache that is too small, and a store that has `source`."""

    def __init__(self, door: Door, store: FaultStore, directory: Path) -> None:
        self.volume = door.volume
        self.volume.buckets.adopt()
        self.store = store
        self.directory = directory  # of the store
        self.s3 = door.client()

    def begin(self) -> dict[str, Any]:
        upload = self.s3.create_multipart_upload(Bucket=BUCKET, Key="upload")
        return {"Bucket": BUCKET, "Key": "upload", "UploadId": upload["UploadId"]}

    def keep_versions(self) -> None:
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    def temporary(self) -> list[Path]:
        """What unfinished uploads left in the store."""
        return list(self.directory.glob("**/.forebay-tmp/parts/*"))

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
        yield Node(door, store, behind)


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


def test_an_upload_in_parts_goes_through_once_it_has_outgrown_the_cache(node: Node) -> None:
    node.s3.upload_fileobj(io.BytesIO(DATA), BUCKET, "key", Config=IN_PARTS)
    assert node.store.calls["write_part"] == 4, "those that were here already follow"
    assert node.has_stored("key")
    assert node.get("key") == DATA
    assert not node.temporary()


def test_an_upload_that_is_small_enough_waits_here(node: Node) -> None:
    node.s3.upload_fileobj(io.BytesIO(DATA[: 8 * MIB]), BUCKET, "key", Config=IN_PARTS)
    assert not node.store.calls["write_part"]
    assert node.get("key") == DATA[: 8 * MIB]


def test_a_part_that_cannot_wait_here_goes_through(node: Node) -> None:
    upload = node.begin()
    part = node.s3.upload_part_copy(**upload, PartNumber=1, CopySource=SOURCE)["CopyPartResult"]
    assert part["ETag"] == f'"{MD5}"'
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    node.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert node.has_stored("upload")
    assert node.get("upload") == DATA


def test_where_it_may_not_go_through_a_part_is_refused_before_it_is_taken(node: Node) -> None:
    """Not over the wire: whether a client that is still sending reads the answer is its own."""
    node.keep_versions()
    upload_id = node.begin()["UploadId"]
    uploads = node.volume.uploads
    upload = uploads.get(BUCKET, b"upload", upload_id)
    with pytest.raises(DirtyLimit):
        uploads.part_writer(upload, 1, size_bytes=len(DATA))


def test_where_it_may_not_go_through_a_part_is_refused_before_its_source_is_read(
    node: Node,
) -> None:
    node.keep_versions()
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
