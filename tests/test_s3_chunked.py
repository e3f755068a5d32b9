"""The aws-chunked decoder: every division of the wire, every broken chain."""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3api.chunked import CHUNK_BYTES_MIN, LINE_BYTES_MAX, Chain, ChunkedDecoder
from s3api.errors import S3Error
from s3api.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    Scope,
    SigningKey,
)

SCOPE = Scope("20130524", "us-east-1", "s3")
KEY = SigningKey.derive("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", SCOPE)
AMZ_DATE = "20130524T000000Z"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass
class Body:
    """A streaming body, made as a client makes it: chunks, then the trailer."""

    encoding: str
    chunks: list[bytes]  # on the wire, the last one of size 0 included
    trailer: bytes = b""
    size_bytes: int = 0
    announced: frozenset[str] = field(default_factory=frozenset)

    @property
    def wire(self) -> bytes:
        return b"".join(self.chunks) + self.trailer + b"\r\n"

    def decoder(self) -> ChunkedDecoder:
        chain = None
        if self.encoding != STREAMING_UNSIGNED_TRAILER:
            chain = Chain(KEY, AMZ_DATE, SEED)
        return ChunkedDecoder(self.encoding, self.size_bytes, self.announced, chain)


def hmac_of(text: str) -> str:
    return hmac.new(KEY.key, text.encode(), "sha256").hexdigest()


def encode(encoding: str, payload: list[bytes], *, trailer: bool = True) -> Body:
    """Our own encoder, after Amazon's description; `test_the_documented_example` anchors it."""
    signed = encoding != STREAMING_UNSIGNED_TRAILER
    previous = SEED
    chunks = []
    for chunk in [*payload, b""]:
        head = f"{len(chunk):x}"
        if signed:
            digest = hashlib.sha256(chunk).hexdigest()
            previous = hmac_of(
                f"AWS4-HMAC-SHA256-PAYLOAD\n{AMZ_DATE}\n{SCOPE}\n{previous}\n{EMPTY}\n{digest}"
            )
            head += f";chunk-signature={previous}"
        ending = b"\r\n" if chunk else b""
        chunks.append(head.encode() + b"\r\n" + chunk + ending)
    body = Body(encoding, chunks, size_bytes=sum(map(len, payload)))
    if encoding != STREAMING_SIGNED and trailer:
        crc = base64.b64encode(zlib.crc32(b"".join(payload)).to_bytes(4, "big")).decode()
        line = f"x-amz-checksum-crc32:{crc}"
        body.announced = frozenset({"x-amz-checksum-crc32"})
        body.trailer = f"{line}\r\n".encode()
        if signed:
            digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
            signature = hmac_of(
                f"AWS4-HMAC-SHA256-TRAILER\n{AMZ_DATE}\n{SCOPE}\n{previous}\n{digest}"
            )
            body.trailer += f"x-amz-trailer-signature:{signature}\r\n".encode()
    return body


def decode(body: Body, pieces: list[bytes] | None = None) -> bytes:
    decoder = body.decoder()
    payload = b"".join(
        bytes(view) for piece in pieces or [body.wire] for view in decoder.feed(piece)
    )
    decoder.finish()
    return payload


def refusal(body: Body) -> str:
    with pytest.raises(S3Error) as caught:
        decode(body)
    return caught.value.code


ENCODINGS = [STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER, STREAMING_SIGNED_TRAILER]
SIGNED = [STREAMING_SIGNED, STREAMING_SIGNED_TRAILER]
PAYLOAD = [b"a" * 65536, b"b" * 65536, b"c" * 1024]


def test_the_documented_example() -> None:
    """The chunk signatures in Amazon's reference, "Example: PUT Object"."""
    body = encode(STREAMING_SIGNED, [b"a" * 65536, b"a" * 1024])
    signatures = [chunk.split(b"=")[1][:64].decode() for chunk in body.chunks]
    assert signatures == [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ]
    assert decode(body) == b"a" * 66560


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_whole_bodies(encoding: str) -> None:
    assert decode(encode(encoding, PAYLOAD)) == b"".join(PAYLOAD)
    assert decode(encode(encoding, [])) == b""


