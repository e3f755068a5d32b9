"""The aws-chunked body encoding: wire bytes in, payload bytes out.

    body    = *chunk last *( trailer CRLF ) CRLF
    chunk   = size [ ";chunk-signature=" signature ] CRLF data CRLF
    last    = "0"  [ ";chunk-signature=" signature ] CRLF
    trailer = name ":" value

Signed chunks form a chain: the signature of each covers its bytes and the signature before it, the
first that of the request itself; a signed trailer covers the trailers and the last chunk's
signature ("Signature calculations for the Authorization header: transferring payload in multiple
chunks", Amazon S3 API reference). So no chunk can be changed, dropped, repeated or moved.

A decoder is fed bytes as they arrive, in any division, and gives back the payload in them without
copying. Payload is handed out before its chunk's signature is known: nobody may publish it before
`finish()` has returned. No I/O; one decoder is used from one thread at a time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import Enum, auto

from s3api.errors import S3Error
from s3api.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    SigningKey,
)

CHUNK_BYTES_MIN = 8192
"""Of all chunks but the last one with data; Amazon's own rule, and a bound on the cost per byte."""
LINE_BYTES_MAX = 1024
TRAILER_BYTES_MAX = 4096

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?")
_TRAILER_LINE = re.compile(rb"([A-Za-z0-9-]+)[ \t]*:[ \t]*([\x21-\x7e]*)[ \t]*")
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


class _State(Enum):
    SIZE = auto()  # reading a chunk's size line
    DATA = auto()  # inside a chunk
    DATA_END = auto()  # the CRLF after a chunk
    TRAILER = auto()  # lines after the last chunk, up to the empty one
    DONE = auto()


@dataclass(slots=True)
class Chain:
    """The signatures of a signed body, each made over the one before."""

    key: SigningKey
    amz_date: str
    previous: str  # of the chunk before; at first the request's own
    verify: bool = True
    """False in `simple` mode: the framing is the same, nobody knows a secret."""

    def check_chunk(self, signature: str, sha256: str) -> None:
        self._check("AWS4-HMAC-SHA256-PAYLOAD", f"{_EMPTY_SHA256}\n{sha256}", signature)

    def check_trailer(self, signature: str, sha256: str) -> None:
        self._check("AWS4-HMAC-SHA256-TRAILER", sha256, signature)

    def _check(self, algorithm: str, covered: str, signature: str) -> None:
        if self.verify:
            text = f"{algorithm}\n{self.amz_date}\n{self.key.scope}\n{self.previous}\n{covered}"
            if not hmac.compare_digest(self.key.sign(text), signature):
                raise S3Error("SignatureDoesNotMatch")
        self.previous = signature


