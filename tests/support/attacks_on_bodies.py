"""Attacks on what a request carries: bodies that are not the signed ones, chunks changed on their
way, documents made to hurt, forms that go beyond their policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from s3api.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    Scope,
    SigningKey,
)
from tests.support import s3
from tests.support.attacks import BUCKET, SCRATCH, Attack, Shot, let_in, sent
from tests.support.s3 import Answer, Door
from tests.support.streaming import streaming_body

_ENCODINGS = {
    "signed": STREAMING_SIGNED,
    "unsigned trailer": STREAMING_UNSIGNED_TRAILER,
    "signed trailer": STREAMING_SIGNED_TRAILER,
}
_PAYLOAD = b"a" * 65536 + b"b" * 65536 + b"c" * 100  # three chunks


def attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _on_plain_bodies()
    yield from _on_chunks()
    yield from _on_documents()
    yield from _on_forms()


# ------------------------------------------------------------------- plain bodies


def _on_plain_bodies() -> Iterator[Attack]:
    uses = {
        "PutObject": ("PUT", SCRATCH),
        "DeleteObjects": ("POST", f"/{BUCKET}?delete"),
        "CompleteMultipartUpload": ("POST", f"{SCRATCH}?uploadId=none"),
    }
    for name, (method, target) in uses.items():
        right, wrong = b"<right/>", b"<wrong/>"
        yield Attack(
            f"body/{name}: not the one that was signed",
            _with_other_body(method, target, right, wrong),
            ((400, "XAmzContentSHA256Mismatch"),),
            sent(method, target, {}, right),
            let_in,
        )
        md5 = {"Content-MD5": _b64(hashlib.md5(right).digest())}
        yield Attack(
            f"body/{name}: not the one of Content-MD5",
            sent(method, target, md5, wrong),
            ((400, "BadDigest"),),
            sent(method, target, md5, right),
            let_in,
        )
    body = b"hello"
    for name, digest in _digests(body).items():
        yield Attack(
            f"body/not the one of {name}",
            sent("PUT", SCRATCH, {name: digest}, b"hellO"),
            ((400, "BadDigest"),),
            sent("PUT", SCRATCH, {name: digest}, body),
        )
        for what, value in {"too short": "AAAA", "not base64": "!", "empty": ""}.items():
            yield Attack(
                f"body/{name} {what}",
                sent("PUT", SCRATCH, {name: value}, body),
                ((400, "InvalidDigest"), (400, "InvalidRequest")),
                sent("PUT", SCRATCH, {name: digest}, body),
            )
    two = {name: digest for name, digest in _digests(body).items() if "crc32" in name}
    yield Attack(
        "body/two checksums",
        sent("PUT", SCRATCH, two, body),
        ((400, "InvalidRequest"),),
        sent("PUT", SCRATCH, dict(list(two.items())[:1]), body),
    )
    for what, value in {
        "of another length": "0" * 63,
        "in capitals": hashlib.sha256(body).hexdigest().upper(),
        "of an unknown kind": "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
        "empty": "",
    }.items():
        yield Attack(
            f"body/payload hash {what}",
            _with_hash(value, body),
            ((400, "InvalidArgument"), (403, "SignatureDoesNotMatch")),
            sent("PUT", SCRATCH, {}, body),
        )


def _with_other_body(method: str, target: str, signed: bytes, body: bytes) -> Shot:
    return lambda door: door.request(
        method, target, door.sign(method, target, {}, signed), body, sign=False
    )


def _with_hash(value: str, body: bytes) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign("PUT", SCRATCH, {}, body)
        headers = {n: v for n, v in headers.items() if n.lower() != "x-amz-content-sha256"}
        headers["X-Amz-Content-SHA256"] = value
        return door.request("PUT", SCRATCH, headers, body, sign=False)

    return shoot


def _b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _digests(body: bytes) -> dict[str, str]:
    return {
        "Content-MD5": _b64(hashlib.md5(body).digest()),
        "x-amz-checksum-crc32": _b64(zlib.crc32(body).to_bytes(4, "big")),
        "x-amz-checksum-crc32c": "mnG7TA==",
        "x-amz-checksum-crc64nvme": "M3eFcAZSQlc=",
        "x-amz-checksum-sha1": _b64(hashlib.sha1(body).digest()),
        "x-amz-checksum-sha256": _b64(hashlib.sha256(body).digest()),
        "x-amz-checksum-sha512": _b64(hashlib.sha512(body).digest()),
    }


# ------------------------------------------------------------------- chunks


def _on_chunks() -> Iterator[Attack]:
    for encoding, word in _ENCODINGS.items():
        signed = word != STREAMING_UNSIGNED_TRAILER
        forged = ((403, "SignatureDoesNotMatch"),)
        altered = forged if signed else ((400, "BadDigest"),)
        whole = _streaming(word)
        changes: dict[str, tuple[Callable[[bytes], bytes], tuple[tuple[int, str], ...]]] = {
            "a changed byte": (lambda b: _changed(b, b"a"), altered),
            "a changed byte in the last chunk": (lambda b: _changed(b, b"c"), altered),
            "a dropped chunk": (
                lambda b: _moved(b, [0, 2, 3]), forged if signed else ((400, "IncompleteBody"),)),
            "a repeated chunk": (lambda b: _moved(b, [0, 0, 2, 3]), altered),
            "chunks in another order": (lambda b: _moved(b, [1, 0, 2, 3]), altered),
            "no last chunk": (lambda b: _moved(b, [0, 1, 2], end=False),
                              ((400, "IncompleteBody"),)),
            "bytes after its end": (lambda b: b + b"more", ((400, "IncompleteBody"),)),
            "a size that is none": (lambda b: b.replace(b"10000", b"1000x", 1), _INVALID),
            "a negative size": (lambda b: b.replace(b"10000", b"-1000", 1), _INVALID),
            "a size beyond all memory": (lambda b: b.replace(b"10000", b"f" * 16, 1),
                                         ((400, "IncompleteBody"),)),
            "a size of a thousand digits": (lambda b: b.replace(b"10000", b"0" * 1000 + b"1", 1),
                                            _INVALID),
            "a size too small by one": (lambda b: b.replace(b"10000", b"0ffff", 1), _INVALID),
            "a line without CR": (lambda b: b.replace(b"\r\n", b"\n", 1), _INVALID),
            "an extension nobody knows": (lambda b: b.replace(b"10000", b"10000;x=y", 1), _INVALID),
        }  # fmt: skip
        if signed:
            changes |= {
                "a chunk without signature": (
                    lambda b: re.sub(rb";chunk-signature=[0-9a-f]{64}", b"", b, count=1), _INVALID),
                "a signature of another chunk": (_swapped_signatures, forged),
            }  # fmt: skip
        if word != STREAMING_SIGNED:
            malformed = ((400, "MalformedTrailerError"),)
            changes |= {
                "a wrong trailer": (lambda b: re.sub(rb"crc32:....", b"crc32:AAAA", b), altered),
                "a trailer not announced": (lambda b: b.replace(b"-crc32:", b"-sha1:"), malformed),
                "no trailer": (
                    lambda b: re.sub(rb"x-amz-checksum-crc32:[^\r]*\r\n", b"", b), malformed),
                "a trailer twice": (lambda b: re.sub(
                    rb"(x-amz-checksum-crc32:[^\r]*\r\n)", rb"\1\1", b), malformed),
                "a trailer that is no header": (
                    lambda b: b.replace(b"-crc32:", b"-crc32 is "), malformed),
            }  # fmt: skip
        else:
            changes["a trailer"] = (
                lambda b: b[:-2] + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n",
                ((400, "MalformedTrailerError"),),
            )
        for what, (change, codes) in changes.items():
            yield Attack(f"{encoding} chunks/{what}", _streaming(word, change), codes, whole)
        for what, length in {"shorter": len(_PAYLOAD) + 1, "longer": len(_PAYLOAD) - 1}.items():
            header: dict[str, str | None] = {"x-amz-decoded-content-length": str(length)}
            yield Attack(
                f"{encoding} chunks/{what} than promised",
                _streaming(word, headers=header),
                ((400, "IncompleteBody"),),
                whole,
            )
        for what, value in {"no": "x", "a negative": "-1", "a huge": "9" * 30}.items():
            yield Attack(
                f"{encoding} chunks/{what} decoded length",
                _streaming(word, headers={"x-amz-decoded-content-length": value}),
                ((400, "InvalidArgument"),),
                whole,
            )
        yield Attack(
            f"{encoding} chunks/without a decoded length",
            _streaming(word, headers={"x-amz-decoded-content-length": None}),
            ((411, "MissingContentLength"),),
            whole,
        )


_INVALID = ((400, "InvalidRequest"), (400, "IncompleteBody"))


def _streaming(
    word: str,
    change: Callable[[bytes], bytes] = lambda body: body,
    headers: dict[str, str | None] | None = None,
) -> Shot:
    def shoot(door: Door) -> Answer:
        signed, body = streaming_body(door, SCRATCH, word, _PAYLOAD, headers)
        return door.request("PUT", SCRATCH, signed, change(body), sign=False)

    return shoot


def _changed(body: bytes, letter: bytes) -> bytes:
    """The body with the end of its first run of the letter altered.

    The run is longer than a signature, or one that ends in the letter would be taken for it.
    """
    return body.replace(letter * 65 + b"\r\n", letter * 64 + letter.upper() + b"\r\n", 1)


_CHUNK = re.compile(rb"([0-9a-f]+)(;chunk-signature=[0-9a-f]{64})?\r\n")


def _moved(body: bytes, order: list[int], *, end: bool = True) -> bytes:
    """The body with its chunks in another order; the last one is the empty one."""
    chunks, position = [], 0
    while True:
        match = _CHUNK.match(body, position)
        assert match is not None
        size = int(match[1], 16)
        stop = match.end() + (size + 2 if size else 0)
        chunks.append(body[position:stop])
        position = stop
        if not size:
            break
    return b"".join(chunks[i] for i in order) + (body[position:] if end else b"")


def _swapped_signatures(body: bytes) -> bytes:
    first, second = re.findall(rb"chunk-signature=([0-9a-f]{64})", body)[:2]
    return body.replace(first, b"?").replace(second, first).replace(b"?", second)


# ------------------------------------------------------------------- documents


def _on_documents() -> Iterator[Attack]:
    for name, (method, target, root, right) in _DOCUMENTS.items():
        inner = right.partition(">")[2].rpartition("</")[0]
        hostile = {
            "an external entity": f'<!DOCTYPE {root} [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
            f"<{root}>&x;</{root}>",
            "a bomb": "<!DOCTYPE b [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>]>"
            f"<{root}>&b;{inner}</{root}>",
            "a document type": f"<!DOCTYPE {root}>{right}",
            "a hundred thousand levels": f"<{root}>" + "<a>" * 100_000,
            "no end": right[: -len(root) - 3],
            "another root": f"<Other>{inner}</Other>",
            "another namespace": f'<{root} xmlns="urn:x">{inner}</{root}>',
            "an unknown element": f"<{root}>{inner}<Unknown/></{root}>",
            "two roots": right * 2,
            "an undefined entity": f"<{root}>&nothing;</{root}>",
            "a NUL": right.replace("<", "\0<", 1),
            "no XML": '{"a": 1}',
            "an unknown encoding": f'<?xml version="1.0" encoding="rot13"?>{right}',
        }
        for what, document in hostile.items():
            yield Attack(
                f"document/{name}: {what}",
                sent(method, target, {}, document.encode()),
                ((400, "MalformedXML"),),
                sent(method, target, {}, right.encode()),
                let_in,
            )
        yield Attack(
            f"document/{name}: without end",
            sent(method, target, {}, f"<{root}>".encode() + b" " * (2 << 20)),
            ((400, "EntityTooLarge"), (400, "MaxMessageLengthExceeded"), (400, "MalformedXML")),
            sent(method, target, {}, right.encode()),
            let_in,
        )
    too_many = "<Delete>" + "<Object><Key>kept</Key></Object>" * 1001 + "</Delete>"
    delete = "<Delete><Object><Key>nothing</Key></Object></Delete>"
    parts = "<CompleteMultipartUpload>{}</CompleteMultipartUpload>"
    part = '<Part><PartNumber>{}</PartNumber><ETag>"{}"</ETag></Part>'
    etag = "0" * 32
    for what, target, document, code in (
        ("too many keys", f"/{BUCKET}?delete", too_many, "MalformedXML"),
        ("no keys", f"/{BUCKET}?delete", "<Delete></Delete>", "MalformedXML"),
        ("no parts", f"{SCRATCH}?uploadId=none", parts.format(""), "MalformedXML"),
        (
            "a part twice",
            f"{SCRATCH}?uploadId=none",
            parts.format(part.format(1, etag) * 2),
            "InvalidPartOrder",
        ),
        (
            "parts in another order",
            f"{SCRATCH}?uploadId=none",
            parts.format(part.format(2, etag) + part.format(1, etag)),
            "InvalidPartOrder",
        ),
        (
            "more parts than there may be",
            f"{SCRATCH}?uploadId=none",
            parts.format("".join(part.format(n, etag) for n in range(1, 10_002))),
            "MalformedXML",
        ),
        (
            "a part number that is none",
            f"{SCRATCH}?uploadId=none",
            parts.format(part.format("1_0", etag)),
            "MalformedXML",
        ),
    ):
        yield Attack(
            f"document/{what}",
            sent("POST", target, {}, document.encode()),
            ((400, code),),
            sent("POST", f"/{BUCKET}?delete", {}, delete.encode()),
        )


_PART = '<Part><PartNumber>1</PartNumber><ETag>"x"</ETag></Part>'
_DOCUMENTS = {
    "DeleteObjects": (
        "POST",
        f"/{BUCKET}?delete",
        "Delete",
        "<Delete><Object><Key>nothing</Key></Object></Delete>",
    ),
    "CompleteMultipartUpload": (
        "POST",
        f"{SCRATCH}?uploadId=none",
        "CompleteMultipartUpload",
        f"<CompleteMultipartUpload>{_PART}</CompleteMultipartUpload>",
    ),
    "CreateBucket": (
        "PUT",
        f"/{BUCKET}",
        "CreateBucketConfiguration",
        (
            "<CreateBucketConfiguration><LocationConstraint>us-east-1</LocationConstraint>"
            "</CreateBucketConfiguration>"
        ),
    ),
}


# ------------------------------------------------------------------- forms

_BOUNDARY = "attack"


def _on_forms() -> Iterator[Attack]:
    """POST of a form whose policy is not kept to. The policy: this bucket, keys that begin with
    `scratch`, one content type, 1 to 10 bytes."""
    twin = _form()
    refused = ((403, "AccessDenied"),)
    cases: dict[str, tuple[Shot, tuple[tuple[int, str], ...]]] = {
        "another key": (_form({"key": "kept"}), refused),
        "another content type": (_form({"Content-Type": "text/html"}), refused),
        "a field nobody allowed": (_form({"x-amz-meta-role": "admin"}), refused),
        "an ACL nobody allowed": (_form({"acl": "public-read"}), refused),
        "tags nobody allowed": (_form({"tagging": "<Tagging/>"}), refused),
        "a redirect nobody allowed": (_form({"success_action_redirect": "http://evil/"}), refused),
        "another bucket": (_form(bucket="other"), refused),
        "an expired policy": (_form(expires_s=-1), refused),
        "too many bytes": (_form(file=b"x" * 11), ((400, "EntityTooLarge"),)),
        "too few bytes": (_form(file=b""), ((400, "EntityTooSmall"),)),
        "a forged signature": (_form({"x-amz-signature": "0" * 64}), _FORGED),
        "no signature": (_form({"x-amz-signature": None}), ((400, "InvalidArgument"), *refused)),
        "no policy": (_form(policy=None), ((400, "InvalidArgument"), *refused)),
        "no key": (_form({"key": None}), ((400, "InvalidArgument"), *refused)),
        "an unknown access key": (
            _form(access_key="FBUNKNOWN"),
            (*refused, (403, "InvalidAccessKeyId")),
        ),
        "a policy that is no JSON": (_form(policy="{"), ((400, "InvalidPolicyDocument"),)),
        "a policy without conditions": (
            _form(policy='{"expiration": "2100-01-01T00:00:00Z"}'),
            ((400, "InvalidPolicyDocument"),),
        ),
        "a policy without expiration": (
            _form(policy='{"conditions": []}'),
            ((400, "InvalidPolicyDocument"),),
        ),
        "no form": (
            lambda door: door.request("POST", f"/{BUCKET}", {}, b"x", sign=False),
            (
                *refused,
                (400, "MalformedPOSTRequest"),
                (412, "PreconditionFailed"),
                (405, "MethodNotAllowed"),
                (400, "InvalidArgument"),
            ),
        ),
        "a form without boundary": (
            lambda door: door.request(
                "POST", f"/{BUCKET}", {"Content-Type": "multipart/form-data"}, b"x", sign=False
            ),
            ((400, "MalformedPOSTRequest"),),
        ),
        "a form that breaks off": (
            lambda door: door.request("POST", f"/{BUCKET}", _FORM_TYPE, b"--attack", sign=False),
            ((400, "MalformedPOSTRequest"), (400, "InvalidArgument")),
        ),
    }
    for what, (shot, codes) in cases.items():
        yield Attack(f"form/{what}", shot, codes, twin)


_FORGED = ((403, "SignatureDoesNotMatch"),)
_FORM_TYPE = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def _form(
    fields: dict[str, str | None] | None = None,
    *,
    policy: str | None = "",
    bucket: str = BUCKET,
    expires_s: int = 60,
    file: bytes = b"12345",
    access_key: str = "",
) -> Shot:
    """fields: those that differ from what the policy allows; one that is None is left out.
    policy: its text in place of the usual one, or None for a form without one."""

    def shoot(door: Door) -> Answer:
        now = datetime.now(UTC)
        scope = Scope(f"{now:%Y%m%d}", s3.REGION, "s3")
        given: dict[str, str | None] = {
            "key": "scratch",
            "Content-Type": "text/plain",
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": f"{access_key or door.key.access_key}/{scope}",
            "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        }
        if policy is not None:
            text = policy or _policy(now + timedelta(seconds=expires_s), bucket, given)
            encoded = _b64(text.encode())
            key = SigningKey.derive(door.key.secret, scope)
            given |= {"policy": encoded, "x-amz-signature": key.sign(encoded)}
        lines = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (given | (fields or {})).items()
            if value is not None
        ]
        head = 'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        body = "".join(lines).encode() + f"--{_BOUNDARY}\r\n{head}".encode() + file
        body += f"\r\n--{_BOUNDARY}--\r\n".encode()
        return door.request("POST", f"/{BUCKET}", _FORM_TYPE, body, sign=False)

    return shoot


def _policy(expiration: datetime, bucket: str, given: dict[str, str | None]) -> str:
    signed = ("x-amz-algorithm", "x-amz-credential", "x-amz-date")
    return json.dumps(
        {
            "expiration": f"{expiration:%Y-%m-%dT%H:%M:%S.000Z}",
            "conditions": [
                {"bucket": bucket},
                ["starts-with", "$key", "scratch"],
                {"Content-Type": "text/plain"},
                ["content-length-range", 1, 10],
                *({name: given[name]} for name in signed),
            ],
        }
    )
