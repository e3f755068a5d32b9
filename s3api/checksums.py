"""Digests of bodies: the ETag's MD5, the signed SHA-256, and S3's additional checksums.

`BodyDigest` takes the bytes of one body, off the event loop, and tells whether what the client
claimed about them holds. Part checksums become an object's here, too: a composite one is the
checksum of the parts' checksums; a full-object one is combined from the parts' CRCs by arithmetic,
without reading a byte again.

A client that gives no checksum gets CRC64NVME computed and stored, as Amazon does: it costs 1/70
of the MD5 (53 GB/s against 0.7, awscrt on one core) and goes with the object from then on.

Blocking (CPU); the hash functions release the interpreter lock on large blocks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash
from awscrt import checksums as crt  # type: ignore[import-untyped]  # ships no types

from s3api.errors import S3Error

DEFAULT_ALGORITHM = "CRC64NVME"
HEADER_PREFIX = "x-amz-checksum-"
COMPOSITE = "COMPOSITE"
FULL_OBJECT = "FULL_OBJECT"

Block = bytes | bytearray | memoryview


class _Hash(Protocol):
    def update(self, block: Block, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A CRC function as a hash object."""

    def __init__(self, function: Callable[[Block, int], int], size_bytes: int) -> None:
        self._function = function
        self._size_bytes = size_bytes
        self._value = 0

    def update(self, block: Block) -> None:
        self._value = self._function(block, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size_bytes, "big")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One of S3's checksum algorithms."""

    name: str  # as in the model: CRC32C
    size_bytes: int
    new: Callable[[], _Hash]
    combine: Callable[[int, int, int], int] | None = None
    """Of CRCs: the checksum of two blocks from theirs and the second one's length in bytes."""
    composite: bool = True

    @property
    def header(self) -> str:
        return HEADER_PREFIX + self.name.lower()

    @property
    def member(self) -> str:
        """The member of inputs and outputs in the model."""
        return f"Checksum{self.name}"

    def read(self, text: str) -> str:
        """A checksum's base64 as a client sent it; InvalidRequest if it cannot be one."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != self.size_bytes:
            raise S3Error("InvalidRequest", f"Value for {self.header} header is invalid.")
        return text


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("CRC32", 4, lambda: _Crc(zlib.crc32, 4), crt.combine_crc32),
        Algorithm("CRC32C", 4, lambda: _Crc(crt.crc32c, 4), crt.combine_crc32c),
        Algorithm(
            "CRC64NVME", 8, lambda: _Crc(crt.crc64nvme, 8), crt.combine_crc64nvme, composite=False
        ),
        Algorithm("SHA1", 20, lambda: hashlib.sha1(usedforsecurity=False)),
        Algorithm("SHA256", 32, hashlib.sha256),
        Algorithm("SHA512", 64, hashlib.sha512),
        Algorithm("MD5", 16, lambda: hashlib.md5(usedforsecurity=False)),
        Algorithm("XXHASH64", 8, xxhash.xxh64),
        Algorithm("XXHASH3", 8, xxhash.xxh3_64),
        Algorithm("XXHASH128", 16, xxhash.xxh3_128),
    )
}
CHECKSUM_MEMBERS = " ".join(algorithm.member for algorithm in ALGORITHMS.values())
"""What a request that may bring a checksum of any algorithm honours."""
BY_HEADER = {algorithm.header: algorithm for algorithm in ALGORITHMS.values()}


def claimed_checksums(headers: Mapping[str, str]) -> dict[str, str]:
    """Algorithm -> base64 of the x-amz-checksum-* headers (names in lower case).

    Raises InvalidRequest for a value that cannot be one, and for more than one of them."""
    claimed = {
        algorithm.name: algorithm.read(headers[header])
        for header, algorithm in BY_HEADER.items()
        if header in headers
    }
    if len(claimed) > 1:
        raise S3Error(
            "InvalidRequest",
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        )
    return claimed


def announced_checksum(trailer: str | None) -> str | None:
    """The algorithm that x-amz-trailer announces; None if there is no trailer."""
    if trailer is None:
        return None
    algorithm = BY_HEADER.get(trailer.strip().lower())
    if algorithm is None:
        raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not"
                      " supported")  # fmt: skip
    return algorithm.name


def read_content_md5(text: str) -> bytes:
    """The 16 bytes of a Content-MD5 header; InvalidDigest."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise S3Error("InvalidDigest", ContentMD5=text[:64])
    return digest


class BodyDigest:
    """All digests of one body. Used from one thread at a time."""

    def __init__(self, algorithms: Sequence[str], *, payload_sha256: str | None = None) -> None:
        """algorithms: additional checksums to compute. payload_sha256: the digest in hex that the
        request was signed with, if it was signed with one."""
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._checksums = {name: ALGORITHMS[name].new() for name in algorithms}
        self._payload_sha256 = payload_sha256
        self._sha256 = hashlib.sha256() if payload_sha256 is not None else None
        self.size_bytes = 0

    def update(self, block: Block) -> None:
        """Take the next bytes. MD5 is what takes the time, about 1.5 ms a MiB."""
        self.size_bytes += len(block)
        self._md5.update(block)
        if self._sha256 is not None:
            self._sha256.update(block)
        for checksum in self._checksums.values():
            checksum.update(block)

    @property
    def etag(self) -> str:
        return self._md5.hexdigest()

    @property
    def checksums(self) -> dict[str, str]:
        """Algorithm -> base64, as S3 shows it."""
        return {
            name: base64.b64encode(checksum.digest()).decode("ascii")
            for name, checksum in self._checksums.items()
        }

    def check(self, *, content_md5: bytes | None, claimed: Mapping[str, str]) -> None:
        """Compare with what the client said. XAmzContentSHA256Mismatch, BadDigest."""
        if self._sha256 is not None and self._sha256.hexdigest() != self._payload_sha256:
            raise S3Error(
                "XAmzContentSHA256Mismatch",
                ClientComputedContentSHA256=self._payload_sha256 or "",
                S3ComputedContentSHA256=self._sha256.hexdigest(),
            )
        if content_md5 is not None and content_md5 != self._md5.digest():
            raise S3Error("BadDigest")
        computed = self.checksums
        for name, value in claimed.items():
            if computed[name] != value:
                raise S3Error(
                    "BadDigest",
                    f"The {name} you specified did not match the calculated checksum.",
                )


def composite_checksum(algorithm: str, parts: Sequence[str]) -> str:
    """The checksum of the parts' checksums, with their number: `base64-3`."""
    whole = ALGORITHMS[algorithm].new()
    for part in parts:
        whole.update(base64.b64decode(part))
    return f"{base64.b64encode(whole.digest()).decode('ascii')}-{len(parts)}"


def combined_checksum(algorithm: str, parts: Sequence[tuple[str, int]]) -> str:
    """The full-object CRC from each part's CRC and size in bytes."""
    chosen = ALGORITHMS[algorithm]
    assert chosen.combine is not None, algorithm
    value = 0
    for text, size_bytes in parts:
        crc = int.from_bytes(base64.b64decode(text), "big")
        value = chosen.combine(value, crc, size_bytes)
    return base64.b64encode(value.to_bytes(chosen.size_bytes, "big")).decode("ascii")
