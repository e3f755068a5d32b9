"""Ranges of objects on their way from an S3 server: one GET each, checked while they arrive.

An answer must be exactly the range that was asked for, of the version that was asked for; a whole
object whose ETag is its MD5 is compared with that at its end. Requests run in the store's threads
and are given up at deadline_s; bodies are read in the caller's, each MiB within the deadline.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from cache.errors import StoreChanged, StoreCorrupt, StoreNotFound, StoreUnavailable
from cache.stores.base import Opened, StoredObject
from cache.stores.deadline import DeadlinePool
from cache.stores.s3_client import status_of, store_errors
from cache.stores.s3_requests import ObjectRequests, quoted, version_of

_CHUNK_BYTES = 1 << 20


class Reads:
    """`read` and `open` of base.Store."""

    def __init__(self, requests: ObjectRequests, pool: DeadlinePool) -> None:
        self._requests = requests
        self._pool = pool

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        if start == stop:
            self._pool.run(lambda: self._requests.verify_version(key, version))
            return
        future = self._pool.submit(lambda: self._get(key, start, stop, version))
        response = self._answer(future)
        with contextlib.closing(response["Body"]):
            found = version_of(response)
            if version is not None and found != version:
                raise StoreChanged(f"{key!r} is {found}, not {version}")
            _check_range(key, response, start, stop)
            yield from self._checked(key, response, start, stop)

    def open(self, key: bytes, start: int, stop: int) -> Opened | None:
        if self._requests.omits(key):
            return None  # head() says what such a key is
        future = self._pool.submit(lambda: self._get_described(key, start, stop))
        found = self._answer(future)
        if found is None:
            return None
        described, response = found
        stop = min(stop, described.size_bytes)
        body = response["Body"]
        chunks = self._checked(key, response, start, stop)
        return Opened(described, start, stop, chunks, body.close)

    def _answer(self, future: Future[Any]) -> Any:
        try:
            return self._pool.wait(future)
        except StoreUnavailable:
            future.add_done_callback(_close_late)
            raise

    def _get(self, key: bytes, start: int, stop: int, version: str | None) -> Any:
        conditions: dict[str, Any] = {} if version is None else {"IfMatch": quoted(version)}
        try:
            with store_errors("read", key):
                return self._requests.get(key, start, stop, **conditions)
        except StoreNotFound:
            self._requests.head(key)  # the bucket may be what is not found
            raise
        except StoreCorrupt:
            # 416: the object is shorter; another one, perhaps, on a server without If-Match.
            self._requests.verify_version(key, version)
            raise

    def _get_described(self, key: bytes, start: int, stop: int) -> tuple[StoredObject, Any] | None:
        """The answer with what it says of the object; None if head() must be asked: the object
        ends before `start`, or the server does not answer with ranges."""
        with store_errors("read", key):
            try:
                response = self._requests.get(key, start, stop)
            except self._requests.client.exceptions.NoSuchKey:
                self._requests.check_bucket()
                raise
            except self._requests.client.exceptions.ClientError as exc:
                if status_of(exc.response) == 416:
                    return None
                raise
        total = _total_bytes(response)
        if total is None or not _is_range(response, start, min(stop, total)):
            response["Body"].close()
            return None
        try:
            return self._requests.described(key, response, total), response
        except BaseException:
            response["Body"].close()
            raise

    def _checked(self, key: bytes, response: Any, start: int, stop: int) -> Iterator[bytes]:
        """The body; StoreCorrupt if it is a whole object, and not the one of its ETag."""
        found = version_of(response)
        whole = start == 0 and _total_bytes(response) == stop
        digest = None
        if whole and self._requests.is_md5(found, response):
            digest = hashlib.md5(usedforsecurity=False)
        left_bytes = stop - start
        for chunk in self._chunks(key, response["Body"], left_bytes):
            left_bytes -= len(chunk)
            if digest is not None:
                digest.update(chunk)
                # Before the last bytes are given away, without which nobody has an object.
                if not left_bytes and digest.hexdigest() != found:
                    raise StoreCorrupt(
                        f"{key!r}: bytes with MD5 {digest.hexdigest()} came for ETag {found}"
                    )
            yield chunk

    def _chunks(self, key: bytes, body: Any, left_bytes: int) -> Iterator[bytes]:
        """What arrives, as it arrives; each MiB within the deadline, however it trickles."""
        # Below botocore's stream, and private: its read() waits until all of a chunk is there.
        stream = body._raw_stream  # noqa: SLF001  see above
        deadline_s = self._pool.deadline_s
        waited_s = 0.0
        window_bytes = 0
        while left_bytes:
            began_s = time.monotonic()
            with store_errors("read", key):
                chunk: bytes = stream.read1(min(left_bytes, _CHUNK_BYTES))
            waited_s += time.monotonic() - began_s
            if not chunk:
                raise StoreCorrupt(f"{key!r}: the body ended {left_bytes} bytes early")
            left_bytes -= len(chunk)
            window_bytes += len(chunk)
            if window_bytes >= _CHUNK_BYTES:
                waited_s, window_bytes = 0.0, 0
            elif waited_s > deadline_s:
                raise StoreUnavailable(f"read {key!r}: {window_bytes} bytes in {deadline_s:g} s")
            yield chunk


def _total_bytes(response: Any) -> int | None:
    """Size of the whole object, from Content-Range: bytes 0-9/100; None if it is not said."""
    _, separator, total = str(response.get("ContentRange", "")).rpartition("/")
    if separator and total.isdigit():
        return int(total)
    return int(response["ContentLength"]) if status_of(response) == 200 else None


def _is_range(response: Any, start: int, stop: int) -> bool:
    """Whether the answer is exactly this range."""
    content_range = str(response.get("ContentRange", ""))
    begins = content_range.startswith(f"bytes {start}-") if content_range else start == 0
    return begins and int(response["ContentLength"]) == stop - start


def _check_range(key: bytes, response: Any, start: int, stop: int) -> None:
    """StoreCorrupt unless the answer is exactly the range that was asked for."""
    if not _is_range(response, start, stop):
        raise StoreCorrupt(
            f"{key!r}: asked for bytes {start} to {stop}, got {response['ContentLength']} of "
            f"{response.get('ContentRange') or 'the whole object'}"
        )


def _close_late(future: Future[Any]) -> None:
    """The answer came after its caller had left."""
    if not future.cancelled() and future.exception() is None:
        result = future.result()
        response = result[1] if isinstance(result, tuple) else result
        if response is not None:
            response["Body"].close()
