"""Attacks on who is asking: signatures forged, left out, replayed, of others; headers unsigned.

Routes are taken from botocore's model of S3: whatever Amazon has an operation for must not answer
who cannot prove who they are, offered here or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from s3api.sigv4 import STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER
from tests.support import s3
from tests.support.attacks import BUCKET, KEPT, SCRATCH, Attack, Shot, let_in, sent, sent_by_another
from tests.support.s3 import Answer, Door

_STREAMING = {
    "x-amz-content-sha256": STREAMING_UNSIGNED_TRAILER,
    "x-amz-decoded-content-length": "0",
}
_FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _on_routes()
    yield from _on_headers()
    yield from _on_authorization()
    yield from _on_time()
    yield from _on_presigned_urls()
    yield from _for_existence()


# ------------------------------------------------------------------- every route, not proven


_ELSEWHERE = {"CreateSession", "RenameObject", "WriteGetObjectResponse"}
"""Of directory buckets and Object Lambda, which have endpoints of their own on Amazon: as requests
to this one they are no operation, and are refused before anybody is asked who they are."""


@lru_cache(1)
def routes() -> dict[str, tuple[str, str]]:
    """Method and target of a small request for each operation of the model."""
    service: Any = botocore.session.get_session().get_service_model("s3")
    found = {}
    for name in service.operation_names:
        operation = service.operation_model(name)
        method = operation.http["method"]
        target = operation.http["requestUri"]
        key = "kept" if method in ("GET", "HEAD") else "scratch"
        target = target.replace("{Bucket}", BUCKET).replace("{Key+}", key)
        shape = operation.input_shape
        for member in shape.required_members if shape is not None else ():
            place = shape.members[member].serialization
            if place.get("location") == "querystring":
                value = "1" if member == "PartNumber" else "none"
                target += ("&" if "?" in target else "?") + f"{place['name']}={value}"
        found[name] = (method, re.sub(r"\?&", "?", target))
    return {name: route for name, route in found.items() if name not in _ELSEWHERE}


def _refused(method: str, code: str, status: int = 403) -> tuple[tuple[int, str], ...]:
    return ((status, "" if method == "HEAD" else code),)


def _on_routes() -> Iterator[Attack]:
    for name, (method, target) in routes().items():
        twin = sent(method, target)
        no = _refused(method, "SignatureDoesNotMatch")
        yield Attack(f"forged signature/{name}", _forged(method, target), no, twin, let_in)
        yield Attack(f"forged URL/{name}", _forged_url(method, target), no, twin, let_in)
        no = _refused(method, "AccessDenied")
        yield Attack(f"anonymous/{name}", sent(method, target, sign=False), no, twin, let_in)
        if target != "/":  # everybody may list buckets, their own
            code = ((409, "BucketAlreadyExists"),) if name == "CreateBucket" else no
            yield Attack(
                f"another user/{name}", sent_by_another(method, target), code, twin, let_in
            )
    for name in _CHANGING:
        method, target = routes()[name]
        twin = sent(method, target)
        for what, headers in (("streaming", _STREAMING), ("form", _FORM)):
            if what == "form" and target == f"/{BUCKET}":
                continue
            yield Attack(
                f"anonymous {what}/{name}",
                sent(method, target, headers, sign=False),
                _refused(method, "AccessDenied"),
                twin,
                let_in,
            )
        no = _refused(method, "InvalidAccessKeyId")
        yield Attack(f"unknown key/{name}", _by_a_stranger(method, target), no, twin, let_in)
        old = {"Authorization": "AWS someone:c2lnbmF0dXJl"}
        shot = sent(method, target, old, sign=False)
        no = _refused(method, "InvalidRequest", 400)
        yield Attack(f"signature version 2/{name}", shot, no, twin, let_in)


_CHANGING = (
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteObject",
    "DeleteObjects",
    "PutBucketAcl",
    "PutBucketPolicy",
    "PutObject",
    "PutObjectTagging",
    "UploadPart",
)


def _forged(method: str, target: str) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign(method, target)
        headers["Authorization"] = _another_digit(headers["Authorization"])
        return door.request(method, target, headers, sign=False)

    return shoot


def _another_digit(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def _forged_url(method: str, target: str) -> Shot:
    return lambda door: door.request(
        method, _another_digit(door.presign(method, target)), sign=False
    )


def _by_a_stranger(method: str, target: str) -> Shot:
    def shoot(door: Door) -> Answer:
        request = AWSRequest(method, door.url + target, headers={"Host": door.host})
        S3SigV4Auth(Credentials("FBUNKNOWN", "secret"), "s3", s3.REGION).add_auth(request)
        return door.request(method, target, dict(request.headers.items()), sign=False)

    return shoot


# ------------------------------------------------------------------- headers nobody signed


def _on_headers() -> Iterator[Attack]:
    for header, value in _UNSIGNED.items():
        no = ((403, "AccessDenied"),)
        signed = sent("PUT", SCRATCH, {header: value}, b"x")
        yield Attack(
            f"unsigned header/{header}", _with_unsigned(header, value), no, signed, _not_403
        )
        yield Attack(
            f"unsigned header beside a URL/{header}",
            _beside_url(header, value),
            no,
            _in_url(header, value),
            _not_403,
        )
    for header in ("x-amz-date", "x-amz-content-sha256", "Authorization", "Host"):
        yield Attack(
            f"doubled header/{header}",
            _doubled(header),
            ((400, "InvalidRequest"), (400, "BadRequest")),
            sent("PUT", SCRATCH, {}, b""),
        )


_UNSIGNED = {
    "x-amz-copy-source": f"{BUCKET}/kept",
    "x-amz-acl": "private",
    "x-amz-grant-read": "uri=http://acs.amazonaws.com/groups/global/AllUsers",
    "x-amz-tagging": "a=b",
    "x-amz-meta-role": "admin",
    "x-amz-metadata-directive": "REPLACE",
    "x-amz-storage-class": "STANDARD",
    "x-amz-object-lock-mode": "COMPLIANCE",
    "x-amz-object-lock-legal-hold": "ON",
    "x-amz-server-side-encryption": "AES256",
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-website-redirect-location": "http://evil/",
    "x-amz-checksum-crc32": "AAAAAA==",
    "x-amz-expected-bucket-owner": "0" * 64,
    "x-amz-decoded-content-length": "1",
    "x-amz-request-payer": "requester",
    "x-amz-bypass-governance-retention": "true",
}


def _not_403(answer: Answer) -> bool:
    """The header was read: what became of the request is its operation's matter. Only the owner
    that was expected is another's."""
    return "not signed" not in answer.body.decode()


