"""Signature Version 4 against botocore's signer, an implementation by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3api import sigv4
from s3api.errors import S3Error
from s3api.parsing import split_query
from s3api.sigv4 import PRESIGNED_S_MAX, SKEW_S_MAX, Claim, Request, read_claim, verify

ACCESS_KEY = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
HOST = "s3.test:29998"


@dataclass(frozen=True)
class Wire:
    """A signed request as it is sent."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    def as_request(self) -> Request:
        lower = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.method, self.path, split_query(self.query), lower)


def sign(
    method: str = "PUT",
    path: str = "/bucket/key",
    query: str = "",
    headers: dict[str, str] | None = None,
    body: bytes = b"body",
) -> Wire:
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers={"Host": HOST, **(headers or {})}, data=body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET), "s3", "us-east-1").add_auth(request)
    return Wire(method, path, query, dict(request.headers.items()))


def presign(
    method: str = "GET",
    path: str = "/bucket/key",
    query: str = "",
    headers: dict[str, str] | None = None,
    expires_s: int = 3600,
) -> Wire:
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers={"Host": HOST, **(headers or {})})
    signer = S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET), "s3", "us-east-1", expires=expires_s)
    signer.add_auth(request)
    signed = urlsplit(request.url)
    return Wire(method, signed.path, signed.query, {"Host": HOST, **(headers or {})})


def now() -> datetime:
    return datetime.now(UTC)


def check(wire: Wire, at: datetime | None = None, secret: str = SECRET) -> Claim:
    """What the gateway does."""
    request = wire.as_request()
    claim = read_claim(request, at or now())
    assert claim is not None
    verify(request, claim, secret)
    return claim


def code_of(wire: Wire, at: datetime | None = None) -> str:
    with pytest.raises(S3Error) as refusal:
        check(wire, at)
    return refusal.value.code


def test_signed_requests_are_accepted() -> None:
    claim = check(sign())
    assert claim.access_key == ACCESS_KEY
    assert not claim.presigned
    assert str(claim.scope).endswith("/us-east-1/s3/aws4_request")


def test_presigned_requests_are_accepted() -> None:
    claim = check(presign())
    assert claim.presigned
    assert claim.payload_hash == "UNSIGNED-PAYLOAD"


segments = st.text(min_size=1, max_size=20).filter(lambda t: "\0" not in t and t.isprintable())


@given(
    key=segments,
    query=st.dictionaries(segments, segments, max_size=4),
    metadata=st.dictionaries(
        st.from_regex(r"x-amz-meta-[a-z0-9]{1,8}", fullmatch=True),
        st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True),
        max_size=3,
    ),
)
@settings(max_examples=150, deadline=None)
def test_whatever_botocore_signs_is_accepted(
    key: str, query: dict[str, str], metadata: dict[str, str]
) -> None:
    query = {name: value for name, value in query.items() if not name.startswith("X-Amz")}
    encoded = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in query.items())
    check(sign(path="/bucket/" + quote(key, safe="/~"), query=encoded, headers=metadata))
    check(presign(path="/bucket/" + quote(key, safe="/~"), query=encoded))


def test_a_wrong_secret_is_refused() -> None:
    with pytest.raises(S3Error) as refusal:
        check(sign(), secret="wrong")
    assert refusal.value.code == "SignatureDoesNotMatch"
    assert SECRET not in str(vars(refusal.value))


# ----------------------------------------------------------------------- mutations


def flip(text: str, position: int, to: str) -> str:
    at = position % len(text)
    return text[:at] + to + text[at + 1 :]


def canonical(wire: Wire) -> tuple[Any, ...]:
    """What a signature is about, told independently: the decoded request."""
    signed = {name.lower(): " ".join(value.split()) for name, value in wire.headers.items()}
    return (
        wire.method,
        unquote(wire.path, errors="surrogateescape"),
        sorted(parse_qsl(wire.query, keep_blank_values=True, errors="surrogateescape")),
        signed,
    )