# Bodies are as large as chunks must be: most of what hypothesis makes is bytes.
@settings(suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(
    encoding=st.sampled_from(ENCODINGS),
    payload=st.lists(
        st.binary(min_size=CHUNK_BYTES_MIN, max_size=CHUNK_BYTES_MIN + 40), max_size=3
    ),
    last=st.binary(max_size=50),
    cuts=st.lists(st.integers(0, 40_000), max_size=20),
)
def test_any_division_of_the_wire(
    encoding: str, payload: list[bytes], last: bytes, cuts: list[int]
) -> None:
    chunks = payload + ([last] if last else [])
    body = encode(encoding, chunks)
    at = sorted({0, len(body.wire), *(cut % (len(body.wire) + 1) for cut in cuts)})
    pieces = [body.wire[start:stop] for start, stop in pairwise(at)]
    assert decode(body, pieces) == b"".join(chunks)


def test_one_byte_at_a_time() -> None:
    body = encode(STREAMING_SIGNED_TRAILER, [b"x" * 9000, b"y"])
    assert decode(body, [bytes([byte]) for byte in body.wire]) == b"x" * 9000 + b"y"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_trailers_are_handed_over(encoding: str) -> None:
    body = encode(encoding, [b"hello"])
    decoder = body.decoder()
    list(decoder.feed(body.wire))
    decoder.finish()
    expected = {} if encoding == STREAMING_SIGNED else {"x-amz-checksum-crc32": "NhCmhg=="}
    assert decoder.trailers == expected


# ------------------------------------------------------------------------------- broken chains


@pytest.mark.parametrize("encoding", SIGNED)
def test_a_changed_chunk(encoding: str) -> None:
    body = encode(encoding, PAYLOAD)
    body.chunks[1] = body.chunks[1].replace(b"bbb", b"bxb", 1)
    assert refusal(body) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("encoding", SIGNED)
def test_reordered_chunks(encoding: str) -> None:
    body = encode(encoding, [b"a" * 9000, b"b" * 9000])
    body.chunks[0], body.chunks[1] = body.chunks[1], body.chunks[0]
    assert refusal(body) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("encoding", SIGNED)
def test_a_repeated_chunk(encoding: str) -> None:
    body = encode(encoding, [b"a" * 9000, b"a" * 9000])
    body.chunks[1] = body.chunks[0]
    assert refusal(body) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("encoding", SIGNED)
def test_a_dropped_chunk(encoding: str) -> None:
    body = encode(encoding, [b"a" * 9000, b"b" * 9000, b"c"])
    del body.chunks[1]
    body.size_bytes -= 9000  # even if the length agrees
    assert refusal(body) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("encoding", SIGNED)
def test_a_signature_of_another_chain(encoding: str) -> None:
    body = encode(encoding, [b"a" * 9000])
    decoder = ChunkedDecoder(encoding, 9000, body.announced, Chain(KEY, AMZ_DATE, "0" * 64))
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        list(decoder.feed(body.wire))


@pytest.mark.parametrize("encoding", SIGNED)
def test_chunks_without_signatures(encoding: str) -> None:
    body = encode(encoding, [b"a" * 9000])
    body.chunks = encode(STREAMING_UNSIGNED_TRAILER, [b"a" * 9000]).chunks
    assert refusal(body) == "InvalidRequest"


def test_signatures_where_none_belong() -> None:
    body = encode(STREAMING_UNSIGNED_TRAILER, [b"a" * 9000])
    body.chunks = encode(STREAMING_SIGNED, [b"a" * 9000]).chunks
    assert refusal(body) == "InvalidRequest"


def test_an_unverified_chain_checks_the_framing_only() -> None:
    body = encode(STREAMING_SIGNED, [b"a" * 9000])
    decoder = ChunkedDecoder(
        STREAMING_SIGNED, 9000, frozenset(), Chain(KEY, AMZ_DATE, "0" * 64, verify=False)
    )
    assert b"".join(bytes(view) for view in decoder.feed(body.wire)) == b"a" * 9000
    decoder.finish()


# ------------------------------------------------------------------------------- framing


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_missing_last_chunk(encoding: str) -> None:
    body = encode(encoding, PAYLOAD)
    decoder = body.decoder()
    list(decoder.feed(b"".join(body.chunks[:-1])))
    with pytest.raises(S3Error) as caught:
        decoder.finish()
    assert caught.value.code == "IncompleteBody"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_missing_empty_line(encoding: str) -> None:
    body = encode(encoding, PAYLOAD)
    decoder = body.decoder()
    list(decoder.feed(body.wire[:-2]))
    with pytest.raises(S3Error):
        decoder.finish()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_after_the_end(encoding: str) -> None:
    body = encode(encoding, PAYLOAD)
    decoder = body.decoder()
    with pytest.raises(S3Error) as caught:
        list(decoder.feed(body.wire + b"x"))
    assert caught.value.code == "IncompleteBody"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("difference", [-1, 1, -9000])
def test_another_length_than_announced(encoding: str, difference: int) -> None:
    body = encode(encoding, [b"a" * 9000])
    body.size_bytes += difference
    assert refusal(body) == "IncompleteBody"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_huge_chunk_size(encoding: str) -> None:
    body = encode(encoding, [])
    body.chunks.insert(0, body.chunks[0].replace(b"0", b"f" * 16, 1))
    assert refusal(body) in {"IncompleteBody", "InvalidRequest"}


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"-1", b"+5", b"0x5", b"5 ", b" 5", b"5;other=1", b"5_0", b"f" * 17, b"5\r"],
)
def test_malformed_size_lines(line: bytes) -> None:
    body = encode(STREAMING_UNSIGNED_TRAILER, [b"a" * 5])
    body.chunks[0] = line + b"\r\naaaaa\r\n"
    assert refusal(body) == "InvalidRequest"