def _with_unsigned(header: str, value: str) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign("PUT", SCRATCH, {}, b"x") | {header: value}
        return door.request("PUT", SCRATCH, headers, b"x", sign=False)

    return shoot


def _beside_url(header: str, value: str) -> Shot:
    return lambda door: door.request(
        "PUT", door.presign("PUT", SCRATCH), {header: value}, b"x", sign=False
    )


def _in_url(header: str, value: str) -> Shot:
    def shoot(door: Door) -> Answer:
        url = door.presign("PUT", SCRATCH, headers={header: value})
        return door.request("PUT", url, {header: value}, b"x", sign=False)

    return shoot


def _doubled(header: str) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign("PUT", SCRATCH)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"{header}: {headers.get(header, door.host)}", "Content-Length: 0", "", ""]
        wire = "\r\n".join([f"PUT {SCRATCH} HTTP/1.1", *lines])
        return s3.parse_answer(door.raw(wire.encode()))

    return shoot


# ------------------------------------------------------------------- the Authorization header


def _on_authorization() -> Iterator[Attack]:
    twin = sent("PUT", SCRATCH, {}, b"x")
    malformed = ((400, "AuthorizationHeaderMalformed"),)
    for what, (old, new) in _MALFORMED.items():
        yield Attack(f"authorization/{what}", _edited(old, new), malformed, twin)
    for scheme in ("AWS4-HMAC-SHA512 ", "Bearer ", "Basic ", "AWS4-HMAC-SHA256", ""):
        yield Attack(
            f"authorization scheme/{scheme.strip() or 'none'}",
            _edited("AWS4-HMAC-SHA256 ", scheme),
            ((400, "InvalidRequest"), (400, "InvalidArgument")),
            twin,
        )
    for what, text in {"empty": "", "spaces": "   ", "one word": "x"}.items():
        yield Attack(
            f"authorization/{what}",
            sent("PUT", SCRATCH, {"Authorization": text}, b"x", sign=False),
            ((400, "InvalidRequest"), (400, "InvalidArgument"), (403, "AccessDenied")),
            twin,
        )
    yield Attack(
        "authorization/host is not signed", _edited("host;", ""), _SIGNATURE, twin
    )  # the header is there, so only its signature can be missed
    yield Attack(
        "authorization/in header and URL",
        lambda door: door.request("PUT", door.presign("PUT", SCRATCH), door.sign("PUT", SCRATCH)),
        ((400, "InvalidArgument"),),
        twin,
    )
    for what in ("X-Amz-Content-SHA256", "X-Amz-Date"):
        code = "InvalidRequest" if what == "X-Amz-Content-SHA256" else "AccessDenied"
        yield Attack(
            f"authorization/without {what}",
            _without(what),
            ((403 if code == "AccessDenied" else 400, code),),
            twin,
        )


