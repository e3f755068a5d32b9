"""Signature Version 4 against botocore's signer, an implementation by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec
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
    query = {name: value for name, value in query.items() if not name.startswith(("X-Amz", "AWS"))}
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


class _Canonicaliser(S3SigV4Auth):
    """botocore's signer, asked what the signature of a request would be that others signed."""

    def __init__(self, claim: Claim) -> None:
        scope = claim.scope
        super().__init__(Credentials(ACCESS_KEY, SECRET), scope.service, scope.region)
        self._hash_is_signed = "x-amz-content-sha256" in claim.signed_headers

    def signature_of(self, wire: Wire, claim: Claim, path: str) -> str:
        named = {name.lower(): value for name, value in wire.headers.items()}
        url = f"http://{HOST}{path}?{_encoded_anew(wire.query)}"
        request = AWSRequest(wire.method, url)
        for name in claim.signed_headers:
            request.headers[name] = named[name]
        if not self._hash_is_signed:  # a URL has it in no header
            request.headers["X-Amz-Content-SHA256"] = claim.payload_hash
        canonical = self.canonical_request(request)
        request.context["timestamp"] = claim.amz_date
        return str(self.signature(self.string_to_sign(request, canonical), request))

    def headers_to_sign(self, request: Any) -> Any:
        headers = super().headers_to_sign(request)
        if not self._hash_is_signed:
            del headers["x-amz-content-sha256"]
        return headers


def _encoded_anew(query: str) -> str:
    """botocore signs a query as it stands in the URL, so in the one spelling that clients use."""
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return "&".join(
        f"{quote(name, safe='~', errors='surrogateescape')}"
        f"={quote(value, safe='~', errors='surrogateescape')}"
        for name, value in pairs
        if name != "X-Amz-Signature"
    )


def signed_by_botocore(wire: Wire, claim: Claim) -> bool:
    """Whether the independent signer would have given the request this signature, in either
    spelling of its path."""
    signer = _Canonicaliser(claim)
    decoded = unquote(wire.path, errors="surrogateescape")
    anew = quote(decoded, safe="/~", errors="surrogateescape")
    return claim.signature in {signer.signature_of(wire, claim, path) for path in (wire.path, anew)}


mutations = st.tuples(
    st.sampled_from(["method", "path", "query", "header", "name", "authorization", "drop", "add"]),
    st.integers(0, 10_000),
    st.characters(min_codepoint=33, max_codepoint=126),
)


def mutate(wire: Wire, mutation: tuple[str, int, str]) -> Wire:
    part, position, to = mutation
    headers = dict(wire.headers)
    names = sorted(headers)
    name = names[position % len(names)]
    match part:
        case "method":
            methods = ["GET", "DELETE", "POST", "PUT", "HEAD"]
            return replace(wire, method=methods[position % len(methods)])
        case "path":
            return replace(wire, path="/" + flip(wire.path[1:], position, to))
        case "query":
            return replace(wire, query=flip(wire.query, position, to))
        case "name":
            headers[flip(name, position, to)] = headers.pop(name)
        case "drop":
            del headers[name]
        case "add":
            headers[f"x-amz-{to}"] = to
        case _:
            if part == "authorization":
                name = "Authorization" if "Authorization" in headers else name
            headers[name] = flip(headers[name], position, to)
    return replace(wire, headers=headers)


@lru_cache(2)
def _valid(presigned: bool) -> Wire:
    return (presign if presigned else sign)(
        path="/bucket/a~b%20c", query="prefix=x%2Fy&list-type=2", headers={"x-amz-meta-a": "b"}
    )


@given(presigned=st.booleans(), changes=st.lists(mutations, min_size=1, max_size=2))
@settings(max_examples=5000, deadline=None)
def test_what_is_accepted_is_what_botocore_would_sign(
    presigned: bool, changes: list[tuple[str, int, str]]
) -> None:
    wire = _valid(presigned)
    for change in changes:
        wire = mutate(wire, change)
    try:
        request = wire.as_request()
        claim = read_claim(request, now())
        if claim is None or claim.access_key != ACCESS_KEY:
            return  # anonymous, or a key that is not found: refused elsewhere
        verify(request, claim, SECRET)
    except S3Error:
        return
    assert signed_by_botocore(wire, claim)
    unsigned = {name.lower() for name in wire.headers} - set(claim.signed_headers)
    assert not any(name.startswith("x-amz-") for name in unsigned - {"x-amz-content-sha256"})


@pytest.mark.parametrize("make", [sign, presign])
def test_the_canonicaliser_knows_what_botocore_signs(make: Callable[..., Wire]) -> None:
    wire = make(path="/bucket/a~b%20c", query="prefix=x%2Fy", headers={"x-amz-meta-a": "b  c"})
    claim = check(wire)
    assert signed_by_botocore(wire, claim)
    assert not signed_by_botocore(replace(wire, path="/bucket/other"), claim)
    assert not signed_by_botocore(replace(wire, query="prefix=x"), claim)
    assert not signed_by_botocore(replace(wire, method="DELETE"), claim)


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


@pytest.mark.parametrize("expires_s", [-1, PRESIGNED_S_MAX + 1, 10**12])
def test_presigned_lifetimes_that_amazon_refuses(expires_s: int) -> None:
    assert code_of(presign(expires_s=expires_s)) == "AuthorizationQueryParametersError"


def test_a_presigned_lifetime_of_nothing() -> None:
    assert code_of(presign(expires_s=0), now() + timedelta(seconds=1)) == "AccessDenied"


def test_a_date_without_a_zone_is_utc() -> None:
    """As botocore signs it when its caller gives a Date."""
    wire = sign(headers={"Date": "whatever"})
    assert wire.headers["Date"].endswith("-0000")
    assert "X-Amz-Date" not in wire.headers
    check(wire)


def test_the_longest_presigned_lifetime() -> None:
    check(presign(expires_s=PRESIGNED_S_MAX))


def test_the_date_header_stands_in() -> None:
    """x-amz-date may be absent if Date is there and signed."""
    request = sign().as_request()
    headers = {name: value for name, value in request.headers.items() if name != "x-amz-date"}
    with pytest.raises(S3Error) as refusal:
        read_claim(msgspec.structs.replace(request, headers=headers), now())
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


def test_a_session_token_proves_nothing_by_itself() -> None:
    for query, headers in (
        ({}, {"x-amz-security-token": "token"}),
        ({"X-Amz-Security-Token": "token"}, {}),
    ):
        with pytest.raises(S3Error) as refusal:
            read_claim(Request("GET", "/b/k", query, {"host": HOST, **headers}), now())
        assert refusal.value.code == "InvalidToken"


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
