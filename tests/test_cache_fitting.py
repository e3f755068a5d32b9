"""What is attached to an object must be something its store can keep, for ever: refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cache.errors import AttributeTooLarge
from cache.records import ObjectAttributes, WriteMode
from cache.stores.base import StoredAttributes
from cache.stores.posix_attributes import check_block
from cache.stores.s3 import S3Store, S3StoreConfig
from cache.uploading import uploaded_attributes
from tests.support.s3 import serving
from tests.support.volume import BUCKET, TestVolume, box

__all__ = ["box"]

GRANTS = b"[" + b",".join(b'["READ","user%d"]' % number for number in range(200)) + b"]"
SMALL = ObjectAttributes(metadata={"name": "v" * 1500}, owner="bob")
LARGE = ObjectAttributes(metadata={"name": "v" * 1500}, acl=GRANTS)


def test_metadata_of_s3_is_counted_with_what_is_kept_beside_it() -> None:
    store = S3Store(S3StoreConfig(bucket="bucket", access_key="a", secret_key="b"))
    try:
        store.check_attributes(uploaded_attributes(SMALL))
        with pytest.raises(AttributeTooLarge):
            store.check_attributes(uploaded_attributes(LARGE))
        # Letters beyond ASCII take more there than their bytes.
        with pytest.raises(AttributeTooLarge):
            store.check_attributes(StoredAttributes(metadata={"name": "ö" * 1000}))
    finally:
        store.close()


def test_xattrs_of_a_file_are_counted_where_they_share_a_block() -> None:
    check_block(uploaded_attributes(SMALL))
    with pytest.raises(AttributeTooLarge):
        check_block(uploaded_attributes(LARGE))


def test_nothing_waits_for_a_store_that_will_never_take_it(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box.store, "check_attributes", check_block)
    box.put(b"key", b"old", attributes=SMALL)
    with pytest.raises(AttributeTooLarge):
        box.put(b"key", b"new", attributes=LARGE)
    with pytest.raises(AttributeTooLarge):
        box.volume.objects.change_attributes(BUCKET, b"key", lambda found: LARGE)
    with pytest.raises(AttributeTooLarge):
        box.volume.uploads.create(BUCKET, b"key", owner="me", attributes=LARGE)
    assert box.get(b"key") == b"old"
    assert box.volume.objects.get(BUCKET, b"key").attributes == SMALL
    box.drain()
    box.check()


def test_what_goes_to_no_store_may_be_as_large_as_it_likes(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, write_mode=WriteMode.TRANSIENT)
    try:
        box.store.check_attributes = check_block  # type: ignore[method-assign]
        box.put(b"key", b"body", attributes=LARGE)
        assert box.get(b"key") == b"body"
    finally:
        box.close()


@pytest.mark.parametrize("mode", [WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def test_clients_are_told(tmp_path: Path, mode: WriteMode, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, write_mode=mode, access_log="off") as door:
        store: Any = door.volume.buckets.store
        client = door.client()
        client.create_bucket(Bucket="bucket")
        view = store(door.volume.buckets.get("bucket"))
        monkeypatch.setattr(view, "check_attributes", check_block)
        metadata = {"name": "v" * 2000}
        client.put_object(Bucket="bucket", Key="fits", Body=b"x", Metadata=metadata)
        tags = "&".join(f"{number:0128}={'v' * 200}" for number in range(10))
        with pytest.raises(ClientError, match="MetadataTooLarge"):
            client.put_object(
                Bucket="bucket", Key="not", Body=b"x", Metadata=metadata, Tagging=tags
            )
        assert [row["Key"] for row in client.list_objects_v2(Bucket="bucket")["Contents"]] == [
            "fits"
        ]
