"""What S3 clients attached to objects is still there after a restart, eviction, a rename through
the mount, and the loss of the whole index: everything they can ask, asked before and after.

A gateway over a volume whose store is a directory, or a bucket of moto's server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import Config

from cache.config import MIB, CacheConfig, VolumeConfig
from cache.records import ROOT, Kind, WriteMode
from cache.stores.base import Store
from cache.stores.opening import open_store
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from s3api.config import AuthConfig, GatewayConfig
from s3api.gateway import Gateway
from tests.support.s3 import running_gateway
from tests.support.stores import make_bucket, moto_backend
from tests.support.volume import some_bytes
from tests.support.waiting import wait_until

PLAIN, VERSIONED = "plain", "versioned"
PART_BYTES = 5 * MIB
KEYS = 14


class Site:
    """A volume and its gateway, which can be stopped and started, with a store that stays."""

    def __init__(self, directory: Path, store: Store, write_mode: WriteMode) -> None:
        self.store = store
        self.known: dict[str, Any] = {}  # what is asked, as it was answered at first
        self.config = VolumeConfig(
            CacheConfig(
                directory / "state",
                capacity_bytes=256 * MIB,
                index_bytes=64 * MIB,
                persist_delay_ms=0,
                sync=False,
            ),
            creatable_store="local",
            creatable_write_mode=write_mode,
        )
        self._serving = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        self.volume = Volume.open(self.config, {"local": self.store})
        self._serving.callback(self.volume.close)
        self.volume.reclaimer.seal_abandoned()
        self.volume.buckets.adopt()
        # Whoever names a user is believed: no key is lost with the index.
        gateway = Gateway(self.volume, GatewayConfig(port=0), AuthConfig(mode="simple"))
        self.port = self._serving.enter_context(running_gateway(gateway, "127.0.0.1"))

    def stop(self) -> None:
        self._serving.close()

    def client(self, user: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=user,
            aws_secret_access_key="any",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def drain(self) -> None:
        queue = self.volume.queue
        wait_until(lambda: not queue.run_once(hurry=True) and not queue.backlog().names)


def restart(site: Site) -> None:
    site.stop()
    site.start()


def evict(site: Site) -> None:
    site.drain()
    site.volume.segments.close()
    site.volume.reclaimer.seal_abandoned()
    site.volume.reclaimer.evict_all()


def lose_the_index(site: Site) -> None:
    site.drain()
    site.stop()
    shutil.rmtree(site.config.cache.state_dir)
    site.start()


EVENTS: dict[str, Callable[[Site], None]] = {
    "restart": restart,
    "eviction": evict,
    "loss of the index": lose_the_index,
}


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with moto_backend(tmp_path_factory.mktemp("moto")) as backend:
        yield backend


@pytest.fixture(scope="module", params=["posix", "moto"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[WriteMode.WRITE_THROUGH, WriteMode.WRITE_BACK])
def site(
    request: pytest.FixtureRequest, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    store: Store
    if kind == "posix":
        (directory / "store").mkdir()
        store = PosixStore(PosixStoreConfig(path=directory / "store"))
    else:
        config = request.getfixturevalue("moto").config
        config = dataclasses.replace(config, bucket=f"b-{uuid.uuid4().hex}")
        make_bucket(config)
        store = open_store(config)
    with contextlib.closing(store):
        running = Site(directory, store, request.param)
        try:
            fill(running)
            running.known = asked(running)
            assert sum(what.endswith(": checksum") for what in running.known) == 3 * KEYS
            yield running
        finally:
            running.stop()


def fill(site: Site) -> None:
    """Objects with everything that a client can attach to one."""
    alice, bob = site.client("alice"), site.client("bob")
    for bucket in (PLAIN, VERSIONED):
        alice.create_bucket(Bucket=bucket, ACL="public-read-write")
        attach_all(alice, bob, bucket)
        if bucket == PLAIN:
            continue
        enabled = {"Status": "Enabled"}
        alice.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled)
        attach_all(alice, bob, bucket)  # beside their null versions
        alice.delete_object(Bucket=bucket, Key="sum of SHA256")


def attach_all(alice: Any, bob: Any, bucket: str) -> None:
    alice.put_object(
        Bucket=bucket,
        Key="metadata",
        Body=b"m",
        Metadata={"colour": "blue", "forebay-acl": "mine"},
        ContentType="text/x-test",
        CacheControl="max-age=5",
        ContentDisposition='attachment; filename="x"',
        ContentEncoding="identity",
        ContentLanguage="de",
        StorageClass="GLACIER",
        WebsiteRedirectLocation="/there",
    )
    alice.put_object(Bucket=bucket, Key="tags", Body=b"t", Tagging="a=1&b=%C3%A4+%2B")
    alice.put_object(Bucket=bucket, Key="tagged later", Body=b"t")
    tags = {"TagSet": [{"Key": "later", "Value": "yes"}]}
    alice.put_object_tagging(Bucket=bucket, Key="tagged later", Tagging=tags)
    bob.put_object(Bucket=bucket, Key="acl", Body=b"a", ACL="public-read")
    alice.put_object(Bucket=bucket, Key="acl later", Body=b"a")
    alice.put_object_acl(Bucket=bucket, Key="acl later", ACL="authenticated-read")
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
        alice.put_object(
            Bucket=bucket, Key=f"sum of {algorithm}", Body=b"sum", ChecksumAlgorithm=algorithm
        )
    # More than a part of the store's uploads: its attributes are said before its last byte came.
    body = some_bytes(9 * MIB)
    alice.put_object(Bucket=bucket, Key="large", Body=body, ChecksumAlgorithm="SHA256")
    alice.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/large")
    upload(alice, bucket, "composite", "SHA256", "COMPOSITE")
    upload(alice, bucket, "full object", "CRC32", "FULL_OBJECT")


def upload(client: Any, bucket: str, key: str, algorithm: str, kind: str) -> None:
    where = {"Bucket": bucket, "Key": key}
    begun = client.create_multipart_upload(
        **where, ChecksumAlgorithm=algorithm, ChecksumType=kind, Metadata={"parts": "yes"}
    )
    where["UploadId"] = begun["UploadId"]
    parts = []
    for number, size in ((1, PART_BYTES), (2, PART_BYTES), (3, 77)):
        part = client.upload_part(
            **where, PartNumber=number, Body=some_bytes(size, key), ChecksumAlgorithm=algorithm
        )
        member = f"Checksum{algorithm}"
        parts.append({"PartNumber": number, "ETag": part["ETag"], member: part[member]})
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})


# ---------------------------------------------------------------------------------- what is asked


def asked(site: Site) -> dict[str, Any]:
    """All that can be asked of every version in both buckets."""
    client = site.client("alice")
    found: dict[str, Any] = {}
    for bucket in (PLAIN, VERSIONED):
        listed = client.list_object_versions(Bucket=bucket)
        markers = listed.get("DeleteMarkers", [])
        found[f"{bucket}: delete markers"] = [
            (row["Key"], row["VersionId"], row["IsLatest"]) for row in markers
        ]
        for row in listed["Versions"]:
            name = f"{bucket}/{row['Key']} {row['VersionId']}"
            found[f"{name}: is latest"] = row["IsLatest"]
            which = {"Bucket": bucket, "Key": row["Key"]}
            if bucket == VERSIONED:
                which["VersionId"] = row["VersionId"]
            found |= {f"{name}: {what}": answer for what, answer in told(client, which).items()}
    return found


def told(client: Any, which: dict[str, str]) -> dict[str, Any]:
    head = client.head_object(**which, ChecksumMode="ENABLED")
    got = client.get_object(**which, ChecksumMode="ENABLED")
    body = got.pop("Body").read()
    for answer in (head, got):
        del answer["ResponseMetadata"]
        # What passes through to the store gets its time there, which may be in the next second.
        del answer["LastModified"]
    assert got == head
    part = client.head_object(**which, PartNumber=1)
    attributes = client.get_object_attributes(
        **which, ObjectAttributes=["Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    )
    shape = attributes.get("ObjectParts", {})
    return {
        "headers": head,
        "body": body,
        "checksum": attributes["Checksum"],
        "parts": [one["Size"] for one in shape.get("Parts", [])],
        "part count": part.get("PartsCount"),
        "tags": client.get_object_tagging(**which)["TagSet"],
        "acl": {k: client.get_object_acl(**which)[k] for k in ("Owner", "Grants")},
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        what: (before.get(what), after.get(what))
        for what in before.keys() | after.keys()
        if before.get(what) != after.get(what)
    }


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_is_forgotten(site: Site, event: str) -> None:
    EVENTS[event](site)
    assert differences(site.known, asked(site)) == {}


def test_a_rename_through_the_mount_takes_it_along(site: Site) -> None:
    client = site.client("alice")
    keys = [row["Key"] for row in client.list_objects_v2(Bucket=PLAIN)["Contents"]]
    before = {key: told(client, {"Bucket": PLAIN, "Key": key}) for key in keys}
    root = site.volume.files.lookup(ROOT, PLAIN.encode()).id
    directory = site.volume.files.create(
        root, b"moved", kind=Kind.DIRECTORY, mode=0o755, uid=0, gid=0, target=b""
    )
    for key in keys:
        site.volume.renames.rename(root, key.encode(), directory.id, key.encode())
    lose_the_index(site)
    client = site.client("alice")
    after = {key: told(client, {"Bucket": PLAIN, "Key": f"moved/{key}"}) for key in keys}
    assert differences(before, after) == {}
    assert site.volume.objects.list(PLAIN, delimiter=b"/").entries[0].key == b"moved/"