@given(
    presigned=st.booleans(),
    part=st.sampled_from(["method", "path", "query", "header", "name"]),
    position=st.integers(0, 10_000),
    to=st.characters(min_codepoint=33, max_codepoint=126),
    data=st.data(),
)
@settings(max_examples=1000, deadline=None)
def test_no_changed_request_is_accepted(
    presigned: bool, part: str, position: int, to: str, data: st.DataObject
) -> None:
    wire = (presign if presigned else sign)(
        path="/bucket/a~b%20c", query="prefix=x%2Fy&list-type=2", headers={"x-amz-meta-a": "b"}
    )
    changed = wire
    if part == "method":
        changed = replace(wire, method=data.draw(st.sampled_from(["GET", "DELETE", "POST"])))
    elif part in ("path", "query"):
        changed = replace(wire, **{part: flip(getattr(wire, part), position, to)})
    else:
        name = data.draw(st.sampled_from(sorted(wire.headers)))
        headers = dict(wire.headers)
        value = headers.pop(name)
        if part == "name":
            headers[flip(name, position, to)] = value
        else:
            headers[name] = flip(value, position, to)
        changed = replace(wire, headers=headers)
    if canonical(changed) == canonical(wire):
        check(changed)
        return
    try:
        request = changed.as_request()
        claim = read_claim(request, now())
        if claim is None or claim.access_key != ACCESS_KEY:
            return  # anonymous, or a key that is not found: refused elsewhere
        verify(request, claim, SECRET)
    except S3Error:
        return
    # Only what no signature covers may differ: headers that are not x-amz-* and not signed.
    before, after = canonical(wire), canonical(changed)
    assert before[:3] == after[:3], (wire, changed)
    signed = set(claim.signed_headers) | {"authorization"}
    assert {n: v for n, v in before[3].items() if n in signed} == {
        n: v for n, v in after[3].items() if n in signed
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-amz-copy-source", "bucket/secret"),
        ("x-amz-acl", "public-read"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-meta-role", "admin"),
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-date", "20200101T000000Z"),
    ],
)
@pytest.mark.parametrize("make", [sign, presign])
def test_unsigned_amz_headers_are_refused(make: Callable[..., Wire], name: str, value: str) -> None:
    wire = make(method="PUT")
    check(wire)
    added = replace(wire, headers={**wire.headers, name: value})
    if name in {header.lower() for header in wire.headers}:
        return
    assert code_of(added) == "AccessDenied"


def test_a_signed_amz_header_is_accepted() -> None:
    check(sign(headers={"x-amz-copy-source": "bucket/source"}))
    check(presign(method="PUT", headers={"x-amz-copy-source": "bucket/source"}))


# ----------------------------------------------------------------------- time and scope


@pytest.mark.parametrize("sign_of_time", [1, -1])
def test_the_clock_may_differ_by_fifteen_minutes(sign_of_time: int) -> None:
    wire = sign()
    inside = now() + sign_of_time * timedelta(seconds=SKEW_S_MAX - 2)
    outside = now() + sign_of_time * timedelta(seconds=SKEW_S_MAX + 2)
    check(wire, inside)
    assert code_of(wire, outside) == "RequestTimeTooSkewed"


def test_presigned_urls_expire() -> None:
    wire = presign(expires_s=60)
    check(wire, now() + timedelta(seconds=58))
    assert code_of(wire, now() + timedelta(seconds=62)) == "AccessDenied"


def test_presigned_urls_from_the_future() -> None:
    assert code_of(presign(), now() - timedelta(seconds=SKEW_S_MAX + 5)) == "AccessDenied"


@pytest.mark.parametrize("expires_s", [0, -1, PRESIGNED_S_MAX + 1, 10**12])
def test_presigned_lifetimes_that_amazon_refuses(expires_s: int) -> None:
    assert code_of(presign(expires_s=expires_s)) == "AuthorizationQueryParametersError"


def test_the_longest_presigned_lifetime() -> None:
    check(presign(expires_s=PRESIGNED_S_MAX))


def test_the_date_header_stands_in() -> None:
    """x-amz-date may be absent if Date is there and signed."""
    request = sign().as_request()
    headers = {name: value for name, value in request.headers.items() if name != "x-amz-date"}
    with pytest.raises(S3Error) as refusal:
        read_claim(replace(request, headers=headers), now())
    assert refusal.value.code == "AccessDenied"


