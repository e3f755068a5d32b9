"""Objects made inside an S3 store of what is there already: copies by parts, and changed objects.

A part is copied on condition that its source is the version it should be. Servers that ignore that
condition are met by looking before the object is completed: no part is of another version if the
source is the same before and after. What was begun and did not come to its end is aborted; killed
in the middle, its parts stay with the server, as those of any upload do.

Call it outside the pool.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from cache.stores.base import Read, StoredAttributes, StoredObject
from cache.stores.deadline import DeadlinePool
from cache.stores.part_plan import Part, plan
from cache.stores.s3_requests import ObjectRequests
from cache.stores.s3_uploads import Multipart, outcome

log = logging.getLogger(__name__)

_COPIES_IN_FLIGHT = 4


def copy_large(
    requests: ObjectRequests,
    pool: DeadlinePool,
    source: StoredObject,
    target: bytes,
    attributes: StoredAttributes,
) -> StoredObject:
    """Copy an object by parts, a few at a time."""
    copy_bytes = requests.config.copy_part_size_bytes
    parts = plan(source.size_bytes, [], part_bytes=copy_bytes, copy_bytes=copy_bytes)
    return compose(requests, pool, source, target, parts, None, attributes, expected=None)


def compose(
    requests: ObjectRequests,
    pool: DeadlinePool,
    source: StoredObject,
    target: bytes,
    parts: Iterable[Part],
    read: Read | None,
    attributes: StoredAttributes,
    *,
    expected: str | None,
) -> StoredObject:
    """Make `target` of these parts: bytes of `source`, and what `read` yields in this thread.
    Holds as many parts that are sent as are on their way. PartCopyRefused; StoreChanged."""
    planned = list(parts)
    size_bytes = planned[-1].stop
    parameters = requests.parameters(attributes, size_bytes)
    multipart = pool.run(lambda: Multipart.create(requests, target, parameters))
    in_flight: deque[tuple[int, Future[str]]] = deque()
    done: list[tuple[int, str]] = []
    try:
        for number, part in enumerate(planned, start=1):
            sent_at_once = requests.config.parts_in_flight
            while len(in_flight) >= (_COPIES_IN_FLIGHT if part.is_copy else sent_at_once):
                earlier, future = in_flight.popleft()
                done.append((earlier, pool.wait(future)))
            send = _sender(multipart, source, number, part, read)
            in_flight.append((number, pool.submit(send)))
        done.extend((number, pool.wait(future)) for number, future in in_flight)
        pool.run(lambda: requests.verify_version(source.key, source.version))
        return pool.run(lambda: multipart.complete(done, size_bytes, expected))
    except BaseException:
        for _, future in in_flight:
            if not future.cancel():
                outcome(pool, future)
        pool.run(multipart.abort)
        raise


def _sender(
    multipart: Multipart, source: StoredObject, number: int, part: Part, read: Read | None
) -> Callable[[], str]:
    """What brings the part to the server; what is to be sent is in memory then."""
    if part.is_copy:
        return lambda: multipart.copy(number, source.key, part.start, part.stop, source.version)
    assert read is not None, "a plan of copies only"
    body = b"".join(read(part.start, part.stop))
    return lambda: multipart.send(number, body)
