"""What an operation's implementation is given, what it gives back, and how it is found.

Each module of operations (`buckets`, `listing`, `objects`, `multipart`) offers its functions here
by the operation's name in Amazon's model, with the input members it honours. The prologue in
`gateway.py` has done everything else before it calls one: the request is authenticated, authorised
and parsed, nothing of its body was read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cache.memo import Memo
from cache.volume import Volume
from s3api.answers import Answer
from s3api.auth import Authentication, Authenticator, Identity
from s3api.commits import Commits
from s3api.config import GatewayConfig
from s3api.errors import S3Error
from s3api.headers import common_headers
from s3api.keys import Target
from s3api.model import MODEL, Operation
from s3api.parsing import Input
from s3api.serialising import write_body, write_headers
from s3api.threads import Threads

if TYPE_CHECKING:
    from s3api.access import Access


@dataclass(frozen=True, slots=True)
class Door:
    """What all requests of one gateway process share."""

    volume: Volume
    memo: Memo
    """Fresh as of the last request that came. For the event loop."""
    threads: Threads
    commits: Commits
    config: GatewayConfig
    host_id: str
    authenticator: Authenticator


@dataclass(slots=True)
class Call:
    """One request, resolved by the prologue."""

    door: Door
    request: web.BaseRequest
    request_id: str
    headers: Mapping[str, str]  # names in lower case
    operation: Operation
    target: Target
    input: Input
    authentication: Authentication
    added_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, whatever it is: what the bucket's CORS document says."""
    status: int | None = field(default=None, init=False)
    """Of an answer with an object's bytes, instead of 200 and 206: the error page of a site."""
    body: AsyncIterator[tuple[list[bytes], bool]] | None = field(default=None, init=False)
    """Blocks of the object's bytes and whether they are the last, where the request's body is not
    itself the object: the file of a form."""
    access: Access = field(init=False)
    """What the caller may do in the bucket; set by `access.authorise`, if there is a bucket."""
    source_access: Access = field(init=False)
    """The same of the bucket that a copy reads from; set where there is one."""
    response: web.StreamResponse | None = field(default=None, init=False)
    """The answer, once its headers may have been sent: then it can only be cut off."""
    continued: bool = field(default=False, init=False)
    """`100 Continue` was sent."""

    @property
    def bucket(self) -> str:
        return self.target.bucket

    @property
    def key(self) -> bytes:
        return self.target.key

    def key_of(self, named: str) -> bytes:
        """The bucket's key that a document of the request names."""
        directory = self.target.directory
        key = named.encode("utf-8", "surrogatepass")
        return key if directory is None else directory.prefix + key

    @property
    def identity(self) -> Identity:
        return self.authentication.identity

    @property
    def volume(self) -> Volume:
        return self.door.volume

    @property
    def threads(self) -> Threads:
        return self.door.threads

    def release(self) -> None:
        """The request is answered. What its caller may do refers back to it: a circle that would
        keep all of the request until the garbage collector comes to it."""
        for name in ("access", "source_access"):
            if hasattr(self, name):
                delattr(self, name)

    def common_headers(self) -> dict[str, str]:
        headers = common_headers(self.request_id, self.door.host_id)
        headers.update(self.added_headers)
        return headers

    def answer(
        self,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """A whole answer: headers and body leave in one write."""
        merged = self.common_headers()
        merged.update(headers or {})
        return Answer(status=status, headers=merged, body=body)

    def document(self, output: Mapping[str, Any], status: int | None = None) -> web.Response:
        """The answer that the model describes: members in headers and an XML document."""
        if self.target.directory is not None:
            output = self.target.directory.outward(output)
        headers = write_headers(self.operation, output)
        body = write_body(self.operation, output)
        if body is not None:
            headers["Content-Type"] = "application/xml"
        return self.answer(status or self.operation.status, headers, body)


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Offer:
    handler: Handler
    members: frozenset[str]
    prompt: bool
    """Often answered without a wait, and in need of no task until its first (`begun.py`)."""


OFFERED: dict[str, Offer] = {}

_ALWAYS = "Bucket Key ExpectedBucketOwner"


def offers(name: str, members: str = "", *, prompt: bool = False) -> Callable[[Handler], Handler]:
    """Offer an operation. members: names of the input members, separated by spaces, that the
    function honours; a request with another one is answered NotImplemented. prompt: Offer's."""
    shape = MODEL.operations[name].input
    known = frozenset() if shape is None else frozenset(shape.members)
    named = frozenset(members.split())
    assert named <= known, (name, named - known)

    def enter(handler: Handler) -> Handler:
        OFFERED[name] = Offer(handler, named | (known & set(_ALWAYS.split())), prompt)
        return handler

    return enter


def find_offer(operation: Operation) -> Offer:
    """NotImplemented, by the operation's name, if nobody offers it."""
    offer = OFFERED.get(operation.name)
    if offer is None:
        raise S3Error(
            "NotImplemented", f"{operation.name} is not implemented.", Operation=operation.name
        )
    return offer