_SIGNATURE = ((403, "SignatureDoesNotMatch"),)
_MALFORMED = {
    "of another service": ("/s3/", "/ec2/"),
    "of another protocol": ("aws4_request", "aws3_request"),
    "without a scope": ("/us-east-1/s3/aws4_request", ""),
    "without a signature": (", Signature=", ", Sign="),
    "with a signature that is none": (", Signature=", ", Signature=x"),
    "without signed headers": ("SignedHeaders=", "Signed="),
    "with signed headers twice": ("SignedHeaders=host", "SignedHeaders=host;host"),
    "with signed headers in capitals": ("SignedHeaders=host", "SignedHeaders=HOST"),
    "with two credentials": (", SignedHeaders", ", Credential=x, SignedHeaders"),
    "of another day": ("/{day}/", "/20200101/"),
    "of no day": ("/{day}/", "/today/"),
}


def _edited(old: str, new: str) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign("PUT", SCRATCH, {}, b"x")
        signed = old.format(day=headers["X-Amz-Date"][:8])
        assert signed in headers["Authorization"], old
        headers["Authorization"] = headers["Authorization"].replace(signed, new, 1)
        return door.request("PUT", SCRATCH, headers, b"x", sign=False)

    return shoot


def _without(header: str) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign("PUT", SCRATCH, {}, b"x")
        return door.request(
            "PUT", SCRATCH, {n: v for n, v in headers.items() if n != header}, b"x", sign=False
        )

    return shoot


# ------------------------------------------------------------------- old and future requests


