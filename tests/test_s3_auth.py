"""The modes of authentication, over real connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import ClientError

from s3api.auth import Authenticator
from s3api.config import AuthConfig
from s3api.sigv4 import STREAMING_SIGNED
from tests.support.s3 import REGION, Door, serving
from tests.support.streaming import streaming_body


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("simple")
    with serving(directory, auth=AuthConfig(mode="simple"), access_log="off") as door:
        door.volume.buckets.create("bucket", "testuser")
        yield door


def with_authorization(door: Door, value: str) -> tuple[int, str]:
    answer = door.request("GET", "/bucket", {"Authorization": value}, sign=False)
    return answer.status, answer.code


@pytest.mark.parametrize(
    "value",
    [
        "AWS4-HMAC-SHA256 Credential=testuser/... SignedHeaders=... Signature=...",
        "AWS4-HMAC-SHA256 Credential=testuser/...",
        "AWS4-HMAC-SHA256 Credential=testuser/",
        "AWS4-HMAC-SHA256 Credential=testuser/20260101/x/s3/aws4_request,Signature=b",
        "AWS4-HMAC-SHA256 SignedHeaders=a, Credential=testuser/x, Signature=b",
    ],
)
def test_simple_believes_the_header(simple: Door, value: str) -> None:
    assert with_authorization(simple, value) == (200, "")


@pytest.mark.parametrize(
    "value",
    ["", "x", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=", "AWS4-HMAC-SHA256 Credential=/",
     "AWS4-HMAC-SHA256 SignedHeaders=x", "Basic dTpw", "AWS testuser:signature"],
)  # fmt: skip
def test_simple_refuses_who_is_nobody(simple: Door, value: str) -> None:
    assert with_authorization(simple, value) == (403, "InvalidAccessKeyId")


def test_simple_needs_a_name(simple: Door) -> None:
    assert simple.request("GET", "/bucket", sign=False).code == "InvalidAccessKeyId"


def test_simple_takes_any_secret(simple: Door) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=simple.url,
        aws_access_key_id="host/user@REALM",
        aws_secret_access_key="anything",
        region_name="anywhere",
    )
    client.create_bucket(
        Bucket="principal", CreateBucketConfiguration={"LocationConstraint": "anywhere"}
    )
    assert simple.volume.buckets.get("principal").owner == "host/user@REALM"
    assert client.list_buckets()["Owner"]["DisplayName"] == "host/user@REALM"
    assert client.get_bucket_location(Bucket="principal")["LocationConstraint"] == "anywhere"


def test_simple_decodes_streaming_bodies(simple: Door) -> None:
    headers, body = streaming_body(simple, "/bucket/key", STREAMING_SIGNED, b"x" * 70_000)
    assert simple.request("PUT", "/bucket/key", headers, body, sign=False).status == 200
    assert simple.volume.objects.get("bucket", b"key").size == 70_000


def test_sigv4_refuses_what_simple_believes(tmp_path: Path) -> None:
    with serving(tmp_path, access_log="off") as door:
        value = "AWS4-HMAC-SHA256 Credential=testuser/... SignedHeaders=... Signature=..."
        status, code = with_authorization(door, value)
        assert (status, code) == (400, "AuthorizationHeaderMalformed")
        anonymous = boto3.client(
            "s3",
            endpoint_url=door.url,
            region_name=REGION,
            config=Config(signature_version=UNSIGNED),
        )
        with pytest.raises(ClientError, match="AccessDenied"):
            anonymous.list_buckets()


def test_any_region_unless_it_is_checked(tmp_path: Path) -> None:
    for name, check_region in (("free", False), ("checked", True)):
        directory = tmp_path / name
        directory.mkdir()
        with serving(directory, check_region=check_region, access_log="off") as door:
            arguments = door.boto_arguments() | {"region_name": "eu-central-1"}
            client = boto3.client("s3", **arguments)
            if check_region:
                with pytest.raises(ClientError, match="AuthorizationHeaderMalformed"):
                    client.list_buckets()
            else:
                client.list_buckets()


class Keys:
    def __init__(self) -> None:
        self.made: list[object] = []

    def get(self, access_key: str) -> None:
        return None

    def list(self) -> list[object]:
        return self.made


def mode(address: str, keys: Keys, name: str = "auto") -> str:
    config = AuthConfig(mode=name)  # type: ignore[arg-type]
    return Authenticator(config, keys, address=address, region=None).mode  # type: ignore[arg-type]


def test_auto_is_simple_only_at_home_and_without_keys() -> None:
    assert mode("127.0.0.1", Keys()) == "simple"
    assert mode("::1", Keys()) == "simple"
    assert mode("localhost", Keys()) == "simple"
    assert mode("0.0.0.0", Keys()) == "sigv4"
    assert mode("192.0.2.1", Keys()) == "sigv4"


def test_auto_never_goes_back_to_simple() -> None:
    keys = Keys()
    keeper = Authenticator(AuthConfig(), keys, address="127.0.0.1", region=None)  # type: ignore[arg-type]
    assert keeper.mode == "simple"
    keys.made.append("key")
    assert keeper.mode == "sigv4"
    keys.made.clear()
    assert keeper.mode == "sigv4", "revoking the last key must not open the door"


def test_simple_is_refused_on_a_network() -> None:
    with pytest.raises(ValueError, match="allow_simple_remote"):
        mode("0.0.0.0", Keys(), "simple")
    allowed = AuthConfig(mode="simple", allow_simple_remote=True)
    assert Authenticator(allowed, Keys(), address="0.0.0.0", region=None).mode == "simple"  # type: ignore[arg-type]
