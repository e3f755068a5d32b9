"""What only a server as a store can get wrong: outages, and answers that are not true."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.utils import parse_timestamp

from cache.config import MIB, ConfigError
from cache.errors import (
    StoreChanged,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreOverQuota,
    StoreRefused,
    StoreUnavailable,
)
from cache.stores import s3_probe
from cache.stores.base import ABSENT, StoredAttributes
from cache.stores.s3 import S3Store, S3StoreConfig
from cache.stores.s3_client import time_of
from cache.stores.s3_requests import ObjectRequests
from cache.stores.s3_uploads import Multipart
from tests.support.faulty_proxy import Answer, FaultyProxy, Request, error, faulty_proxy
from tests.support.stores import make_bucket, moto_backend, s3_config
from tests.support.waiting import wait_until

PLAIN = StoredAttributes()
BODY = b"0123456789" * 1000


@pytest.mark.parametrize(
    "text",
    [
        "Sat, 21 Nov 2026 16:00:07 GMT",
        "Saturday, 21-Nov-26 16:00:07 GMT",
        "2026-11-21T16:00:07.123Z",
        "2026-11-21T16:00:07Z",
        "2026-11-21T16:00:07+02:00",
        "2026-11-21T16:00:07",
        "20261121T160007Z",
        "1795276807",
    ],
)
def test_times_are_read_as_botocore_reads_them(text: str) -> None:
    assert time_of(text).timestamp() == parse_timestamp(text).timestamp()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3StoreConfig]:
    with moto_backend(tmp_path_factory.mktemp("moto")) as backend:
        assert isinstance(backend.config, S3StoreConfig)
        yield backend.config


@pytest.fixture
def direct(config: S3StoreConfig) -> Iterator[S3Store]:
    store = S3Store(config)
    yield store
    store.close()


@pytest.fixture
def behind(config: S3StoreConfig) -> Iterator[tuple[FaultyProxy, S3StoreConfig]]:
    """The proxy, and the configuration of a store behind it."""
    upstream = urlsplit(config.endpoint_url).port
    assert upstream is not None
    with faulty_proxy(upstream) as (proxy, port):
        yield (
            proxy,
            dataclasses.replace(
                config,
                endpoint_url=f"http://127.0.0.1:{port}",
                deadline_s=120.0,
                connect_timeout_s=0.5,
                conditional_writes="native",
            ),
        )


@pytest.fixture
def proxied(behind: tuple[FaultyProxy, S3StoreConfig]) -> Iterator[tuple[FaultyProxy, S3Store]]:
    proxy, config = behind
    store = S3Store(config)
    yield proxy, store
    store.close()


@pytest.fixture
def impatient(behind: tuple[FaultyProxy, S3StoreConfig]) -> Iterator[S3Store]:
    """The store of `proxied`, for a client that waits for no answer for long."""
    store = S3Store(dataclasses.replace(behind[1], deadline_s=4.0))
    yield store
    store.close()


def put(
    store: S3Store, key: bytes, body: bytes = BODY, attributes: StoredAttributes = PLAIN
) -> str:
    return store.put(key, [body], len(body), attributes).version


def content(store: S3Store, key: bytes, version: str | None = None) -> bytes:
    return b"".join(store.read(key, 0, store.head(key).size_bytes, version))


# No answer --------------------------------------------------------------------------------------


def test_server_that_is_not_there_is_unavailable_quickly() -> None:
    store = S3Store(s3_config(1, "bucket", deadline_s=10.0))
    began_s = time.monotonic()
    for call in (
        lambda: store.head(b"a"),
        lambda: put(store, b"a"),
        lambda: list(store.read(b"a", 0, 1, None)),
        lambda: store.list(b"", delimiter=False),
        lambda: store.delete(b"a"),
        lambda: store.rename(b"a", b"b"),
        lambda: store.begin_parts(b"a", PLAIN),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    assert time.monotonic() - began_s < 60
    store.close()


def test_server_that_hangs_is_given_up_at_the_deadline(
    proxied: tuple[FaultyProxy, S3Store], impatient: S3Store
) -> None:
    proxy, store = proxied
    put(store, b"hang")
    proxy.fault = lambda _, answer: dataclasses.replace(answer, hangs=True)
    for call in (
        lambda: impatient.head(b"hang"),
        lambda: list(impatient.read(b"hang", 0, 5, None)),
    ):
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            call()
        assert time.monotonic() - began_s < 40


def test_answers_that_trickle_are_given_up_at_the_deadline(
    proxied: tuple[FaultyProxy, S3Store], impatient: S3Store
) -> None:
    proxy, store = proxied
    put(store, b"slow")
    proxy.fault = lambda _, answer: dataclasses.replace(answer, pause_s=0.5)
    for call in (
        lambda: list(impatient.read(b"slow", 0, len(BODY), None)),
        lambda: impatient.list(b"slow", delimiter=False),
    ):
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            call()
        assert time.monotonic() - began_s < 40


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error(500, "InternalError"), StoreUnavailable),
        (error(503, "SlowDown"), StoreUnavailable),
        (error(429, "TooManyRequests"), StoreUnavailable),
        (error(400, "RequestTimeout"), StoreUnavailable),
        (error(404, "NoSuchBucket"), StoreUnavailable),
        (Answer(404, {"Content-Type": "text/html"}, b"<html>not found</html>"), StoreUnavailable),
        (Answer(502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>"), StoreUnavailable),
        (error(403, "AccessDenied"), StoreRefused),
        (error(403, "RequestTimeTooSkewed"), StoreRefused),
        (error(400, "ExpiredToken"), StoreRefused),
        (error(301, "PermanentRedirect"), StoreRefused),
        (error(501, "NotImplemented"), StoreUnavailable),
        (error(404, "NoSuchKey"), StoreNotFound),
        (error(403, "QuotaExceeded"), StoreOverQuota),
        (error(507, "XMinioStorageFull"), StoreFull),
        (error(412, "PreconditionFailed"), StoreChanged),
        (error(409, "ConditionalRequestConflict"), StoreChanged),
        (error(400, "BadDigest"), StoreCorrupt),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_error_answers_have_their_meaning(
    proxied: tuple[FaultyProxy, S3Store], answer: Answer, expected: type[StoreError]
) -> None:
    proxy, store = proxied
    proxy.fault = lambda *_: dataclasses.replace(answer, headers=dict(answer.headers))
    with pytest.raises(expected) as caught:
        put(store, b"errors")
    assert type(caught.value) is expected


def test_missing_bucket_is_an_outage_not_an_empty_store(config: S3StoreConfig) -> None:
    store = S3Store(dataclasses.replace(config, bucket="nobody-made-it"))
    for call in (
        lambda: store.head(b"a"),
        lambda: list(store.read(b"a", 0, 1, None)),
        lambda: store.list(b"", delimiter=False),
        lambda: put(store, b"a"),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    store.close()


# Answers that are not true ----------------------------------------------------------------------


def _wrong_etag(request: Request, answer: Answer) -> Answer | None:
    if request.method != "PUT":
        return None
    return dataclasses.replace(
        answer, headers={**answer.headers, "ETag": '"' + hashlib.md5(b"other").hexdigest() + '"'}
    )


def test_put_whose_etag_is_wrong_is_not_acknowledged(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    proxy, store = proxied
    proxy.fault = _wrong_etag
    with pytest.raises(StoreCorrupt):
        put(store, b"etag")
    with pytest.raises(StoreCorrupt):
        put(store, b"etag-large", os.urandom(6 * MIB))
    parts = store.begin_parts(b"etag-parts", PLAIN)
    with pytest.raises(StoreCorrupt):
        parts.write_part(1, [b"x"], 1)
    parts.abort()


def test_short_body_is_corrupt(proxied: tuple[FaultyProxy, S3Store]) -> None:
    proxy, store = proxied
    version = put(store, b"short")
    proxy.fault = lambda request, answer: (
        dataclasses.replace(answer, body_sent=answer.body[:5000])
        if request.method == "GET"
        else None
    )
    received: list[bytes] = []
    with pytest.raises((StoreCorrupt, StoreUnavailable)):
        received.extend(store.read(b"short", 0, len(BODY), version))
    assert BODY.startswith(b"".join(received))


def test_body_shorter_than_the_range_is_corrupt(proxied: tuple[FaultyProxy, S3Store]) -> None:
    proxy, store = proxied
    version = put(store, b"range")

    def shorten(request: Request, answer: Answer) -> Answer | None:
        if request.method != "GET":
            return None
        headers = {k: v for k, v in answer.headers.items() if k.lower() != "content-length"}
        return dataclasses.replace(answer, headers=headers, body=answer.body[:100])

    proxy.fault = shorten
    with pytest.raises(StoreCorrupt):
        list(store.read(b"range", 0, len(BODY), version))


def test_flipped_byte_of_a_whole_object_is_corrupt(proxied: tuple[FaultyProxy, S3Store]) -> None:
    proxy, store = proxied
    version = put(store, b"flip")
    proxy.fault = lambda request, answer: (
        dataclasses.replace(answer, body=b"X" + answer.body[1:])
        if request.method == "GET"
        else None
    )
    with pytest.raises(StoreCorrupt):
        list(store.read(b"flip", 0, len(BODY), version))


@pytest.mark.parametrize("operation", ["complete", "copy"])
def test_error_inside_a_200_is_an_error(
    proxied: tuple[FaultyProxy, S3Store], operation: str
) -> None:
    proxy, store = proxied
    version = put(store, b"source")

    def fail_late(request: Request, answer: Answer) -> Answer | None:
        is_copy = "x-amz-copy-source" in {name.lower() for name in request.headers}
        is_complete = request.method == "POST" and "uploadId=" in request.path
        return error(200, "InternalError") if is_copy or is_complete else None

    proxy.fault = fail_late
    calls = {
        "copy": lambda: store.copy(b"source", version, b"target", PLAIN),
        "complete": lambda: put(store, b"target", os.urandom(6 * MIB)),
    }
    with pytest.raises(StoreUnavailable):
        calls[operation]()


@pytest.mark.parametrize("is_large", [False, True])
def test_lost_answer_to_a_conditional_write_is_recognised(
    proxied: tuple[FaultyProxy, S3Store], is_large: bool
) -> None:
    """The server wrote, its answer was lost, the retry fails the condition against our own
    bytes: that is success."""
    proxy, store = proxied
    body = os.urandom(6 * MIB if is_large else 100)
    key = b"lost-%d" % is_large
    lost: list[str] = []

    def lose_first(request: Request, answer: Answer) -> Answer | None:
        writes = request.method == ("POST" if is_large else "PUT")
        if writes and "uploads" not in request.path and not lost and answer.status == 200:
            lost.append(request.path)
            return error(500, "InternalError")
        if is_large and lost and request.method == "POST" and answer.status == 500:
            return error(404, "NoSuchUpload")  # moto fails with a KeyError there
        return None

    proxy.fault = lose_first
    stored = store.put(key, [body], len(body), PLAIN, expected=ABSENT)
    assert len(lost) == 1
    proxy.fault = None
    assert content(store, key, stored.version) == body


def test_server_that_ignores_conditions_is_noticed(
    behind: tuple[FaultyProxy, S3StoreConfig],
) -> None:
    proxy, config = behind
    proxy.dropped_headers = {"if-match", "if-none-match", "x-amz-copy-source-if-match"}
    store = S3Store(dataclasses.replace(config, conditional_writes="auto"))
    old = put(store, b"ignored", b"old")
    new = put(store, b"ignored", b"new")
    with pytest.raises(StoreChanged):
        list(store.read(b"ignored", 0, 3, old))
    with pytest.raises(StoreChanged):
        store.put(b"ignored", [b"x"], 1, PLAIN, expected=old)
    with pytest.raises(StoreChanged):
        store.put(b"ignored", [b"x"], 1, PLAIN, expected=ABSENT)
    with pytest.raises(StoreChanged):
        store.copy(b"ignored", old, b"copied", PLAIN)
    assert not store.capabilities.conditional_put
    store.put(b"ignored", [b"x"], 1, PLAIN, expected=new)
    assert content(store, b"ignored") == b"x"
    assert store.list(b".forebay-tmp/", delimiter=False).entries == []  # the probe is gone
    store.close()


def test_body_is_sent_while_it_arrives_in_bounded_memory(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    proxy, store = proxied
    upload = store.begin_upload(b"streamed", None)
    piece = os.urandom(MIB)
    for _ in range(30):
        upload.write(piece)
    parts = [request for request in proxy.requests if "partNumber" in request.path]
    # 30 MiB in parts of 5: all but what fills, and at most two on their way, is in the store.
    assert len(parts) >= 3
    assert max(len(request.body) for request in parts) == 5 * MIB
    upload.abort()
    assert proxy.requests[-1].method == "DELETE"


@pytest.mark.parametrize("at_once", [1, 4])
def test_so_many_parts_are_on_their_way(
    config: S3StoreConfig, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    store = S3Store(dataclasses.replace(config, parts_in_flight=at_once))
    all_on_their_way = threading.Barrier(at_once, timeout=100)
    sending = 0
    lock = threading.Lock()
    send = Multipart.send

    def counted(multipart: Multipart, number: int, part: bytes, md5: bytes | None = None) -> str:
        nonlocal sending
        with lock:
            sending += 1
            assert sending <= at_once
        all_on_their_way.wait()  # nobody is done before so many have begun
        with lock:
            sending -= 1
        return send(multipart, number, part, md5)

    monkeypatch.setattr(Multipart, "send", counted)
    body = os.urandom(5 * MIB) * 8
    try:
        put(store, b"parts", body, PLAIN)
        assert store.head(b"parts").size_bytes == len(body)
    finally:
        store.close()


def test_attributes_known_at_the_beginning_cost_no_copy(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    proxy, store = proxied
    attributes = StoredAttributes(mode=0o600, mtime_ns=1, s3_etag="abc-9")
    put(store, b"known", os.urandom(6 * MIB), attributes)
    headers = {name.lower() for request in proxy.requests for name in request.headers}
    assert "x-amz-copy-source" not in headers
    found = store.head(b"known").attributes
    assert found is not None
    assert found.s3_etag == "abc-9"


def methods(proxy: FaultyProxy, store: S3Store, key: bytes, attributes: StoredAttributes) -> str:
    """Put a body of two parts; what was asked of the server for it, and that the object's version
    is what the server shows."""
    before = len(proxy.requests)
    body = os.urandom(6 * MIB)
    md5 = hashlib.md5(body).hexdigest()
    version = put(store, key, body, dataclasses.replace(attributes, md5=md5))
    asked = " ".join(request.method for request in proxy.requests[before:])
    assert store.head(key).version == version
    return asked


def test_what_the_answer_to_complete_tells_is_not_asked_again(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    proxy, store = proxied
    assert methods(proxy, store, b"joined-1", PLAIN) == "POST PUT PUT POST HEAD"
    assert methods(proxy, store, b"joined-2", PLAIN) == "POST PUT PUT POST"


def test_server_that_shows_the_md5_of_the_whole_is_not_asked_again(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    """As rclone serve s3 does, which would read all of it to tell."""
    proxy, store = proxied
    parts: dict[tuple[str, str], bytes] = {}

    def show_md5(request: Request, answer: Answer) -> Answer | None:
        url = urlsplit(request.path)
        if number := parse_qs(url.query).get("partNumber"):
            parts[url.path, number[0]] = request.body
        elif request.method == "HEAD":
            whole = parts[url.path, "1"] + parts[url.path, "2"]
            answer.headers["ETag"] = f'"{hashlib.md5(whole).hexdigest()}"'
            return answer
        return None

    proxy.fault = show_md5
    assert methods(proxy, store, b"whole-1", PLAIN) == "POST PUT PUT POST HEAD"
    assert methods(proxy, store, b"whole-2", PLAIN) == "POST PUT PUT POST"


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("is_refused", [False, True])
def test_a_small_object_shows_what_the_server_would_read_a_large_one_for(
    behind: tuple[FaultyProxy, S3StoreConfig],
    monkeypatch: pytest.MonkeyPatch,
    versioned: bool,
    is_refused: bool,
) -> None:
    proxy, config = behind
    bucket = f"probed-{versioned}-{is_refused}".lower()
    config = dataclasses.replace(config, bucket=bucket, deadline_s=120.0)
    make_bucket(config)
    store = S3Store(config)
    client = store._requests.client
    if versioned:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    seen = threading.Event()
    see = s3_probe.see_joined

    def see_and_tell(requests: ObjectRequests) -> None:
        see(requests)
        seen.set()

    monkeypatch.setattr(s3_probe, "see_joined", see_and_tell)
    monkeypatch.setattr(s3_probe, "WORTH_BYTES", 6 * MIB)
    if is_refused:
        proxy.fault = lambda request, answer: (
            error(403, "AccessDenied") if "partNumber" in request.path else None
        )
    upload = store.begin_upload(b"large", 6 * MIB)
    assert seen.wait(20)
    upload.abort()
    proxy.fault = None
    assert methods(proxy, store, b"large", PLAIN).count("HEAD") == int(is_refused)
    left = client.list_object_versions(Bucket=bucket, Prefix=".forebay-tmp/")
    assert not {"Versions", "DeleteMarkers"} & set(left)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    store.close()


def test_amazon_needs_no_probe() -> None:
    amazon = ObjectRequests(S3StoreConfig(bucket="b", access_key="a", secret_key="b"))
    assert not amazon.joined_etags.wants_probe()


def test_answer_to_complete_that_is_not_of_the_parts_proves_nothing(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    proxy, store = proxied

    def answer_otherwise(request: Request, answer: Answer) -> Answer | None:
        if request.method == "POST" and "uploadId" in request.path:
            answer.body = re.sub(rb"[0-9a-f]{32}-2", b"0" * 32 + b"-2", answer.body)
            answer.headers["Content-Length"] = str(len(answer.body))
            return answer
        return None

    put(store, b"proven", os.urandom(6 * MIB))  # what the server shows is known now
    proxy.fault = answer_otherwise
    with pytest.raises(StoreChanged):
        put(store, b"unproven", os.urandom(6 * MIB))
    assert proxy.requests[-2].method == "HEAD"  # behind it the upload is aborted


def test_upload_given_up_before_the_server_answers_is_aborted_when_it_does(
    proxied: tuple[FaultyProxy, S3Store],
) -> None:
    """It begins beside the arrival of its first part; a client that hangs up waits for nobody."""
    proxy, store = proxied
    answers = threading.Event()

    def hold(request: Request, answer: Answer) -> None:
        if request.method == "POST":
            assert answers.wait(20)

    proxy.fault = hold
    upload = store.begin_upload(b"short", 6 * MIB)
    upload.write(b"x")
    wait_until(lambda: len(proxy.requests) == 1)
    upload.abort()
    assert [request.method for request in proxy.requests] == ["POST"]
    answers.set()
    wait_until(lambda: len(proxy.requests) == 2)
    assert proxy.requests[1].method == "DELETE"


def test_upload_that_does_not_begin_is_told(proxied: tuple[FaultyProxy, S3Store]) -> None:
    proxy, store = proxied
    proxy.fault = lambda request, answer: error(403, "AccessDenied")
    upload = store.begin_upload(b"refused", 6 * MIB)
    with pytest.raises(StoreRefused):
        upload.write(os.urandom(6 * MIB))
    upload.abort()
    assert [request.method for request in proxy.requests] == ["POST"]


def test_prefix_is_invisible(config: S3StoreConfig, direct: S3Store) -> None:
    store = S3Store(dataclasses.replace(config, prefix="inside/deep/"))
    put(direct, b"inside/deeper", b"outside")
    put(store, b"a\xff", b"1")
    put(store, b"b/c", b"2")
    assert [entry.key for entry in store.list(b"", delimiter=True).entries] == [b"a\xff", b"b/"]
    store.rename(b"b/", b"d/")
    store.copy(b"a\xff", None, b"e", PLAIN)
    found = [entry.key for entry in direct.list(b"inside/", delimiter=False).entries]
    assert found == [
        b"inside/deep/a\xff", b"inside/deep/d/c", b"inside/deep/e", b"inside/deeper",
    ]  # fmt: skip
    store.close()


@pytest.mark.parametrize("listing", ["v1", "v2", "unordered"])
def test_every_way_of_listing_gives_the_same_pages(config: S3StoreConfig, listing: str) -> None:
    store = S3Store(
        dataclasses.replace(config, prefix=f"list-{listing}/", listing=listing)  # type: ignore[arg-type]
    )
    names = [b"a", b"a-", b"b/1", b"b/2", b"c/1", b"d", b"e/1"]
    for name in names:
        put(store, name, b"x")
    for delimiter, wanted in (
        (False, names),
        (True, [b"a", b"a-", b"b/", b"c/", b"d", b"e/"]),
    ):
        for limit in (1, 2, 3, 1000):
            found: list[bytes] = []
            marker: bytes | None = b""
            while marker is not None:
                page = store.list(b"", delimiter=delimiter, marker=marker, limit=limit)
                assert len(page.entries) <= limit
                found += [entry.key for entry in page.entries]
                marker = page.next_marker
            assert found == wanted
    store.close()


# Configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"prefix": "no-slash"},
        {"prefix": "/rooted/"},
        {"access_key": ""},
        {"secret_key": ""},
        {"part_size_bytes": 1},
        {"copy_part_size_bytes": 6 << 30},
        {"deadline_s": 3.0},
        {"connect_timeout_s": 0},
        {"max_connections": 1},
        {"parts_in_flight": 0},
        {"parts_in_flight": 33},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        s3_config(1, "bucket", **wrong) if "bucket" not in wrong else S3StoreConfig(bucket="")


def test_secret_key_is_not_shown_and_may_come_from_a_file(
    config: S3StoreConfig, tmp_path: Path
) -> None:
    assert config.secret_key not in repr(config)
    file = tmp_path / "secret"
    file.write_text(config.secret_key + "\n")
    store = S3Store(dataclasses.replace(config, secret_key="", secret_key_file=file))
    put(store, b"secret", b"x")
    store.close()
    with pytest.raises(ConfigError):
        S3Store(dataclasses.replace(config, secret_key="", secret_key_file=Path("/nonexistent")))