class _SignedAt(S3SigV4Auth):
    """Signs as if it were another moment."""

    def __init__(self, door: Door, moment: datetime) -> None:
        super().__init__(door.credentials, "s3", s3.REGION)
        self._moment = f"{moment:%Y%m%dT%H%M%SZ}"

    def add_auth(self, request: Any) -> None:
        request.headers["X-Amz-Date"] = request.context["timestamp"] = self._moment
        request.headers["X-Amz-Content-SHA256"] = self.payload(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        credential = f"Credential={self.scope(request)}"
        signed = f"SignedHeaders={self.signed_headers(self.headers_to_sign(request))}"
        signature = f"Signature={self.signature(text, request)}"
        request.headers["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, {signed}, {signature}"


def _signed_at(minutes: float) -> Shot:
    def shoot(door: Door) -> Answer:
        request = AWSRequest("PUT", door.url + SCRATCH, headers={"Host": door.host}, data=b"x")
        _SignedAt(door, datetime.now(UTC) + timedelta(minutes=minutes)).add_auth(request)
        return door.request("PUT", SCRATCH, dict(request.headers.items()), b"x", sign=False)

    return shoot


def _on_time() -> Iterator[Attack]:
    no = ((403, "RequestTimeTooSkewed"),)
    for minutes in (-20, -15.1, 15.1, 20, 60 * 24 * 365, -60 * 24 * 365):
        yield Attack(f"replay/{minutes:+} minutes", _signed_at(minutes), no, _signed_at(0))
    for minutes in (-14.9, 14.9):
        yield Attack(
            f"replay/{minutes * 2:+} minutes, by a clock within bounds twice",
            _signed_at(minutes * 2),
            no,
            _signed_at(minutes),
        )
    for date in ("", "now", "20260101", "20260101T000000", "20269901T000000Z", "Mon, 1 Jan"):
        yield Attack(
            f"date/{date or 'empty'}",
            _dated(date),
            ((403, "AccessDenied"), (400, "InvalidRequest")),
            _signed_at(0),
        )


def _dated(date: str) -> Shot:
    def shoot(door: Door) -> Answer:
        headers = door.sign("PUT", SCRATCH, {}, b"x") | {"X-Amz-Date": date}
        return door.request("PUT", SCRATCH, headers, b"x", sign=False)

    return shoot


# ------------------------------------------------------------------- presigned URLs


def _on_presigned_urls() -> Iterator[Attack]:
    parameters = ((400, "AuthorizationQueryParametersError"),)
    twin = _url(KEPT)
    for what, (old, new) in _URL_EDITS.items():
        yield Attack(f"edited URL/{what}", _url(KEPT, old, new), _SIGNATURE, twin)
    for what, (old, new) in _URL_DEFECTS.items():
        yield Attack(f"broken URL/{what}", _url(KEPT, old, new), parameters, twin)
    for left_out in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"):
        yield Attack(
            f"broken URL/without X-Amz-{left_out}", _url_without(left_out), parameters, twin
        )
    for expires_s in (604801, 10**12):
        yield Attack(
            f"broken URL/valid for {expires_s} s",
            lambda door, s=expires_s: door.request(  # type: ignore[misc]
                "GET", door.presign("GET", KEPT, expires_s=s), sign=False
            ),
            parameters,
            lambda door: door.request(
                "GET", door.presign("GET", KEPT, expires_s=604800), sign=False
            ),
        )
    for method in ("PUT", "DELETE", "HEAD"):
        yield Attack(
            f"edited URL/as {method}",
            lambda door, m=method: door.request(m, door.presign("GET", KEPT), sign=False),  # type: ignore[misc]
            _refused(method, "SignatureDoesNotMatch"),
            twin,
        )
    yield Attack(
        "edited URL/a parameter twice",
        _url(KEPT, "X-Amz-Expires=60", "X-Amz-Expires=60&X-Amz-Expires=604800"),
        ((400, "InvalidArgument"),),
        twin,
    )
    yield Attack(
        "presigned URL/a streaming body nobody signed",
        lambda door: door.request(
            "PUT",
            door.presign("PUT", SCRATCH),
            {"x-amz-content-sha256": STREAMING_SIGNED},
            b"0\r\n\r\n",
            sign=False,
        ),
        ((403, "AccessDenied"),),
        lambda door: door.request("PUT", door.presign("PUT", SCRATCH), body=b"x", sign=False),
    )


_URL_EDITS = {
    "another key": ("/kept?", "/other?"),
    "another bucket": (f"/{BUCKET}/", "/other-bucket/"),
    "a key below": ("/kept?", "/kept/x?"),
    "a key encoded twice": ("/kept?", "/%256Bept?"),
    "a longer life": ("X-Amz-Expires=60", "X-Amz-Expires=600"),
    "an override": ("?", "?response-content-type=text%2Fhtml&"),
    "a version": ("?", "?versionId=null&"),
    "a part": ("?", "?partNumber=1&"),
    "a sub-resource": ("?", "?acl&"),
    "an upload": ("?", "?uploadId=x&"),
    "another region": ("us-east-1", "us-west-1"),
    "an unknown parameter": ("?", "?x=y&"),
}
_URL_DEFECTS = {
    "of another algorithm": ("AWS4-HMAC-SHA256", "AWS4-HMAC-MD5"),
    "of another service": ("%2Fs3%2F", "%2Fec2%2F"),
    "of another protocol": ("aws4_request", "aws5_request"),
    "without a scope": ("%2Fs3%2Faws4_request", ""),
    "valid for no number": ("X-Amz-Expires=60", "X-Amz-Expires=long"),
    "valid for less than nothing": ("X-Amz-Expires=60", "X-Amz-Expires=-1"),
    "with signed headers in capitals": ("SignedHeaders=host", "SignedHeaders=HOST"),
    "with a signature that is none": ("Signature=", "Signature=g"),
    "of no moment": ("X-Amz-Date=20", "X-Amz-Date=x"),
}


def _url(target: str, old: str = "", new: str = "") -> Shot:
    def shoot(door: Door) -> Answer:
        url = door.presign("GET", target)
        assert old in url, old
        return door.request("GET", url.replace(old, new, 1) if old else url, sign=False)

    return shoot


def _url_without(parameter: str) -> Shot:
    def shoot(door: Door) -> Answer:
        path, _, query = door.presign("GET", KEPT).partition("?")
        left = [p for p in query.split("&") if not p.startswith(f"X-Amz-{parameter}=")]
        return door.request("GET", f"{path}?{'&'.join(left)}", sign=False)

    return shoot


# ------------------------------------------------------------------- what exists


def _for_existence() -> Iterator[Attack]:
    """Who is refused learns the same of what exists and of what does not."""
    no = ((403, "AccessDenied"),)
    for where, target in {
        "an object": KEPT,
        "no object": f"/{BUCKET}/nothing",
    }.items():
        for what, headers in _QUESTIONS.items():
            yield Attack(
                f"oracle/{what} of {where}",
                sent("GET", target, headers, sign=False),
                no,
                sent("GET", target, headers),
                let_in,
            )
            if where != "no bucket":  # names of buckets are no secret
                yield Attack(
                    f"oracle/{what} of {where}, by another user",
                    sent_by_another("GET", target, headers),
                    no,
                    sent("GET", target, headers),
                    let_in,
                )
        for query in ("attributes", "acl", "tagging", "partNumber=99", "versionId=null"):
            yield Attack(
                f"oracle/?{query} of {where}",
                sent("GET", f"{target}?{query}", {"x-amz-object-attributes": "ETag"}, sign=False),
                no,
                sent("GET", f"{target}?{query}", {"x-amz-object-attributes": "ETag"}),
                let_in,
            )


_QUESTIONS = {
    "If-Match": {"If-Match": '"0"'},
    "If-None-Match": {"If-None-Match": "*"},
    "If-Modified-Since": {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    "Range": {"Range": "bytes=99999-"},
}