def change_credential(wire: Wire, old: str, new: str) -> Wire:
    authorization = wire.headers["Authorization"].replace(old, new)
    return replace(wire, headers={**wire.headers, "Authorization": authorization})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/s3/", "/ec2/"),
        ("aws4_request", "aws3_request"),
        ("/us-east-1/s3/aws4_request", ""),
        (f"Credential={ACCESS_KEY}/", "Credential=/"),
        ("SignedHeaders=", "Signed="),
        (", Signature=", ", Signature=x"),
        ("host;", ""),
        ("host;", "host;host;"),
        ("SignedHeaders=host", "SignedHeaders=HOST"),
        (", SignedHeaders", ", Credential=x, SignedHeaders"),
        ("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA512 "),
        ("AWS4-HMAC-SHA256 ", "Bearer "),
        ("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256"),
    ],
)
def test_malformed_authorizations(old: str, new: str) -> None:
    wire = change_credential(sign(), old, new)
    assert wire != sign()
    assert code_of(wire) in {
        "AuthorizationHeaderMalformed",
        "InvalidRequest",
        "SignatureDoesNotMatch",
        "AccessDenied",
    }


def test_a_scope_of_another_day() -> None:
    day = f"{now():%Y%m%d}"
    wire = change_credential(sign(), f"/{day}/", "/20200101/")
    assert code_of(wire) == "AuthorizationHeaderMalformed"


def test_the_region_is_free_unless_it_is_checked() -> None:
    request = sign().as_request()
    assert read_claim(request, now(), None) is not None
    assert read_claim(request, now(), "us-east-1") is not None
    with pytest.raises(S3Error) as refusal:
        read_claim(request, now(), "eu-west-1")
    assert refusal.value.fields["Region"] == "eu-west-1"


def test_credentials_in_two_places_are_refused() -> None:
    wire = presign()
    both = replace(wire, headers={**wire.headers, **sign().headers})
    assert code_of(both) == "InvalidArgument"


@pytest.mark.parametrize("left_out", sigv4._QUERY_PARAMETERS)
def test_presigned_urls_are_whole(left_out: str) -> None:
    wire = presign()
    query = "&".join(part for part in wire.query.split("&") if not part.startswith(left_out + "="))
    assert code_of(replace(wire, query=query)) == "AuthorizationQueryParametersError"


def test_signature_version_2_is_refused_clearly() -> None:
    header = replace(sign(), headers={"Host": HOST, "Authorization": "AWS key:signature"})
    query = Wire("GET", "/b/k", "AWSAccessKeyId=key&Signature=x&Expires=1", {"Host": HOST})
    for wire in (header, query):
        with pytest.raises(S3Error, match="AWS4-HMAC-SHA256"):
            check(wire)


def test_session_tokens_are_refused() -> None:
    wire = sign(headers={"x-amz-security-token": "token"})
    assert code_of(wire) == "InvalidToken"


def test_a_request_without_credentials_claims_nothing() -> None:
    assert read_claim(Request("GET", "/b/k", {}, {"host": HOST}), now()) is None


@pytest.mark.parametrize("value", ["", "x", "STREAMING-OTHER", "A" * 64, "0" * 63])
def test_payload_hashes_that_are_none(value: str) -> None:
    wire = sign()
    headers = {name: v for name, v in wire.headers.items() if name != "X-Amz-Content-SHA256"}
    changed = replace(wire, headers={**headers, "x-amz-content-sha256": value})
    assert code_of(changed) == "InvalidArgument"


def test_another_spelling_of_the_same_key_is_the_same_request() -> None:
    """Clients disagree on what to escape; Amazon decodes and encodes anew."""
    wire = sign(path="/bucket/a~b")
    check(replace(wire, path="/bucket/a%7Eb"))
    check(replace(wire, path="/bucket/%61~b"))
    assert code_of(replace(wire, path="/bucket/a%257Eb")) == "SignatureDoesNotMatch"


def test_signing_keys_hide_themselves() -> None:
    key = sigv4.SigningKey.derive(SECRET, sigv4.Scope("20260101", "r", "s3"))
    assert key.key.hex() not in repr(key)
    assert "20260101" in repr(key)
