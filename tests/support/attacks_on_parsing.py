"""Attacks on how a request is read: paths, copy sources, framing that two parsers take for two
things, values that no operation can mean, line breaks on their way into headers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.attacks import (
    BUCKET,
    KEPT,
    OTHER_BUCKET,
    SCRATCH,
    Attack,
    Shot,
    sent,
    sent_by_another,
)
from tests.support.s3 import Answer, Door, parse_answer


def attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _on_paths()
    yield from _on_copy_sources()
    yield from _by_another_user()
    yield from _on_framing()
    yield from _on_values()
    yield from _on_headers()


# ------------------------------------------------------------------- paths


def _on_paths() -> Iterator[Attack]:
    for method in ("GET", "PUT", "DELETE"):
        twin = sent(method, SCRATCH, {}, b"x" if method == "PUT" else b"")
        accepts = _known if method == "GET" else None
        for what, (path, code) in _PATHS.items():
            yield Attack(
                f"path/{method} {what}",
                sent(method, path, {}, b"x" if method == "PUT" else b""),
                ((404 if code == "NoSuchBucket" else 400, code),),
                twin,
                *([accepts] if accepts else []),
            )
    for what, path in _KEYS.items():
        # No error: each of these is a key, and nothing but that key.
        yield Attack(
            f"path/{what} is a key of its own",
            sent("GET", f"/{BUCKET}/{path}"),
            ((404, "NoSuchKey"),),
            sent("GET", KEPT),
        )
    yield Attack(
        "path/an absolute URI of another host",
        _raw(f"GET http://evil{KEPT} HTTP/1.1\r\nHost: {{host}}\r\n\r\n"),
        ((400, "InvalidURI"),),
        sent("GET", KEPT),
    )
    yield Attack(
        "path/a fragment",
        _raw(f"GET {KEPT}#x HTTP/1.1\r\nHost: {{host}}\r\n\r\n"),
        ((400, "InvalidURI"), (400, "BadRequest")),
        sent("GET", KEPT),
    )


_PATHS = {
    "of a NUL": (f"/{BUCKET}/a%00b", "InvalidURI"),
    "of no UTF-8": (f"/{BUCKET}/%ff%fe", "InvalidURI"),
    "of overlong UTF-8": (f"/{BUCKET}/%c0%ae%c0%ae/x", "InvalidURI"),
    "of a surrogate": (f"/{BUCKET}/%ed%a0%80", "InvalidURI"),
    "of half an escape": (f"/{BUCKET}/%", "InvalidURI"),
    "of an escape that is none": (f"/{BUCKET}/%g0", "InvalidURI"),
    "that is too long": (f"/{BUCKET}/" + "x" * 1025, "KeyTooLongError"),
    "that is too long in bytes": (f"/{BUCKET}/" + "%C3%A9" * 513, "KeyTooLongError"),
    "of a bucket that is above": ("/%2e%2e/x", "InvalidBucketName"),
    "of a bucket that is here": ("/./x", "InvalidBucketName"),
    "of a bucket with a slash": (f"/{BUCKET}%2Fx/y", "InvalidBucketName"),
    "of a bucket with a NUL": (f"/{BUCKET}%00/y", "InvalidBucketName"),
    "of a bucket with a backslash": ("/..%5C..%5Cx/y", "InvalidBucketName"),
    "of no bucket": ("//x/y", "InvalidBucketName"),
    "of a hidden bucket": ("/.forebay/x", "InvalidBucketName"),
    "of a bucket that is not there": ("/no-such-bucket/key", "NoSuchBucket"),
}
_KEYS = {
    "..": "..",
    "../..": "../../etc/passwd",
    "an encoded ..": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "a backslash": "..%5c..%5ckept",
    "a doubled slash": "/kept",
    "./": "./kept",
    "a slash behind": "kept/",
    "a name twice encoded": "%256bept",
    "a space behind": "kept%20",
    "a dot behind": "kept.",
    "capitals": "KEPT",
    "an own name": ".forebay/bucket.json",
    "a temporary name": ".forebay-tmp/x",
    "a lock": ".forebay-tmp/locks/00",
    "a decomposed letter": "ke%CC%81pt",
    "a name too long for a file": "k" * 300,
    "a path too deep for a file system": "k/" * 511 + "k",
}


def _known(answer: Answer) -> bool:
    return answer.status in (200, 404)


def _raw(wire: str) -> Shot:
    return lambda door: parse_answer(door.raw(wire.format(host=door.host).encode("latin-1")))


# ------------------------------------------------------------------- copy sources


def _on_copy_sources() -> Iterator[Attack]:
    twin = sent("PUT", SCRATCH, {"x-amz-copy-source": f"{BUCKET}/kept"})
    for what, (source, status, code) in _SOURCES.items():
        yield Attack(
            f"copy source/{what}",
            sent("PUT", SCRATCH, {"x-amz-copy-source": source}),
            ((status, code),),
            twin,
        )
        yield Attack(
            f"part's copy source/{what}",
            sent("PUT", f"{SCRATCH}?partNumber=1&uploadId=none", {"x-amz-copy-source": source}),
            ((status, code), (404, "NoSuchUpload")),
            twin,
        )
    for what, header in {
        "another ETag": {"x-amz-copy-source-if-match": '"0"'},
        "this ETag unwanted": {"x-amz-copy-source-if-none-match": "*"},
        "changed since": {"x-amz-copy-source-if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"},
        "unchanged": {"x-amz-copy-source-if-unmodified-since": "Fri, 01 Jan 1999 00:00:00 GMT"},
    }.items():
        yield Attack(
            f"copy source/{what}",
            sent("PUT", SCRATCH, {"x-amz-copy-source": f"{BUCKET}/kept", **header}),
            ((412, "PreconditionFailed"),),
            twin,
        )


def _by_another_user() -> Iterator[Attack]:
    """Copies need a right to read, and one to write."""
    no = ((403, "AccessDenied"),)
    own, source = f"/{OTHER_BUCKET}/copy", {"x-amz-copy-source": f"{BUCKET}/kept"}
    begun = f"{own}?partNumber=1&uploadId=none"
    twin = sent("PUT", SCRATCH, source)
    yield Attack("copy source/of somebody else", sent_by_another("PUT", own, source), no, twin)
    yield Attack(
        "part's copy source/of somebody else",
        sent_by_another("PUT", begun, source),
        (*no, (404, "NoSuchUpload")),
        twin,
    )
    yield Attack(
        "copy source/into somebody else's bucket",
        sent_by_another("PUT", SCRATCH, {"x-amz-copy-source": f"{OTHER_BUCKET}/own"}),
        no,
        sent_by_another("PUT", own, {"x-amz-copy-source": f"{OTHER_BUCKET}/own"}),
    )


_SOURCES = {
    "empty": ("", 400, "InvalidArgument"),
    "a slash": ("/", 400, "InvalidArgument"),
    "a bucket": (BUCKET, 400, "InvalidArgument"),
    "a bucket and a slash": (f"{BUCKET}/", 400, "InvalidArgument"),
    "above": ("../../etc/passwd", 400, "InvalidBucketName"),
    "another bucket": ("no-such-bucket/key", 404, "NoSuchBucket"),
    "no object": (f"{BUCKET}/nothing", 404, "NoSuchKey"),
    "a key above": (f"{BUCKET}/../{BUCKET}/kept", 404, "NoSuchKey"),
    "no UTF-8": (f"{BUCKET}/%ff", 400, "InvalidURI"),
    "a NUL": (f"{BUCKET}/%00", 400, "InvalidURI"),
    "an encoded question mark": (f"{BUCKET}/kept%3FversionId=null", 404, "NoSuchKey"),
    "an unknown parameter": (f"{BUCKET}/kept?x=y", 400, "InvalidArgument"),
}


# ------------------------------------------------------------------- framing


def _on_framing() -> Iterator[Attack]:
    bad = ((400, "BadRequest"), (400, "InvalidRequest"), (400, "InvalidArgument"))
    twin = _framed("Content-Length: 5")
    for what, lines in _FRAMINGS.items():
        yield Attack(f"framing/{what}", _framed(*lines), bad, twin)
    for what, body in {
        "a chunk size that is none": b"x\r\nhello\r\n0\r\n\r\n",
        "a chunk longer than it says": b"5\r\nhelloX\r\n0\r\n\r\n",
        "a negative chunk": b"-5\r\nhello\r\n0\r\n\r\n",
        "a chunk beyond all memory": b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    }.items():
        yield Attack(
            f"framing/{what}",
            _framed("Transfer-Encoding: chunked", body=body),
            bad,
            _framed("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        )
    for what, wire in _NOT_HTTP.items():
        yield Attack(
            f"not HTTP/{what}",
            lambda door, w=wire: parse_answer(door.raw(w)),  # type: ignore[misc]
            (*bad, (400, "RequestHeaderSectionTooLarge"), (400, "InvalidURI")),
            sent("GET", KEPT),
        )
    yield Attack("framing/no length", _framed(body=b""), ((411, "MissingContentLength"),), twin)
    yield Attack(
        "framing/more than a PUT may have",
        _framed(f"Content-Length: {(5 << 30) + 1}", body=b""),
        ((400, "EntityTooLarge"),),
        twin,
    )


_FRAMINGS = {
    "two kinds of length": ("Content-Length: 5", "Transfer-Encoding: chunked"),
    "two lengths": ("Content-Length: 5", "Content-Length: 6"),
    "the same length twice": ("Content-Length: 5", "Content-Length: 5"),
    "a negative length": ("Content-Length: -1",),
    "a signed length": ("Content-Length: +5",),
    "a hexadecimal length": ("Content-Length: 0x5",),
    "a list of lengths": ("Content-Length: 5, 5",),
    "a length of other digits": ("Content-Length: \xb2",),
    "an unknown encoding": ("Transfer-Encoding: xchunked",),
    "chunked, and then not": ("Transfer-Encoding: chunked, identity",),
    "a space before the colon": ("Content-Length : 5",),
    "a NUL in a header": ("Content-Length: 5", "X-Nul: a\0b"),
    "a folded header": ("Content-Length: 5", "X-Folded: a", " b"),
    "a header without a name": ("Content-Length: 5", ": x"),
    "a header without a colon": ("Content-Length: 5", "nothing"),
    "a header name with a space": ("Content-Length: 5", "X Y: z"),
}
_NOT_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "half a line": b"GET\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "bytes in the path": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "five thousand headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    "a path without end": b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
}


def _framed(*lines: str, body: bytes = b"hello") -> Shot:
    def shoot(door: Door) -> Answer:
        target = door.presign("PUT", SCRATCH)
        head = [f"PUT {target} HTTP/1.1", f"Host: {door.host}", *lines, "", ""]
        wire = door.raw("\r\n".join(head).encode("latin-1") + body)
        assert wire.count(b"HTTP/1.") == 1, "what follows an error must not be answered"
        return parse_answer(wire)

    return shoot


# ------------------------------------------------------------------- values


def _on_values() -> Iterator[Attack]:
    listing = sent("GET", f"/{BUCKET}?list-type=2&max-keys=10")
    for query in (
        "list-type=2&max-keys=-1",
        "list-type=2&max-keys=x",
        "list-type=2&max-keys=1_0",
        "list-type=2&max-keys=99999999999999999999999",
        "list-type=2&max-keys=%D9%A1",
        "list-type=2&encoding-type=base64",
        "list-type=2&continuation-token=x",
        "max-keys=-1",
        "max-keys=",
        "max-keys=1&max-keys=2",
        "uploads&max-uploads=x",
        "uploads&max-uploads=-1",
        "versions&max-keys=-1",
        "list-type=2&fetch-owner=perhaps",
    ):
        yield Attack(
            f"value/?{query}",
            sent("GET", f"/{BUCKET}?{query}"),
            ((400, "InvalidArgument"),),
            listing,
        )
    for query in (
        "partNumber=0&uploadId=none",
        "partNumber=10001&uploadId=none",
        "partNumber=-1&uploadId=none",
        "partNumber=x&uploadId=none",
        "partNumber=1.5&uploadId=none",
    ):
        yield Attack(
            f"value/?{query}",
            sent("PUT", f"{SCRATCH}?{query}", {}, b"x"),
            ((400, "InvalidArgument"),),
            sent("PUT", SCRATCH, {}, b"x"),
        )
    for upload in ("none", "..%2F..%2Fx", "%00", "x" * 1000):
        yield Attack(
            f"value/?uploadId={upload[:20]}",
            sent("PUT", f"{SCRATCH}?partNumber=1&uploadId={upload}", {}, b"x"),
            ((404, "NoSuchUpload"), (400, "InvalidURI"), (400, "InvalidArgument")),
            sent("PUT", SCRATCH, {}, b"x"),
        )
    for what, headers in {
        "a range beyond the end": {"Range": "bytes=99999-"},
        "a range of no bytes": {"Range": "bytes=-0"},
    }.items():
        yield Attack(
            f"value/{what}",
            sent("GET", KEPT, headers),
            ((416, "InvalidRange"),),
            sent("GET", KEPT, {"Range": "bytes=0-3"}),
        )
    for what, headers in {
        "a range and a part": {"Range": "bytes=0-1"},
    }.items():
        yield Attack(
            f"value/{what}",
            sent("GET", f"{KEPT}?partNumber=1", headers),
            ((400, "InvalidRequest"),),
            sent("GET", f"{KEPT}?partNumber=1"),
        )


# ------------------------------------------------------------------- headers of answers


def _on_headers() -> Iterator[Attack]:
    for name in ("content-type", "content-disposition", "cache-control", "content-language",
                 "content-encoding", "expires"):  # fmt: skip
        for what, text in {
            "a line break": "a%0D%0ASet-Cookie%3A%20b",
            "a line feed": "a%0Ab",
            "a NUL": "a%00b",
        }.items():
            yield Attack(
                f"header/{what} in response-{name}",
                sent("GET", f"{KEPT}?response-{name}={text}"),
                ((400, "InvalidArgument"),),
                sent("GET", f"{KEPT}?response-{name}=a"),
                lambda answer: answer.status == 200 and "Set-Cookie" not in answer.headers,
            )
    for what, headers in {
        "more metadata than there may be": {"x-amz-meta-a": "x" * 2048},
        "more metadata in many": {f"x-amz-meta-{n}": "x" * 100 for n in range(21)},
    }.items():
        yield Attack(
            f"header/{what}",
            sent("PUT", SCRATCH, headers, b"x"),
            ((400, "MetadataTooLarge"),),
            sent("PUT", SCRATCH, {"x-amz-meta-a": "x" * 2000}, b"x"),
        )
    for header, value in {
        "x-amz-storage-class": "WARM",
        "x-amz-acl": "everything",
        "x-amz-checksum-algorithm": "CRC8",
    }.items():
        target = f"{SCRATCH}?uploads" if header == "x-amz-checksum-algorithm" else SCRATCH
        method = "POST" if header == "x-amz-checksum-algorithm" else "PUT"
        yield Attack(
            f"header/{header}: {value}",
            sent(method, target, {header: value}),
            ((400, "InvalidStorageClass"), (400, "InvalidArgument"), (400, "InvalidRequest")),
            sent(method, target),
        )