def test_bare_line_feeds() -> None:
    body = encode(STREAMING_UNSIGNED_TRAILER, [b"a" * 5])
    body.chunks[0] = b"5\naaaaa\r\n"
    assert refusal(body) == "InvalidRequest"


def test_an_endless_size_line() -> None:
    decoder = encode(STREAMING_UNSIGNED_TRAILER, [b"a" * 5]).decoder()
    for _ in range(LINE_BYTES_MAX):
        assert not list(decoder.feed(b"0"))
    with pytest.raises(S3Error):
        list(decoder.feed(b"0"))


def test_a_chunk_longer_than_its_size() -> None:
    body = encode(STREAMING_UNSIGNED_TRAILER, [b"a" * 5])
    body.chunks[0] = b"5\r\naaaaaa\r\n"
    assert refusal(body) == "InvalidRequest"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_only_the_last_chunk_may_be_small(encoding: str) -> None:
    assert decode(encode(encoding, [b"a" * CHUNK_BYTES_MIN, b"b"])) == b"a" * CHUNK_BYTES_MIN + b"b"
    assert refusal(encode(encoding, [b"a" * 100, b"b" * 100])) == "InvalidChunkSizeError"


# ------------------------------------------------------------------------------- trailers


@pytest.mark.parametrize("encoding", [STREAMING_UNSIGNED_TRAILER, STREAMING_SIGNED_TRAILER])
def test_an_announced_trailer_is_missing(encoding: str) -> None:
    body = encode(encoding, [b"hello"])
    body.trailer = b""
    assert refusal(body) == "MalformedTrailerError"


@pytest.mark.parametrize("encoding", [STREAMING_UNSIGNED_TRAILER, STREAMING_SIGNED_TRAILER])
def test_a_trailer_that_was_not_announced(encoding: str) -> None:
    body = encode(encoding, [b"hello"])
    body.announced = frozenset()
    assert refusal(body) == "MalformedTrailerError"


def test_a_trailer_where_none_may_be() -> None:
    body = encode(STREAMING_SIGNED, [b"hello"])
    body.trailer = b"x-amz-checksum-crc32:NhCmhg==\r\n"
    body.announced = frozenset({"x-amz-checksum-crc32"})
    assert refusal(body) == "MalformedTrailerError"


def test_a_changed_signed_trailer() -> None:
    body = encode(STREAMING_SIGNED_TRAILER, [b"hello"])
    body.trailer = body.trailer.replace(b"NhCmhg==", b"AAAAAA==")
    assert refusal(body) == "SignatureDoesNotMatch"


def test_a_signed_trailer_without_its_signature() -> None:
    body = encode(STREAMING_SIGNED_TRAILER, [b"hello"])
    body.trailer = body.trailer.split(b"x-amz-trailer-signature")[0]
    assert refusal(body) == "MalformedTrailerError"


def test_nothing_comes_after_the_trailers_signature() -> None:
    body = encode(STREAMING_SIGNED_TRAILER, [b"hello"])
    lines = body.trailer.split(b"\r\n")
    body.trailer = b"\r\n".join([lines[1], lines[0], b""])
    assert refusal(body) == "MalformedTrailerError"


@pytest.mark.parametrize(
    "trailer",
    [
        b"x-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n",
        b"x-amz-checksum-crc32\r\n",
        b"x-amz-checksum-crc32:a b\r\n",
        b": value\r\n",
        b"x-amz-checksum-crc32:" + b"a" * 900 + b"\r\n",
    ],
)
def test_malformed_trailers(trailer: bytes) -> None:
    body = encode(STREAMING_UNSIGNED_TRAILER, [b"hello"])
    body.trailer = trailer
    if len(trailer) > 500:  # long, but whole: the checksum's own reader refuses it
        assert decode(body) == b"hello"
    else:
        assert refusal(body) == "MalformedTrailerError"
