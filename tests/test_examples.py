"""The examples of the pages that Forebay is held to (docs/acceptance.md), run as they are written.

Each source's sequence of commands, with its own options and its own spelling, against running
nodes: one in `simple`, as Alluxio's pages and the first half of Ozone's want it, one that checks
signatures, as Ozone's second half and VAST's guide want it. What is asserted is what the pages
show, where Amazon answers the same; where it does not, Amazon's answer is.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.client import Config
from minio import Minio
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

from tests.support.aws_cli import AwsCli
from tests.support.node import RunningNode, running_node
from tests.support.s3_raw import AUTHORIZATION
from tests.support.stores import program

TEXT = os.urandom(27040)
"""As large as the file that Alluxio's page puts."""
MD5 = hashlib.md5(TEXT).hexdigest()
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
GROUPS = "http://acs.amazonaws.com/groups/global/"
TIMEOUT_S = 200

Aws = Callable[..., Any]


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    directory = tmp_path_factory.mktemp("simple")
    settings = {"mount": None, "node": {"gateways": 1}, "auth": {"mode": "simple"}}
    with running_node(directory, **settings) as node:
        yield node


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    directory = tmp_path_factory.mktemp("signed")
    settings = {"mount": None, "node": {"gateways": 1}, "auth": {"mode": "sigv4"}}
    with running_node(directory, **settings) as node:
        yield node


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def cli_environment(directory: Path, **variables: str) -> dict[str, str]:
    """Of a user's shell, with a home and nothing of whoever runs the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"HOME": str(directory), "AWS_EC2_METADATA_DISABLED": "true"} | variables


# --------------------------------------------------------------------------- S0, Alluxio S3 API


@pytest.fixture
def profile(
    simple: RunningNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Aws:
    """`aws --profile … --endpoint … s3api`: its printed document, parsed; None if none."""
    credentials = configparser.ConfigParser()
    # What `aws configure` writes when region and output are left empty: A04.
    credentials["alluxio-s3"] = {
        "aws_access_key_id": "testuser",
        "aws_secret_access_key": "dummy",
    }
    with (tmp_path / "credentials").open("w") as file:
        credentials.write(file)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    endpoint = ("--endpoint", f"{simple.endpoint}/")
    cli = AwsCli(capsys, "--profile", "alluxio-s3", *endpoint, "s3api")

    def aws(*arguments: str | Path) -> Any:
        printed = cli.run(*arguments)
        return json.loads(printed) if printed.strip() else None

    return aws


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "LICENSE").write_bytes(TEXT)
    return tmp_path / "LICENSE"


def keys(listed: dict[str, Any] | None) -> list[str]:
    return [each["Key"] for each in (listed or {}).get("Contents", [])]


def test_alluxio_cli_objects(profile: Aws, text: Path, tmp_path: Path) -> None:
    bucket = "--bucket=testbucket"
    profile("create-bucket", bucket)
    profile("create-bucket", "--bucket=tempbucket")
    names = [each["Name"] for each in profile("list-buckets")["Buckets"]]
    assert {"testbucket", "tempbucket"} <= set(names)
    put = profile("put-object", bucket, "--key=test.txt", f"--body={text}")
    assert put["ETag"] == f'"{MD5}"'
    copied = profile(
        "copy-object", "--copy-source=testbucket/test.txt", bucket, "--key=test_copy.txt"
    )
    assert copied["CopyObjectResult"]["ETag"].strip('"') == MD5
    assert copied["CopyObjectResult"]["LastModified"]
    listed = profile("list-objects-v2", bucket)
    assert [(each["Key"], each["Size"]) for each in listed["Contents"]] == [
        ("test.txt", 27040),
        ("test_copy.txt", 27040),
    ]
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"
    assert re.fullmatch(stamp, listed["Contents"][0]["LastModified"])
    assert keys(profile("list-objects", bucket)) == ["test.txt", "test_copy.txt"]
    head = profile("head-object", bucket, "--key=test.txt")
    assert (head["ContentLength"], head["Metadata"]) == (27040, {})
    got = profile("get-object", bucket, "--key=test.txt", tmp_path / "got")
    assert got["ContentType"] == head["ContentType"]
    assert (tmp_path / "got").read_bytes() == TEXT
    profile("head-bucket", bucket)
    profile("delete-object", bucket, "--key=test_copy.txt")
    assert keys(profile("list-objects-v2", bucket)) == ["test.txt"]
    temporary = "--bucket=tempbucket"
    for name in ("foo.txt", "temp.txt", "temp2.txt"):
        profile("put-object", temporary, f"--key={name}", f"--body={text}")
    profile("delete-objects", temporary, "--delete=Objects=[{Key=temp.txt},{Key=temp2.txt}]")
    assert keys(profile("list-objects-v2", temporary)) == ["foo.txt"]
    profile("delete-object", temporary, "--key=foo.txt")
    assert profile("delete-bucket", temporary) is None
    assert "tempbucket" not in [each["Name"] for each in profile("list-buckets")["Buckets"]]


def test_alluxio_cli_multipart(profile: Aws, text: Path) -> None:
    bucket = "--bucket=multipart"
    profile("create-bucket", bucket)
    profile("put-object", bucket, "--key=test.txt", f"--body={text}")
    key = (bucket, "--key=multipart.txt")
    upload = profile("create-multipart-upload", *key)["UploadId"]
    assert re.fullmatch(UUID, upload)
    this = (*key, f"--upload-id={upload}")
    part = profile("upload-part", *this, "--part-number=1", f"--body={text}")
    assert part["ETag"] == f'"{MD5}"'
    (found,) = profile("list-parts", *this)["Parts"]
    assert (found["PartNumber"], found["Size"]) == (1, 27040)
    (found,) = profile("list-multipart-uploads", bucket)["Uploads"]
    assert (found["Key"], found["UploadId"]) == ("multipart.txt", upload)
    parts = f"Parts=[{{PartNumber=1,ETag={MD5}}}]"
    completed = profile("complete-multipart-upload", *this, "--multipart-upload", parts)
    assert (completed["Bucket"], completed["Key"]) == ("multipart", "multipart.txt")
    assert profile("head-object", *key)["ContentLength"] == 27040
    # The second upload, by copy, is aborted.
    key = (bucket, "--key=multipart_copy.txt")
    upload = profile("create-multipart-upload", *key)["UploadId"]
    copy = (*key, f"--upload-id={upload}")
    source = "--copy-source=multipart/test.txt"
    copied = profile("upload-part-copy", *copy, "--part-number=1", source)
    assert copied["CopyPartResult"]["ETag"].strip('"') == MD5
    assert [each["Size"] for each in profile("list-parts", *copy)["Parts"]] == [27040]
    assert profile("abort-multipart-upload", *copy) is None
    assert keys(profile("list-objects-v2", bucket)) == ["multipart.txt", "test.txt"]


def test_alluxio_cli_tagging(profile: Aws, text: Path) -> None:
    bucket = "--bucket=tagged"
    profile("create-bucket", bucket)
    profile("put-object", bucket, "--key=test.txt", f"--body={text}")
    said = "--tagging=TagSet=[{Key=key1,Value=val1},{Key=key2,Value=val2}]"
    tags = [{"Key": "key1", "Value": "val1"}, {"Key": "key2", "Value": "val2"}]
    profile("put-bucket-tagging", bucket, said)
    assert profile("get-bucket-tagging", bucket)["TagSet"] == tags
    assert profile("delete-bucket-tagging", bucket) is None
    with pytest.raises(AssertionError, match="NoSuchTagSet"):  # Alluxio: an empty set
        profile("get-bucket-tagging", bucket)
    key = (bucket, "--key=test.txt")
    assert profile("get-object-tagging", *key)["TagSet"] == []
    profile("put-object-tagging", *key, said)
    assert profile("get-object-tagging", *key)["TagSet"] == tags
    profile("delete-object-tagging", *key)
    assert profile("get-object-tagging", *key)["TagSet"] == []


@dataclass(frozen=True)
class Answer:
    """What `curl -i` shows, after any 100 Continue."""

    status: int
    headers: dict[str, str]
    body: str


@pytest.fixture
def curl(simple: RunningNode) -> Callable[..., Answer]:
    def curl(method: str, target: str, *arguments: str | Path) -> Answer:
        header = ("-H", f"Authorization: {AUTHORIZATION}", "-H", "Expect: 100-continue")
        said = run("curl", "-s", "-i", *header, "-X", method, *arguments, simple.endpoint + target)
        head, _, body = said.partition("\n\n")
        while head.startswith("HTTP/1.1 100"):
            head, _, body = body.partition("\n\n")
        first, *lines = head.splitlines()
        named = (line.partition(": ") for line in lines)
        return Answer(
            int(first.split()[1]), {name.lower(): value for name, _, value in named}, body
        )

    return curl


def inside(body: str, element: str) -> list[str]:
    return re.findall(f"<{element}>([^<]*)</{element}>", body)


def test_alluxio_rest_objects(curl: Callable[..., Answer], tmp_path: Path) -> None:
    text = tmp_path / "LICENSE"
    text.write_text("of the test\n" * 2000)
    assert curl("PUT", "/curled").status == 200
    assert curl("HEAD", "/curled", "--head").status == 200
    assert "curled" in inside(curl("GET", "/").body, "Name")
    empty = curl("GET", "/curled")
    assert (empty.status, empty.headers["content-type"]) == (200, "application/xml")
    assert int(empty.headers["content-length"]) == len(empty.body.encode())
    assert {"date", "server"} <= empty.headers.keys()
    assert inside(empty.body, "MaxKeys") == ["1000"]
    assert inside(empty.body, "IsTruncated") == ["false"]
    for name in ("testobject", "key1", "key2", "key3"):
        put = curl("PUT", f"/curled/{name}", "-T", text)
        md5 = hashlib.md5(text.read_bytes()).hexdigest()
        assert (put.status, put.headers["etag"], put.body) == (200, f'"{md5}"', "")
    assert curl("GET", "/curled/testobject").body == text.read_text()
    head = curl("HEAD", "/curled/testobject", "--head")
    assert head.headers["content-length"] == str(text.stat().st_size)
    assert curl("GET", "/curled/testobject", "-r", "3-5").body == "the"
    first = curl("GET", "/curled?max-keys=2")
    assert inside(first.body, "Key") == ["key1", "key2"]
    assert inside(first.body, "IsTruncated") == ["true"]
    assert inside(curl("GET", "/curled?max-keys=2&marker=key2").body, "Key") == [
        "key3",
        "testobject",
    ]
    assert inside(curl("GET", "/curled?list-type=2&start-after=key3").body, "KeyCount") == ["1"]
    copied = curl("PUT", "/curled/key2", "-H", "x-amz-copy-source: /curled/key1")
    assert len(inside(copied.body, "LastModified")) == 1
    assert curl("DELETE", "/curled/key1").status == 204
    document = "".join(f"<Object><Key>{name}</Key></Object>" for name in ("key2", "key3"))
    document = f"<Delete><Quiet>false</Quiet>{document}</Delete>"
    integrity = ("--data-binary", document, "-H", f"Content-MD5: {base64_md5(document)}")
    assert inside(curl("POST", "/curled?delete", *integrity).body, "Key") == ["key2", "key3"]
    assert inside(curl("GET", "/curled").body, "Key") == ["testobject"]
    assert curl("DELETE", "/curled/testobject").status == 204
    assert curl("DELETE", "/curled").status == 204


def base64_md5(document: str) -> str:
    return base64.b64encode(hashlib.md5(document.encode()).digest()).decode()


def test_alluxio_rest_multipart(curl: Callable[..., Answer], text: Path) -> None:
    curl("PUT", "/in-parts")
    curl("PUT", "/in-parts/source", "-T", text)
    begun = curl("POST", "/in-parts/testobject?uploads")
    (upload,) = inside(begun.body, "UploadId")
    assert re.fullmatch(UUID, upload)
    this = f"/in-parts/testobject?uploadId={upload}"
    part = curl("PUT", f"{this}&partNumber=1", "-T", text)
    assert (part.status, part.headers["etag"]) == (200, f'"{MD5}"')
    assert inside(curl("GET", this).body, "Size") == ["27040"]
    assert inside(curl("GET", "/in-parts?uploads").body, "UploadId") == [upload]
    document = f"<Part><PartNumber>1</PartNumber><ETag>{MD5}</ETag></Part>"
    document = f"<CompleteMultipartUpload>{document}</CompleteMultipartUpload>"
    completed = curl("POST", this, "--data-binary", document)
    assert inside(completed.body, "Key") == ["testobject"]
    (upload,) = inside(curl("POST", "/in-parts/copy?uploads").body, "UploadId")
    this = f"/in-parts/copy?uploadId={upload}"
    source = ("-H", "x-amz-copy-source: /in-parts/source")
    copied = curl("PUT", f"{this}&partNumber=1", *source)
    assert copied.status == 200
    assert len(inside(copied.body, "ETag")) == 1
    aborted = curl("DELETE", this)
    assert (aborted.status, aborted.body) == (204, "")
    assert curl("GET", this).status == 404
    assert inside(curl("GET", "/in-parts").body, "Key") == ["source", "testobject"]


@pytest.mark.parametrize("target", ["/tagged-by-curl", "/tagged-by-curl/key"])
def test_alluxio_rest_tagging(curl: Callable[..., Answer], target: str, text: Path) -> None:
    curl("PUT", "/tagged-by-curl")
    curl("PUT", "/tagged-by-curl/key", "-T", text)
    document = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
    sent = ("--data-binary", document, "-H", f"Content-MD5: {base64_md5(document)}")
    assert curl("PUT", f"{target}?tagging", *sent).status in {200, 204}
    assert inside(curl("GET", f"{target}?tagging").body, "Value") == ["v"]
    assert curl("DELETE", f"{target}?tagging").status == 204
    assert inside(curl("GET", f"{target}?tagging").body, "Value") == []


# ------------------------------------------------------------- S1, Alluxio Enterprise AI S3 API


def test_enterprise_cli(simple: RunningNode, tmp_path: Path, text: Path) -> None:
    (tmp_path / "config").write_text("[default]\ns3 =\n    addressing_style = path\n")
    environment = cli_environment(
        tmp_path,
        AWS_CONFIG_FILE=str(tmp_path / "config"),
        AWS_ACCESS_KEY_ID="placeholder",
        AWS_SECRET_ACCESS_KEY="placeholder",
    )

    def aws(*arguments: str | Path) -> str:
        return run(program("aws"), "--endpoint-url", simple.endpoint, *arguments, env=environment)

    aws("s3", "mb", "s3://enterprise")
    assert "enterprise" in aws("s3", "ls")
    aws("s3", "cp", text, "s3://enterprise/LICENSE")
    assert "27040 LICENSE" in aws("s3", "ls", "s3://enterprise/")
    aws("s3", "cp", "s3://enterprise/LICENSE", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == TEXT


def test_enterprise_boto3(simple: RunningNode) -> None:
    s3: Any = boto3.client(
        "s3",
        aws_access_key_id="placeholder",
        aws_secret_access_key="placeholder",
        region_name="us-east-1",
        endpoint_url=simple.endpoint,
    )
    s3.create_bucket(Bucket="from-boto3")
    assert "from-boto3" in [each["Name"] for each in s3.list_buckets()["Buckets"]]


def test_enterprise_minio_py(simple: RunningNode) -> None:
    address = urlsplit(simple.endpoint).netloc
    client = Minio(address, access_key="placeholder", secret_key="placeholder", secure=False)
    client.make_bucket("from-minio")
    assert "from-minio" in [each.name for each in client.list_buckets()]
    body = os.urandom((10 << 20) + 1)
    client.put_object("from-minio", "stream", io.BytesIO(body), length=-1, part_size=10 << 20)
    answer = client.get_object("from-minio", "stream")
    try:
        assert answer.read() == body
    finally:
        answer.close()
        answer.release_conn()


def test_enterprise_pytorch_client(simple: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connector without torch: the CRT client that its data sets are made of."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "placeholder")
    connector = MountpointS3Client(
        "us-east-1", endpoint=simple.endpoint, force_path_style=True, part_size=5 << 20
    )
    s3: Any = boto3.client("s3", endpoint_url=simple.endpoint, region_name="us-east-1")
    s3.create_bucket(Bucket="training")
    samples = {f"set/{number}": os.urandom(number << 20) for number in (0, 1, 12)}
    for key, body in samples.items():
        stream = connector.put_object("training", key)
        stream.write(body)
        stream.close()
    pages = connector.list_objects("training", "set/", max_keys=2)
    found = [each.key for page in pages for each in page.object_info]
    assert sorted(found) == sorted(samples)
    for key, body in samples.items():
        assert b"".join(connector.get_object("training", key)) == body
        assert connector.head_object("training", key).size == len(body)
    ranged = connector.get_object("training", "set/12", start=7_000_000, end=8_000_000)
    assert b"".join(ranged) == samples["set/12"][7_000_000:8_000_000]
    connector.copy_object("training", "set/1", "training", "copy")
    connector.delete_object("training", "set/1")
    assert b"".join(connector.get_object("training", "copy")) == samples["set/1"]


# ----------------------------------------------------------------- S2, Apache Ozone S3 gateway


def test_ozone_without_security(simple: RunningNode, tmp_path: Path) -> None:
    environment = cli_environment(
        tmp_path,
        AWS_ACCESS_KEY_ID="testuser/scm@EXAMPLE.COM",
        AWS_SECRET_ACCESS_KEY="whatever",
    )
    start = (program("aws"), "--endpoint", simple.endpoint)
    run(*start, "s3api", "create-bucket", "--bucket=buckettest", env=environment)
    (tmp_path / "testfile").write_bytes(TEXT)
    run(*start, "s3", "cp", tmp_path / "testfile", "s3://buckettest/testfile", env=environment)
    assert "testfile" in run(*start, "s3", "ls", "s3://buckettest", env=environment)


def test_ozone_with_security(signed: RunningNode, tmp_path: Path) -> None:
    principal = "testuser/scm@EXAMPLE.COM"
    printed = signed.forebay("s3", "getsecret", "-u", principal).stdout
    given = dict(line.split("=", 1) for line in printed.split())
    assert given["awsAccessKey"] == principal
    assert re.fullmatch("[0-9a-f]{64}", given["awsSecret"])
    environment = cli_environment(
        tmp_path,
        AWS_ACCESS_KEY_ID=given["awsAccessKey"],
        AWS_SECRET_ACCESS_KEY=given["awsSecret"],
    )
    start = (program("aws"), "s3api", "--endpoint", signed.endpoint)
    run(*start, "create-bucket", "--bucket", "bucket1", env=environment)
    listed = json.loads(run(*start, "list-buckets", env=environment))
    assert [each["Name"] for each in listed["Buckets"]] == ["bucket1"]

    # A bucket is made elsewhere, and seen under another name.
    signed.forebay("volumes", "list")
    signed.forebay("buckets", "create", "elsewhere")
    signed.forebay("buckets", "link", "elsewhere", "common-bucket")
    assert "common-bucket" in signed.forebay("buckets", "list").stdout

    assert (
        "S3 secret revoked." in signed.forebay("s3", "revokesecret", "-y", "-u", principal).stdout
    )
    with pytest.raises(AssertionError, match="InvalidAccessKeyId"):
        run(*start, "list-buckets", env=environment)


# ------------------------------------------------------------------- S3, VAST guide to boto3


@dataclass(frozen=True)
class Person:
    """A user of the guide: how boto3 is told of it, and its canonical id."""

    arguments: dict[str, Any]
    id: str

    def client(self) -> Any:
        make: Any = boto3.client
        return make("s3", **self.arguments)

    def resource(self) -> Any:
        make: Any = boto3.resource
        return make("s3", **self.arguments)


def person(node: RunningNode, name: str) -> Person:
    made = json.loads(node.forebay("users", "create", name, "--json").stdout)
    key = json.loads(node.forebay("keys", "create", name, "--json").stdout)
    arguments = {
        "use_ssl": False,
        "endpoint_url": node.endpoint,
        "aws_access_key_id": key["access_key"],
        "aws_secret_access_key": key["secret_key"],
        "region_name": "vast-1",
        "config": Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    }
    return Person(arguments, made["canonical_id"])


@pytest.fixture(scope="module")
def owner(signed: RunningNode) -> Person:
    return person(signed, "owner")


@pytest.fixture(scope="module")
def friend(signed: RunningNode) -> Person:
    return person(signed, "friend")


def acl(owner: Person, friend: Person, group: str, permission: str) -> dict[str, Any]:
    """The document of the guide: a user with everything, a group with something."""
    return {
        "Grants": [
            {
                "Grantee": {"ID": friend.id, "Type": "CanonicalUser"},
                "Permission": "FULL_CONTROL",
            },
            {
                "Grantee": {"Type": "Group", "URI": GROUPS + group},
                "Permission": permission,
            },
        ],
        "Owner": {"DisplayName": "owner", "ID": owner.id},
    }


def granted(grants: list[dict[str, Any]]) -> set[tuple[str, str]]:
    named = (each["Grantee"] for each in grants)
    who = [grantee.get("DisplayName") or grantee["URI"] for grantee in named]
    return set(zip(who, [each["Permission"] for each in grants], strict=True))


def test_vast_buckets_by_client(owner: Person, friend: Person) -> None:
    s3 = owner.client()
    s3.create_bucket(Bucket="client-made")
    s3.create_bucket(Bucket="open-to-read", ACL="public-read")
    mine = [each["Name"] for each in s3.list_buckets()["Buckets"]]
    assert {"client-made", "open-to-read"} <= set(mine)
    theirs = [each["Name"] for each in friend.client().list_buckets()["Buckets"]]
    assert not {"client-made", "open-to-read"} & set(theirs)
    s3.head_bucket(Bucket="client-made")
    with pytest.raises(s3.exceptions.ClientError, match="403"):
        friend.client().head_bucket(Bucket="client-made")
    wanted = acl(owner, friend, "AuthenticatedUsers", "READ")
    s3.put_bucket_acl(Bucket="client-made", AccessControlPolicy=wanted)
    found = s3.get_bucket_acl(Bucket="client-made")
    assert found["Owner"]["ID"] == owner.id
    assert granted(found["Grants"]) == {
        ("friend", "FULL_CONTROL"),
        (f"{GROUPS}AuthenticatedUsers", "READ"),
    }
    friend.client().put_object(Bucket="client-made", Key="theirs", Body=b"x")
    assert keys(s3.list_objects(Bucket="client-made", MaxKeys=1, Prefix="th")) == ["theirs"]
    assert "Status" not in s3.get_bucket_versioning(Bucket="client-made")
    (version,) = s3.list_object_versions(Bucket="client-made", Prefix="th", MaxKeys=5)["Versions"]
    assert (version["Key"], version["VersionId"], version["IsLatest"]) == ("theirs", "null", True)
    with pytest.raises(s3.exceptions.ClientError, match="BucketNotEmpty"):
        s3.delete_bucket(Bucket="client-made")
    s3.delete_objects(Bucket="client-made", Delete={"Objects": [{"Key": "theirs"}]})
    s3.delete_bucket(Bucket="client-made")


def test_vast_objects_by_client(owner: Person, friend: Person, tmp_path: Path) -> None:
    s3 = owner.client()
    s3.create_bucket(Bucket="objects")
    body = bytes(range(100))
    s3.put_object(Bucket="objects", Key="bytes", Body=body, Metadata={"colour": "blue"})
    (tmp_path / "file").write_bytes(TEXT)
    with (tmp_path / "file").open("rb") as file:
        s3.put_object(Bucket="objects", Key="file", Body=file)
    assert s3.get_object(Bucket="objects", Key="file")["Body"].read() == TEXT
    ranged = s3.get_object(Bucket="objects", Key="bytes", Range="bytes=32-64")
    assert ranged["Body"].read() == body[32:65]
    assert s3.head_object(Bucket="objects", Key="bytes")["Metadata"] == {"colour": "blue"}
    s3.copy_object(Bucket="objects", Key="copy", CopySource="objects/bytes")
    wanted = acl(owner, friend, "AllUsers", "WRITE")
    s3.put_object_acl(Bucket="objects", Key="bytes", AccessControlPolicy=wanted)
    found = s3.get_object_acl(Bucket="objects", Key="bytes")
    assert (found["Owner"]["ID"], granted(found["Grants"])) == (
        owner.id,
        {("friend", "FULL_CONTROL"), (f"{GROUPS}AllUsers", "WRITE")},
    )
    assert friend.client().get_object(Bucket="objects", Key="bytes")["Body"].read() == body
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        friend.client().get_object(Bucket="objects", Key="copy")
    doomed = {"Objects": [{"Key": "bytes"}, {"Key": "copy"}]}
    deleted = s3.delete_objects(Bucket="objects", Delete=doomed)["Deleted"]
    assert sorted(each["Key"] for each in deleted) == ["bytes", "copy"]


def test_vast_multipart_by_client(owner: Person) -> None:
    s3 = owner.client()
    s3.create_bucket(Bucket="uploads")
    first, second = os.urandom(5 << 20), os.urandom(1 << 20)
    s3.put_object(Bucket="uploads", Key="source", Body=second)
    this = {"Bucket": "uploads", "Key": "assembled"}
    this["UploadId"] = s3.create_multipart_upload(**this)["UploadId"]
    sent = s3.upload_part(**this, PartNumber=1, Body=first)
    copied = s3.upload_part_copy(**this, PartNumber=2, CopySource="uploads/source")
    assert [each["Size"] for each in s3.list_parts(**this)["Parts"]] == [5 << 20, 1 << 20]
    tags = [sent["ETag"], copied["CopyPartResult"]["ETag"]]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
    s3.complete_multipart_upload(**this, MultipartUpload={"Parts": parts})
    got = s3.get_object(Bucket="uploads", Key="assembled")["Body"].read()
    assert got == first + second
    this["UploadId"] = s3.create_multipart_upload(Bucket="uploads", Key="assembled")["UploadId"]
    s3.upload_part(**this, PartNumber=1, Body=second)
    s3.abort_multipart_upload(**this)
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchUpload"):
        s3.upload_part(**this, PartNumber=2, Body=second)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="uploads")


def test_vast_buckets_and_objects_by_resource(owner: Person, friend: Person) -> None:
    s3 = owner.resource()
    bucket = s3.Bucket("resourceful")
    bucket.create()
    bucket.create()  # one's own: it is there
    assert ("resourceful", True) in [(b.name, bool(b.creation_date)) for b in s3.buckets.all()]
    bucket.Acl().put(AccessControlPolicy=acl(owner, friend, "AllUsers", "READ"))
    found = s3.BucketAcl("resourceful")
    assert found.owner["ID"] == owner.id
    assert ("friend", "FULL_CONTROL") in granted(list(found.grants))
    bucket.put_object(Key="one", Body=TEXT, Metadata={"colour": "blue"})
    one = s3.Object("resourceful", "one")
    assert (one.metadata, one.get()["Body"].read()) == ({"colour": "blue"}, TEXT)
    assert one.get(Range="bytes=32-64")["Body"].read() == TEXT[32:65]
    s3.Object("resourceful", "two").copy_from(CopySource="resourceful/one")
    assert [(o.key, bool(o.last_modified)) for o in bucket.objects.all()] == [
        ("one", True),
        ("two", True),
    ]
    one.Acl().put(AccessControlPolicy=acl(owner, friend, "AllUsers", "READ"))
    acl_of_one = s3.ObjectAcl("resourceful", "one")
    assert (f"{GROUPS}AllUsers", "READ") in granted(list(acl_of_one.grants))
    assert acl_of_one.owner["ID"] == owner.id
    assert s3.BucketVersioning("resourceful").status is None
    versions = [(each.object_key, each.id) for each in bucket.object_versions.all()]
    assert versions == [("one", "null"), ("two", "null")]
    bucket.delete_objects(Delete={"Objects": [{"Key": "one"}, {"Key": "two"}]})
    bucket.delete()
    assert "resourceful" not in [each.name for each in s3.buckets.all()]


def test_vast_multipart_by_resource(owner: Person) -> None:
    s3 = owner.resource()
    bucket = s3.create_bucket(Bucket="resource-parts")
    bucket.put_object(Key="source", Body=TEXT)
    upload = bucket.Object("assembled").initiate_multipart_upload()
    first = os.urandom(5 << 20)
    sent = upload.Part(1).upload(Body=first)
    copied = upload.Part(2).copy_from(CopySource="resource-parts/source")
    assert [(part.part_number, part.size) for part in upload.parts.all()] == [
        (1, 5 << 20),
        (2, 27040),
    ]
    assert [each.id for each in bucket.multipart_uploads.all()] == [upload.id]
    tags = [sent["ETag"], copied["CopyPartResult"]["ETag"]]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
    upload.complete(MultipartUpload={"Parts": parts})
    assert bucket.Object("assembled").get()["Body"].read() == first + TEXT
    bucket.Object("abandoned").initiate_multipart_upload().abort()
    assert list(bucket.multipart_uploads.all()) == []


@pytest.mark.parametrize("mode", ["ObjectWriter", "BucketOwnerEnforced"])
def test_vast_ownership(owner: Person, friend: Person, mode: str) -> None:
    s3, name = owner.client(), f"owned-{mode.lower()}"
    s3.create_bucket(Bucket=name)
    rules = {"Rules": [{"ObjectOwnership": mode}]}
    s3.put_bucket_ownership_controls(Bucket=name, OwnershipControls=rules)
    s3.put_object(Bucket=name, Key="with-full", Body=b"", ACL="bucket-owner-full-control")
    if mode == "ObjectWriter":
        s3.put_object(Bucket=name, Key="readable", Body=b"", ACL="public-read")
        return
    with pytest.raises(s3.exceptions.ClientError, match="AccessControlListNotSupported"):
        s3.put_object(Bucket=name, Key="readable", Body=b"", ACL="public-read")
