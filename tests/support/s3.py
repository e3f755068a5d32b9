"""A real S3 gateway over a real volume and a posix store, in this process, on a free port.

The gateway's loop runs in a thread of its own; the test talks to it over TCP, and looks at the
volume directly to see what was, or was not, stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.client import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from cache.config import CacheConfig, VolumeConfig
from cache.keys import AccessKey
from cache.records import WriteMode
from cache.stores.base import Store
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from s3api.config import AuthConfig, GatewayConfig
from s3api.gateway import Gateway
from s3api.listening import Listener

REGION = "us-east-1"
USER = "tester"
_WAIT_S = 60.0
_numbers = count(1)


@dataclass(frozen=True)
class Door:
    """A serving gateway, and what is behind it."""

    port: int
    volume: Volume
    key: AccessKey
    store: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.key.access_key, self.key.secret)

    def client(self, **config: Any) -> Any:
        """A boto3 client with the door's key."""
        return boto3.client("s3", **self.boto_arguments(**config))

    def boto_arguments(self, **config: Any) -> dict[str, Any]:
        settings = {"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 1}, **config}
        return {
            "endpoint_url": self.url,
            "aws_access_key_id": self.key.access_key,
            "aws_secret_access_key": self.key.secret,
            "region_name": REGION,
            "config": Config(signature_version="s3v4", **settings),
        }

    def environment(self) -> dict[str, str]:
        """For programs that take their credentials from the environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.key.access_key,
            "AWS_SECRET_ACCESS_KEY": self.key.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def sign(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> dict[str, str]:
        """The headers of a request, signed by botocore."""
        request = AWSRequest(method, self.url + target, headers=dict(headers or {}), data=body)
        request.headers["Host"] = self.host
        S3SigV4Auth(self.credentials, "s3", REGION).add_auth(request)
        return dict(request.headers.items())

    def presign(
        self,
        method: str,
        target: str,
        *,
        expires_s: int = 60,
        headers: dict[str, str] | None = None,
    ) -> str:
        """A presigned request target, by botocore."""
        request = AWSRequest(
            method, self.url + target, headers={"Host": self.host, **(headers or {})}
        )
        S3SigV4QueryAuth(self.credentials, "s3", REGION, expires=expires_s).add_auth(request)
        url = str(request.url)
        return url.removeprefix(self.url)

    def request(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        sign: bool = True,
    ) -> Answer:
        """Send one request on a connection of its own; by default signed."""
        sent = self.sign(method, target, headers, body) if sign else dict(headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_WAIT_S)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            sent.setdefault("Host", self.host)
            lower = {name.lower() for name in sent}
            framed = lower & {"content-length", "transfer-encoding"}
            if not framed and (body or method in ("PUT", "POST")):
                sent["Content-Length"] = str(len(body))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def raw(self, wire: bytes, *, close_write: bool = False) -> bytes:
        """Send bytes as they are and return all that comes back until the connection closes, or
        until an answer with Content-Length is whole."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_WAIT_S) as connection:
            connection.sendall(wire)
            if close_write:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def new_bucket(self, owner: str = USER) -> str:
        """The name of an empty bucket, made without a request."""
        return self.volume.buckets.create(f"bucket-{next(_numbers)}", owner).name

    def is_empty(self, bucket: str) -> bool:
        """Nothing is in the bucket, nor on its way into it."""
        listing = self.volume.objects.list(bucket)
        return not listing.entries and not self.volume.uploads.list(bucket)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The S3 error code; "" if the answer is not an error document."""
        _, found, rest = self.body.partition(b"<Code>")
        return rest.partition(b"</Code>")[0].decode() if found else ""


def read_answer(connection: socket.socket) -> bytes:
    """One answer from a connection."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        if found and not head.startswith(b"HTTP/1.1 100"):
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                None,
            )
            if length is not None and len(body) >= length:
                return received
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def parse_answer(wire: bytes) -> Answer:
    """The answer in bytes from Door.raw()."""
    head, _, body = wire.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    return Answer(int(lines[0].split(" ")[1]) if lines[0] else 0, headers, body)


def code(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    """The code of the error that boto3 raises for a call."""
    with pytest.raises(ClientError) as refusal:
        call(*arguments, **more)
    return str(refusal.value.response["Error"]["Code"])


def refused(code: str, status: int, call: Callable[..., Any], **arguments: Any) -> dict[str, str]:
    """Assert that a call is answered with this error; the headers of the answer."""
    with pytest.raises(ClientError) as refusal:
        call(**arguments)
    answer: Any = refusal.value.response
    assert answer["Error"]["Code"] == code
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    return dict(answer["ResponseMetadata"]["HTTPHeaders"])


@contextlib.contextmanager
def serving(
    directory: Path,
    *,
    auth: AuthConfig | None = None,
    write_mode: WriteMode = WriteMode.WRITE_BACK,
    capacity_bytes: int = 1 << 30,
    behind: Store | None = None,
    **settings: Any,
) -> Iterator[Door]:
    """A gateway over a fresh volume below `directory`; settings are those of GatewayConfig.
    behind: a store of the caller's, instead of a directory."""
    store = directory / "store"
    store.mkdir()
    stores = {"local": behind or PosixStore(PosixStoreConfig(path=store))}
    config = VolumeConfig(
        CacheConfig(state_dir=directory / "state", capacity_bytes=capacity_bytes),
        creatable_store="local",
        creatable_write_mode=write_mode,
    )
    gateway_config = dataclasses.replace(GatewayConfig(port=0), **settings)
    with contextlib.closing(Volume.open(config, stores)) as volume:
        key = volume.keys.create(USER)
        gateway = Gateway(volume, gateway_config, auth or AuthConfig(mode="sigv4"))
        with running_gateway(gateway, gateway_config.address) as port:
            yield Door(port, volume, key, store)


@contextlib.contextmanager
def running_gateway(gateway: Gateway, address: str) -> Iterator[int]:
    """The gateway's loop in a thread; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway")
    thread.start()
    listening = Listener(address, 0).socket()
    try:
        asyncio.run_coroutine_threadsafe(gateway.start(listening), loop).result(_WAIT_S)
        yield listening.getsockname()[1]
        asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result(_WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        # As asyncio.run() does: what was only waiting for its end gets it.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
        listening.close()


# ------------------------------------------------------------------ fixtures of tests by boto3


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway as it is configured by default; where another is needed, the test has its own."""
    with serving(tmp_path_factory.mktemp("door"), access_log="off") as running:
        yield running


@pytest.fixture(scope="module")
def client(door: Door) -> Any:
    return door.client()


@pytest.fixture
def bucket(door: Door) -> str:
    """An empty bucket of the test's own."""
    return door.new_bucket()
