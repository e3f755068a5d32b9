"""Answers that take long begin before they are known, as Amazon's do."""

from __future__ import annotations

import gc
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from botocore.exceptions import ClientError

from cache.errors import StoreUnavailable
from cache.objects import Objects
from s3api import patience
from tests.support.s3 import Door, serving

WAIT_S = 60.0


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    with serving(tmp_path) as door:
        door.client().create_bucket(Bucket="bucket")
        door.client().put_object(Bucket="bucket", Key="source", Body=b"bytes")
        yield door


@pytest.fixture
def is_late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when an answer has brought white space twice."""
    event = threading.Event()
    spaces: list[bytes] = []

    class Watched(web.StreamResponse):
        async def write(self, data: bytes | bytearray | memoryview) -> None:
            await super().write(data)
            if data == b"\n":
                spaces.append(data)
            if len(spaces) == 2:
                event.set()

    watched = SimpleNamespace(StreamResponse=Watched, Response=web.Response)
    monkeypatch.setattr(patience, "web", watched)
    return event


COPY = {"x-amz-copy-source": "bucket/source"}


def test_a_late_copy_is_answered_with_white_space_ahead(
    door: Door, is_late: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Objects.copy

    def slowly(*arguments: Any, **named: Any) -> Any:
        assert is_late.wait(WAIT_S)
        return copy(*arguments, **named)

    monkeypatch.setattr(Objects, "copy", slowly)
    answer = door.request("PUT", "/bucket/copy", COPY)
    assert answer.status == 200
    head, _, rest = answer.body.partition(b"?>\n")
    assert head == b'<?xml version="1.0" encoding="UTF-8"'
    assert rest.startswith(b"\n\n")
    assert rest.lstrip().startswith(b"<CopyObjectResult")
    assert door.client().get_object(Bucket="bucket", Key="copy")["Body"].read() == b"bytes"


def test_what_fails_late_is_an_error_to_clients(
    door: Door, is_late: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        assert is_late.wait(WAIT_S)
        raise StoreUnavailable("gone")

    monkeypatch.setattr(Objects, "copy", fail)
    answer = door.request("PUT", "/bucket/copy", COPY)
    assert (answer.status, answer.code) == (200, "ServiceUnavailable")
    with pytest.raises(ClientError, match="ServiceUnavailable"):
        door.client().copy_object(
            Bucket="bucket", Key="copy", CopySource={"Bucket": "bucket", "Key": "source"}
        )


def test_what_is_refused_at_once_has_its_status(door: Door) -> None:
    answer = door.request("PUT", "/bucket/copy", {"x-amz-copy-source": "bucket/nothing"})
    assert (answer.status, answer.code) == (404, "NoSuchKey")


def test_a_failure_of_which_nobody_is_left_to_be_told_is_seen(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def fail(*arguments: Any, **named: Any) -> None:
        assert go_on.wait(WAIT_S)
        raise StoreUnavailable("out of reach")

    class ClientGone(web.StreamResponse):
        async def write(self, data: bytes | bytearray | memoryview) -> None:
            go_on.set()
            raise ConnectionResetError("the client is gone")

    monkeypatch.setattr(Objects, "copy", fail)
    with monkeypatch.context() as gone:
        gone.setattr(patience, "web", SimpleNamespace(StreamResponse=ClientGone))
        with pytest.raises((http.client.HTTPException, OSError)):
            door.request("PUT", "/bucket/copy", COPY)
    assert door.request("GET", "/bucket/source").status == 200  # its loop has gone on
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert "out of reach" in caplog.text
