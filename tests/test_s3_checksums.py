"""Digests of bodies, and how part checksums become an object's."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from cache.etags import multipart_etag
from s3api.checksums import (
    ALGORITHMS,
    BodyDigest,
    announced_checksum,
    claimed_checksums,
    combined_checksum,
    composite_checksum,
    read_content_md5,
)
from s3api.errors import S3Error
from s3api.model import MODEL


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def digest_of(algorithm: str, *blocks: bytes) -> str:
    digest = BodyDigest([algorithm])
    for block in blocks:
        digest.update(block)
    return digest.checksums[algorithm]


KNOWN = {
    "CRC32": b64(zlib.crc32(b"123456789").to_bytes(4, "big")),
    "CRC32C": b64(bytes.fromhex("e3069283")),
    "CRC64NVME": b64(bytes.fromhex("ae8b14860a799888")),
    "SHA1": b64(hashlib.sha1(b"123456789").digest()),
    "SHA256": b64(hashlib.sha256(b"123456789").digest()),
    "SHA512": b64(hashlib.sha512(b"123456789").digest()),
    "MD5": b64(hashlib.md5(b"123456789").digest()),
    "XXHASH64": b64(crt.XXHash.compute_xxhash64(b"123456789")),
    "XXHASH3": b64(crt.XXHash.compute_xxhash3_64(b"123456789")),
    "XXHASH128": b64(crt.XXHash.compute_xxhash3_128(b"123456789")),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_check_values(algorithm: str) -> None:
    """The published check values of the CRCs; other implementations for the rest."""
    assert digest_of(algorithm, b"1234", b"", b"56789") == KNOWN[algorithm]


def test_the_model_knows_no_other_algorithm() -> None:
    assert set(ALGORITHMS) == MODEL.shapes["ChecksumAlgorithm"].enum


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_combined_checksums_are_those_of_the_whole(parts: list[bytes]) -> None:
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME"):
        of_parts = [(digest_of(algorithm, part), len(part)) for part in parts]
        assert combined_checksum(algorithm, of_parts) == digest_of(algorithm, b"".join(parts))


def test_composite_checksums() -> None:
    parts = [digest_of("SHA256", b"a"), digest_of("SHA256", b"b")]
    raw = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()).digest()
    assert composite_checksum("SHA256", parts) == f"{b64(raw)}-2"


def test_multipart_etags() -> None:
    etags = [hashlib.md5(part).hexdigest() for part in (b"a", b"b")]
    whole = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in etags)).hexdigest()
    assert multipart_etag(etags) == f"{whole}-2"


def test_what_the_client_claims_is_compared() -> None:
    digest = BodyDigest(["CRC32"], payload_sha256=hashlib.sha256(b"x").hexdigest())
    digest.update(b"x")
    right = digest.checksums
    digest.check(content_md5=hashlib.md5(b"x").digest(), claimed=right)
    with pytest.raises(S3Error, match="BadDigest"):
        digest.check(content_md5=hashlib.md5(b"y").digest(), claimed=right)
    with pytest.raises(S3Error, match="BadDigest"):
        digest.check(content_md5=None, claimed={"CRC32": "AAAAAA=="})
    digest.update(b"y")
    with pytest.raises(S3Error, match="XAmzContentSHA256Mismatch"):
        digest.check(content_md5=None, claimed={})


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda algorithm: algorithm.name)
def test_checksum_headers(algorithm: object) -> None:
    chosen = ALGORITHMS[algorithm.name]  # type: ignore[attr-defined]
    value = digest_of(chosen.name, b"x")
    assert claimed_checksums({chosen.header: value}) == {chosen.name: value}
    assert announced_checksum(chosen.header.upper()) == chosen.name
    for wrong in ("", "x", value[:-4], value + "AAAA", "é"):
        with pytest.raises(S3Error, match="InvalidRequest"):
            claimed_checksums({chosen.header: wrong})


def test_one_checksum_at_a_time() -> None:
    headers = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="}
    with pytest.raises(S3Error, match="InvalidRequest"):
        claimed_checksums(headers)
    with pytest.raises(S3Error, match="InvalidRequest"):
        announced_checksum("x-amz-checksum-crc32,x-amz-checksum-sha1")


@pytest.mark.parametrize("text", ["", "x", "AAAA", b64(bytes(17)), b64(bytes(15)), "é" * 24])
def test_content_md5_that_is_none(text: str) -> None:
    with pytest.raises(S3Error, match="InvalidDigest"):
        read_content_md5(text)
    assert read_content_md5(b64(bytes(16))) == bytes(16)