class ChunkedDecoder:
    """Decodes one body. `trailers` is filled, with names in lower case, once it has ended."""

    def __init__(
        self,
        encoding: str,
        decoded_bytes: int,
        announced: frozenset[str],
        chain: Chain | None,
    ) -> None:
        """encoding: the value of x-amz-content-sha256. decoded_bytes: x-amz-decoded-content-length.
        announced: names in x-amz-trailer, in lower case. chain: for the signed encodings."""
        assert (chain is not None) == (encoding != STREAMING_UNSIGNED_TRAILER)
        self._chain = chain
        self._trailer_allowed = encoding != STREAMING_SIGNED
        self._trailer_signed = encoding == STREAMING_SIGNED_TRAILER
        self._announced = announced
        self._left_bytes = decoded_bytes
        self._state = _State.SIZE
        self._buffer = bytearray()  # an unfinished line
        self._chunk_left_bytes = 0
        self._chunk_signature = ""
        self._chunk_hash = hashlib.sha256()
        self._small_chunk_seen = False
        self._trailer_bytes = 0
        self._trailer_lines: list[tuple[str, str]] = []
        self.trailers: dict[str, str] = {}

    def feed(self, wire: bytes) -> list[memoryview]:
        """The payload in the next bytes of the body, as views into them."""
        view = memoryview(wire)
        payload: list[memoryview] = []
        position = 0
        while position < len(view):
            if self._state is _State.DATA:
                piece = view[position : position + self._chunk_left_bytes]
                position += len(piece)
                self._chunk_left_bytes -= len(piece)
                if self._chain is not None:
                    self._chunk_hash.update(piece)
                payload.append(piece)
                if not self._chunk_left_bytes:
                    self._state = _State.DATA_END
            elif self._state is _State.DONE:
                raise S3Error("IncompleteBody", "The body goes on after its last chunk.")
            else:
                position = self._take_line(wire, position)
        return payload

    def finish(self) -> None:
        """The wire has no more bytes. Raises IncompleteBody if the encoding says otherwise."""
        if self._state is not _State.DONE:
            raise S3Error("IncompleteBody", "The body ended before its last chunk.")

    def _take_line(self, wire: bytes, position: int) -> int:
        """Take bytes up to a line's end, and the line if it is whole. The new position."""
        end = wire.find(b"\n", position)
        stop = len(wire) if end < 0 else end + 1
        if len(self._buffer) + stop - position > LINE_BYTES_MAX:
            raise S3Error("InvalidRequest", "A line of the chunked encoding is too long.")
        self._buffer += wire[position:stop]
        if end >= 0:
            if not self._buffer.endswith(b"\r\n"):
                raise S3Error("InvalidRequest", "A line of the chunked encoding ends without CR.")
            line = bytes(self._buffer[:-2])
            self._buffer.clear()
            self._line(line)
        return stop

    def _line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._begin_chunk(line)
        elif self._state is _State.DATA_END:
            if line:
                raise S3Error("InvalidRequest", "A chunk is longer than its size says.")
            self._end_chunk()
            self._state = _State.SIZE
        elif line:
            self._trailer_line(line)
        else:
            self._end_trailers()
            self._state = _State.DONE

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None or (match[2] is None) != (self._chain is None):
            raise S3Error("InvalidRequest", "The body is not well-formed aws-chunked.")
        size_bytes = int(match[1], 16)
        self._chunk_signature = (match[2] or b"").decode("ascii")
        self._chunk_hash = hashlib.sha256()
        if not size_bytes:
            if self._left_bytes:
                raise S3Error("IncompleteBody", "The body is shorter than"
                              " x-amz-decoded-content-length.")  # fmt: skip
            self._end_chunk()
            self._state = _State.TRAILER
            return
        if size_bytes > self._left_bytes:
            raise S3Error("IncompleteBody", "The body is longer than x-amz-decoded-content-length.")
        if self._small_chunk_seen:
            raise S3Error("InvalidChunkSizeError")
        self._small_chunk_seen = size_bytes < CHUNK_BYTES_MIN
        self._left_bytes -= size_bytes
        self._chunk_left_bytes = size_bytes
        self._state = _State.DATA

    def _end_chunk(self) -> None:
        if self._chain is not None:
            self._chain.check_chunk(self._chunk_signature, self._chunk_hash.hexdigest())

    def _trailer_line(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        match = _TRAILER_LINE.fullmatch(line)
        if match is None or not self._trailer_allowed or self._trailer_bytes > TRAILER_BYTES_MAX:
            raise S3Error("MalformedTrailerError")
        name, value = match[1].decode("ascii").lower(), match[2].decode("ascii")
        names = [seen for seen, _ in self._trailer_lines]
        # The signature ends the trailers: what came after it would not be covered.
        if name in names or _TRAILER_SIGNATURE in names:
            raise S3Error("MalformedTrailerError")
        if name == _TRAILER_SIGNATURE:
            if not self._trailer_signed:
                raise S3Error("MalformedTrailerError")
        elif name not in self._announced:
            raise S3Error("MalformedTrailerError", "A trailer was not announced in x-amz-trailer.")
        self._trailer_lines.append((name, value))

    def _end_trailers(self) -> None:
        lines = dict(self._trailer_lines)
        signature = lines.pop(_TRAILER_SIGNATURE, None)
        if lines.keys() != self._announced:
            raise S3Error("MalformedTrailerError", "An announced trailer is missing.")
        if self._trailer_signed:
            if signature is None:
                raise S3Error("MalformedTrailerError", "The trailer is not signed.")
            assert self._chain is not None
            covered = "".join(f"{name}:{value}\n" for name, value in sorted(lines.items()))
            self._chain.check_trailer(signature, hashlib.sha256(covered.encode()).hexdigest())
        self.trailers = lines
