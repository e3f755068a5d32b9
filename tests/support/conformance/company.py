"""What goes on beside a suite on the mount: S3 clients that read and list the same tree, and that
write so much elsewhere that the cache has to evict."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import threading
from collections.abc import Iterator

from tests.support.s3_raw import RawS3

_CHURN = "churn"
_CHURN_OBJECTS = 64
_CHURN_BYTES = 2 << 20
_EVERY_S = 0.25
_READS = 10
_KEY_MAX = 1024
_EXPECTED = (200, 404, 503)
"""404: it was removed since it was listed. 503: SlowDown, when the store cannot keep up."""


class _CutOffError(Exception):
    """The connection is of no more use."""


class Company:
    """Counts what it asked for, and notes what was answered and should not have been."""

    def __init__(self) -> None:
        self.requests = 0
        self.cut_off = 0
        """GETs that ended early: what they had begun with was evicted here, and replaced in the
        store (docs/semantics.md)."""
        self.failures: list[str] = []

    def note(self, request: str, status: int) -> None:
        self.requests += 1
        if status not in _EXPECTED:
            self.failures.append(f"{request}: {status}")


@contextlib.contextmanager
def keep(endpoint: str, bucket: str) -> Iterator[Company]:
    """Keep a suite in that bucket company for the length of the body."""
    company = Company()
    stop = threading.Event()

    def work() -> None:
        with RawS3(endpoint) as s3:
            s3.make_bucket(_CHURN)
        turns = itertools.count()
        while not stop.is_set():
            with RawS3(endpoint, connections=2) as s3, contextlib.suppress(_CutOffError):
                while not stop.wait(_EVERY_S):
                    _put_one(s3, company, next(turns))
                    _read_some(s3, company, bucket)

    def guarded() -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - it is what the run is to show
            company.failures.append(f"gave up: {exc!r}")

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield company
    finally:
        stop.set()
        thread.join()


def _put_one(s3: RawS3, company: Company, turn: int) -> None:
    key = f"/{_CHURN}/{turn % _CHURN_OBJECTS}"
    company.note(f"PUT {key}", s3.request("PUT", key, body=os.urandom(_CHURN_BYTES)).status)


def _read_some(s3: RawS3, company: Company, bucket: str) -> None:
    # What is deeper than S3's keys can say is listed, and cannot be asked for.
    keys = [key for key in s3.keys(bucket) if len(os.fsencode(key)) <= _KEY_MAX]
    company.requests += 1
    for key in random.sample(keys, min(_READS, len(keys))):
        try:
            status = s3.request("GET", f"/{bucket}/{key}").status
        except http.client.IncompleteRead as exc:
            company.cut_off += 1
            raise _CutOffError from exc
        company.note(f"GET {key}", status)
