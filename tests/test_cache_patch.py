"""Changes of a large object cost what was changed, counted at the door of a real S3 server."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cache.config import MIB
from cache.errors import StoreChanged, StoreUnavailable
from cache.stores.base import StoredAttributes
from cache.stores.s3 import S3Store, S3StoreConfig
from tests.support.faulty_proxy import Answer, FaultyProxy, Request, error, faulty_proxy
from tests.support.stores import moto_backend
from tests.support.volume import BUCKET, TestVolume

PLAIN = StoredAttributes()
SIZE = 12 * MIB
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3StoreConfig]:
    with moto_backend(tmp_path_factory.mktemp("moto")) as backend:
        assert isinstance(backend.config, S3StoreConfig)
        yield backend.config


@pytest.fixture
def door(config: S3StoreConfig) -> Iterator[tuple[FaultyProxy, S3Store]]:
    """The server's door, and a store behind it."""
    upstream = urlsplit(config.endpoint_url).port
    assert upstream is not None
    with faulty_proxy(upstream) as (proxy, port):
        prefix = f"test-{next(_numbers)}/"
        endpoint = f"http://127.0.0.1:{port}"
        store = S3Store(dataclasses.replace(config, endpoint_url=endpoint, prefix=prefix))
        yield proxy, store
        store.close()


def sent_bytes(proxy: FaultyProxy) -> int:
    """Object bytes that came in since the last call."""
    found = sum(len(request.body) for request in proxy.requests if request.method == "PUT")
    proxy.requests.clear()
    return found


def unfinished(store: S3Store) -> int:
    requests = store._requests
    found = requests.client.list_multipart_uploads(Bucket=requests.config.bucket)
    return len(found.get("Uploads", []))


@pytest.fixture
def box(door: tuple[FaultyProxy, S3Store], tmp_path: Path) -> Iterator[TestVolume]:
    """A volume on that store, with a large file that it has."""
    volume = TestVolume(tmp_path, store=door[1], capacity_bytes=256 * MIB)
    volume.create(b"large")
    volume.write(b"large", body())
    volume.drain()
    assert sent_bytes(door[0]) >= SIZE
    yield volume
    volume.check()
    volume.close()


def body() -> bytes:
    return bytes(range(256)) * (SIZE // 256)


def test_an_append_costs_what_was_appended(
    door: tuple[FaultyProxy, S3Store], box: TestVolume
) -> None:
    box.write(b"large", b"appended", SIZE)
    box.drain()
    assert sent_bytes(door[0]) < 100_000
    assert box.stored_bytes(b"large") == body() + b"appended"
    etag = box.volume.objects.get(BUCKET, b"large").etag
    box.forget_all()
    assert box.volume.objects.get(BUCKET, b"large").etag == etag
    assert box.get(b"large") == body() + b"appended"


def test_a_change_in_the_middle_costs_a_part(
    door: tuple[FaultyProxy, S3Store], box: TestVolume
) -> None:
    """Also of bytes that are not cached: they stay where they are."""
    box.evict()
    box.write(b"large", b"changed", 6 * MIB)
    reads = box.store.read_bytes
    box.drain()
    assert 5 * MIB <= sent_bytes(door[0]) < 5 * MIB + 100_000
    assert box.store.read_bytes - reads <= 8 * MIB
    expected = bytearray(body())
    expected[6 * MIB : 6 * MIB + 7] = b"changed"
    assert box.stored_bytes(b"large") == expected


def test_killed_before_it_is_noted_and_changed_again(
    door: tuple[FaultyProxy, S3Store], box: TestVolume
) -> None:
    """The bytes that are not cached are then in an object that the index knows nothing of."""
    box.evict()
    box.write(b"large", b"first", 0)

    def killed(operation: str, key: bytes) -> None:
        if operation == "put":
            box.store.after = lambda operation, key: None
            raise StoreUnavailable("killed before the answer was noted")

    box.store.after = killed
    queue = box.volume.queue
    queue.run_once(hurry=True)
    while not queue.is_idle():
        pass
    box.write(b"large", b"second", SIZE)
    sent_bytes(door[0])
    box.drain()
    assert sent_bytes(door[0]) < 6 * MIB
    assert box.stored_bytes(b"large") == b"first" + body()[5:] + b"second"
    assert not box.is_stored(b"lost+found/large")


def test_a_server_that_makes_no_parts_of_objects_gets_all_of_them(
    door: tuple[FaultyProxy, S3Store],
) -> None:
    proxy, store = door
    version = store.put(b"refused", [body()], SIZE, PLAIN).version
    new = body() + b"x"

    def refuse(request: Request, _: Answer) -> Answer | None:
        is_copy = "x-amz-copy-source" in {name.lower() for name in request.headers}
        return error(501, "NotImplemented") if is_copy else None

    proxy.fault = refuse
    for _ in range(2):
        sent_bytes(proxy)
        found = store.patch(
            b"refused",
            [(SIZE, SIZE + 1)],
            lambda start, stop: [new[start:stop]],
            SIZE + 1,
            PLAIN,
            version=version,
        )
        assert sent_bytes(proxy) > SIZE
        version = found.version
    assert unfinished(store) == 0


def test_an_object_that_others_replace_meanwhile_is_not_mixed(
    door: tuple[FaultyProxy, S3Store],
) -> None:
    """On a server that ignores x-amz-copy-source-if-match, too."""
    proxy, store = door
    proxy.dropped_headers = {"x-amz-copy-source-if-match"}
    old = store.put(b"replaced", [body()], SIZE, PLAIN).version
    theirs = os.urandom(SIZE)
    store.put(b"theirs", [theirs], SIZE, PLAIN)

    def read(start: int, stop: int) -> list[bytes]:
        # After the copies were begun, before the object is complete.
        store.put(b"replaced", [theirs], SIZE, PLAIN)
        return [bytes(stop - start)]

    with pytest.raises(StoreChanged):
        store.patch(b"replaced", [(SIZE, SIZE + 9)], read, SIZE + 9, PLAIN, version=old)
    assert b"".join(store.read(b"replaced", 0, SIZE, None)) == theirs
    assert unfinished(store) == 0


def test_what_was_changed_is_told_to_the_store(tmp_path: Path) -> None:
    box = TestVolume(tmp_path)
    patches: list[list[tuple[int, int]]] = []
    patch = box.store.patch

    def record(key: bytes, changed: list[tuple[int, int]], *rest: object, **more: object) -> object:
        patches.append(changed)
        return patch(key, changed, *rest, **more)  # type: ignore[arg-type]

    box.store.patch = record  # type: ignore[method-assign, assignment]
    box.create(b"f")
    box.write(b"f", bytes(100_000))
    box.drain()
    assert patches == []
    box.write(b"f", b"x", 50_000)
    box.drain()
    file = box.volume.open_files.open(box.inode(b"f").id, write=True)
    file.truncate(60_000)
    file.truncate(70_000)
    file.release()
    box.drain()
    assert patches == [[(50_000, 50_001)], [(60_000, 70_000)]]
    box.close()
