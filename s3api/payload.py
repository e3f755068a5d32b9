"""One request body: how it is framed, what it must be, and its way from the wire to a writer.

`BodyPlan` is read from the headers before anything of the body is; whatever contradicts itself
there is refused then. `Receiver` takes wire bytes, in a worker thread, and gives back payload;
nothing may be published before its `finish()` has returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from s3api import sigv4
from s3api.auth import Authentication
from s3api.checksums import (
    DEFAULT_ALGORITHM,
    Block,
    BodyDigest,
    announced_checksum,
    claimed_checksums,
    read_content_md5,
)
from s3api.chunked import Chain, ChunkedDecoder
from s3api.errors import S3Error

PUT_BYTES_MAX = 5 << 30
"""Largest body of one PutObject or UploadPart, as on Amazon."""


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """What a request's headers promise about its body."""

    encoding: str
    """The streaming word of x-amz-content-sha256; "" for a body that is just its bytes."""
    size_bytes: int | None
    """Of the payload; None when it comes in HTTP chunks of unknown number."""
    payload_sha256: str | None
    content_md5: bytes | None
    claimed: Mapping[str, str]  # checksum algorithm -> base64, from headers
    trailer: str | None  # the algorithm whose checksum a trailer will bring
    chain: Chain | None

    @classmethod
    def read(
        cls, headers: Mapping[str, str], authentication: Authentication, bytes_max: int
    ) -> BodyPlan:
        """The plan of a request; header names in lower case.

        MissingContentLength, EntityTooLarge, or InvalidRequest for promises that disagree.
        """
        payload_hash = authentication.payload_hash
        streaming = payload_hash in sigv4.STREAMING
        size_bytes = _read_size(headers, streaming=streaming)
        if size_bytes is not None and size_bytes > bytes_max:
            raise S3Error(
                "EntityTooLarge",
                ProposedSize=str(size_bytes),
                MaxSizeAllowed=str(bytes_max),
            )
        trailer = announced_checksum(headers.get("x-amz-trailer"))
        claimed = claimed_checksums(headers)
        if trailer is not None and not payload_hash.endswith("-TRAILER"):
            raise S3Error("InvalidRequest", "x-amz-trailer needs a streaming body with a trailer.")
        if trailer is not None and claimed:
            raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header or trailer.")
        md5 = headers.get("content-md5")
        return cls(
            encoding=payload_hash if streaming else "",
            size_bytes=size_bytes,
            payload_sha256=(
                None if streaming or payload_hash == sigv4.UNSIGNED_PAYLOAD else payload_hash
            ),
            content_md5=None if md5 is None else read_content_md5(md5),
            claimed=claimed,
            trailer=trailer,
            chain=authentication.chain,
        )

    @property
    def announced_algorithm(self) -> str | None:
        """The checksum algorithm that the client uses, in a header or a trailer."""
        return self.trailer or next(iter(self.claimed), None)


def _read_size(headers: Mapping[str, str], *, streaming: bool) -> int | None:
    name = "x-amz-decoded-content-length" if streaming else "content-length"
    text = headers.get(name)
    if text is None:
        if not streaming and "transfer-encoding" in headers:
            return None
        raise S3Error("MissingContentLength")
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise S3Error("InvalidArgument", ArgumentName=name, ArgumentValue=text[:64])
    return int(text)


@dataclass(frozen=True, slots=True)
class Received:
    """A whole body, verified."""

    size_bytes: int
    etag: str
    checksums: dict[str, str]


class Receiver:
    """Decodes, hashes and checks one body. In worker threads, one at a time."""

    def __init__(self, plan: BodyPlan, *, bytes_max: int, algorithm: str | None = None) -> None:
        """algorithm: a checksum to compute besides what the client uses; by default CRC64NVME if
        the client uses none."""
        self._plan = plan
        self._bytes_max = bytes_max
        used = plan.announced_algorithm
        wanted = {used or algorithm or DEFAULT_ALGORITHM, algorithm or used or DEFAULT_ALGORITHM}
        self._digest = BodyDigest(sorted(wanted), payload_sha256=plan.payload_sha256)
        self._decoder: ChunkedDecoder | None = None
        if plan.encoding:
            assert plan.size_bytes is not None
            announced = {f"x-amz-checksum-{plan.trailer.lower()}"} if plan.trailer else set()
            self._decoder = ChunkedDecoder(
                plan.encoding, plan.size_bytes, frozenset(announced), plan.chain
            )

    @property
    def size_bytes(self) -> int:
        """Of the payload so far."""
        return self._digest.size_bytes

    def feed(self, wire: bytes) -> Iterator[Block]:
        """Yield the payload in the next wire bytes, hashed. Views into `wire`."""
        for block in [wire] if self._decoder is None else self._decoder.feed(wire):
            self._digest.update(block)
            if self._digest.size_bytes > self._bytes_max:
                raise S3Error("EntityTooLarge", MaxSizeAllowed=str(self._bytes_max))
            yield block

    def finish(self) -> Received:
        """The body has ended: check all that was promised about it. IncompleteBody, BadDigest,
        XAmzContentSHA256Mismatch, SignatureDoesNotMatch, MalformedTrailerError."""
        plan = self._plan
        claimed = dict(plan.claimed)
        if self._decoder is not None:
            self._decoder.finish()
            if plan.trailer is not None:
                claimed |= claimed_checksums(self._decoder.trailers)
        size_bytes = self._digest.size_bytes
        if plan.size_bytes is not None and size_bytes != plan.size_bytes:
            raise S3Error("IncompleteBody")
        self._digest.check(content_md5=plan.content_md5, claimed=claimed)
        return Received(size_bytes, self._digest.etag, self._digest.checksums)
