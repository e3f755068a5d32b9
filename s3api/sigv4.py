"""Signature Version 4: what a request claims, and whether its signature holds.

No I/O, no clock, no key store: the caller hands in the request as it came over the wire, the time
and the secret. `read_claim` parses and checks everything that needs no secret, `verify` compares
the signature. The grammar and the order of steps follow "Authenticating Requests (AWS Signature
Version 4)" in Amazon's S3 API reference.

The canonical path is tried as it was received and, if that does not match, percent-encoded anew
from its one decoding. Both spell the same key, so nothing is let in by it, and clients that send
`~` as `%7E` or the like are served as Amazon serves them.

Pure; callable from any thread.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

import msgspec

from s3api.errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING = frozenset({STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER})

SKEW_S_MAX = 15 * 60
PRESIGNED_S_MAX = 7 * 24 * 3600

_CONTENT_SHA256 = "x-amz-content-sha256"
_TOKEN = "x-amz-security-token"  # noqa: S105 - a header's name
_AMZ_DATE = re.compile(r"\d{8}T\d{6}Z")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")
_SIGNED_HEADERS = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+(;[a-z0-9!#$%&'*+.^_`|~-]+)*")
_QUERY_PARAMETERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
_QUERY_NAMES = frozenset(_QUERY_PARAMETERS)


class Request(msgspec.Struct, frozen=True):
    """The parts of a request that a signature covers."""

    method: str
    raw_path: str
    query: Mapping[str, str]  # decoded
    headers: Mapping[str, str]  # names in lower case; each occurs once


class Scope(msgspec.Struct, frozen=True):
    """`20261120/us-east-1/s3/aws4_request`."""

    date: str
    region: str
    service: str

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


class Claim(msgspec.Struct, frozen=True):
    """Who a request says it is from, and the signature that is to prove it."""

    access_key: str
    scope: Scope
    signed_headers: tuple[str, ...]
    signature: str
    amz_date: str  # 20261120T123456Z
    presigned: bool
    token: str | None
    """x-amz-security-token: what temporary keys bring besides."""
    payload_hash: str
    """What stands for the body in the canonical request: a SHA-256 or one of the words above."""


def read_claim(request: Request, now: datetime, region: str | None = None) -> Claim | None:
    """The request's claim, checked for everything but the signature; None if it has none.

    region: if set, the only one accepted in the scope. Raises S3Error with Amazon's codes.
    """
    authorization = request.headers.get("authorization")
    in_query = not _QUERY_NAMES.isdisjoint(request.query)
    if "AWSAccessKeyId" in request.query or (authorization or "").startswith("AWS "):
        raise S3Error(
            "InvalidRequest",
            "The authorization mechanism you have provided is not supported."
            " Please use AWS4-HMAC-SHA256.",
        )
    if authorization is not None and in_query:
        raise S3Error(
            "InvalidArgument",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature"
            " query string parameter or the Authorization header should be specified",
        )
    if authorization is not None:
        claim = _claim_in_header(request, authorization, now)
    elif in_query:
        claim = _claim_in_query(request, now)
    elif _TOKEN in request.headers or "X-Amz-Security-Token" in request.query:
        raise S3Error("InvalidToken")  # a token proves nothing by itself
    else:
        return None
    _check_scope(claim, region)
    _check_signed_headers(request, claim)
    return claim


def _claim_in_header(request: Request, authorization: str, now: datetime) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise S3Error("InvalidRequest", "Unsupported Authorization Type")
    fields: dict[str, str] = {}
    for field in rest.split(","):
        name, equals, value = field.strip().partition("=")
        if not equals or name in fields:
            raise S3Error("AuthorizationHeaderMalformed")
        fields[name] = value
    if fields.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise S3Error("AuthorizationHeaderMalformed")
    malformed = "AuthorizationHeaderMalformed"
    access_key, scope = read_credential(fields["Credential"], malformed)
    amz_date = _request_date(request)
    if abs((now - _parse_amz_date(amz_date)).total_seconds()) > SKEW_S_MAX:
        raise S3Error(
            "RequestTimeTooSkewed",
            RequestTime=amz_date,
            ServerTime=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            MaxAllowedSkewMilliseconds=str(SKEW_S_MAX * 1000),
        )
    payload_hash = request.headers.get(_CONTENT_SHA256)
    if payload_hash is None:
        raise S3Error(
            "InvalidRequest", "Missing required header for this request: x-amz-content-sha256"
        )
    return Claim(
        access_key,
        scope,
        _read_signed_headers(fields["SignedHeaders"], malformed),
        _read_signature(fields["Signature"], malformed),
        amz_date,
        presigned=False,
        token=request.headers.get(_TOKEN),
        payload_hash=check_payload_hash(payload_hash),
    )


def _request_date(request: Request) -> str:
    amz_date = request.headers.get("x-amz-date")
    if amz_date is not None:
        if _AMZ_DATE.fullmatch(amz_date):
            return amz_date
    elif "date" in request.headers:
        try:
            moment = parsedate_to_datetime(request.headers["date"])
        except (ValueError, IndexError, TypeError):
            moment = None
        if moment is not None and request.headers["date"].rstrip().endswith("-0000"):
            # UTC from somewhere that is not told (RFC 5322, 3.3), as botocore writes it; to Python
            # a time of no zone.
            moment = moment.replace(tzinfo=UTC)
        if moment is not None and moment.tzinfo is not None:
            return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")


def _claim_in_query(request: Request, now: datetime) -> Claim:
    malformed = "AuthorizationQueryParametersError"
    missing = [name for name in _QUERY_PARAMETERS if name not in request.query]
    if missing:
        raise S3Error(
            malformed,
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential,"
            " X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        )
    query = request.query
    if query["X-Amz-Algorithm"] != ALGORITHM:
        raise S3Error(malformed, f"X-Amz-Algorithm only supports {ALGORITHM}")
    access_key, scope = read_credential(query["X-Amz-Credential"], malformed)
    if not _AMZ_DATE.fullmatch(query["X-Amz-Date"]):
        raise S3Error(malformed, "X-Amz-Date must be in the ISO8601 Long Format yyyyMMdd'T'HHmmssZ")
    expires = query["X-Amz-Expires"]
    if not _NUMBER.fullmatch(expires):
        raise S3Error(malformed, "X-Amz-Expires should be a number")
    if expires.startswith("-"):
        raise S3Error(malformed, "X-Amz-Expires must be non-negative")
    # 0 is a number that has expired by the time it is here.
    if int(expires) > PRESIGNED_S_MAX:
        raise S3Error(
            malformed,
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires"
            " must be less than 604800 seconds",
        )
    age_s = (now - _parse_amz_date(query["X-Amz-Date"])).total_seconds()
    if age_s < -SKEW_S_MAX:
        raise S3Error("AccessDenied", "Request is not valid yet")
    if age_s > int(expires):
        raise S3Error("AccessDenied", "Request has expired")
    signed = _read_signed_headers(query["X-Amz-SignedHeaders"], malformed)
    payload_hash = UNSIGNED_PAYLOAD
    if _CONTENT_SHA256 in signed and _CONTENT_SHA256 in request.headers:
        payload_hash = request.headers[_CONTENT_SHA256]
    elif "X-Amz-Content-Sha256" in query:
        payload_hash = query["X-Amz-Content-Sha256"]
    return Claim(
        access_key,
        scope,
        signed,
        _read_signature(query["X-Amz-Signature"], malformed),
        query["X-Amz-Date"],
        presigned=True,
        token=query.get("X-Amz-Security-Token"),
        payload_hash=check_payload_hash(payload_hash),
    )


@lru_cache(1024)  # a client's is the same all day
def read_credential(text: str, malformed: str) -> tuple[str, Scope]:
    """Split from the right: an access key may hold slashes (a Kerberos principal does)."""
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        raise S3Error(malformed, "The Credential is mal-formed; expecting"
                      ' "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".')  # fmt: skip
    access_key, date, region, service, terminator = parts
    if terminator != "aws4_request":
        raise S3Error(malformed, 'The Credential must end with "aws4_request".')
    if not (len(date) == 8 and date.isascii() and date.isdecimal()):
        raise S3Error(malformed, "The Credential's date must be in the format yyyyMMdd.")
    return access_key, Scope(date, region, service)


@lru_cache(1024)
def _read_signed_headers(text: str, malformed: str) -> tuple[str, ...]:
    if not _SIGNED_HEADERS.fullmatch(text):
        raise S3Error(malformed, "SignedHeaders must be names in lower case, separated by ;")
    names = tuple(text.split(";"))
    if list(names) != sorted(set(names)):
        raise S3Error(malformed, "SignedHeaders must be sorted and hold each name once")
    return names


def _read_signature(text: str, malformed: str) -> str:
    if not _SIGNATURE.fullmatch(text):
        raise S3Error(malformed, "The Signature must be 64 hexadecimal digits")
    return text


def check_payload_hash(value: str) -> str:
    """The value of x-amz-content-sha256 if it is a digest or one of the defined words."""
    if value in STREAMING or value == UNSIGNED_PAYLOAD or _SHA256_HEX.fullmatch(value):
        return value
    raise S3Error(
        "InvalidArgument",
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER,"
        " STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a"
        " valid sha256 value.",
        ArgumentName="x-amz-content-sha256",
        ArgumentValue=value[:256],
    )


@lru_cache(64)  # a second's requests, and a presigned URL's
def _parse_amz_date(text: str) -> datetime:
    # By hand: strptime() takes 7% of the time of a small GET. The shape was checked by _AMZ_DATE.
    year, month, day = int(text[0:4]), int(text[4:6]), int(text[6:8])
    hour, minute, second = int(text[9:11]), int(text[11:13]), int(text[13:15])
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:  # 20261399T…
        raise S3Error(
            "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
        ) from None


def _check_scope(claim: Claim, region: str | None) -> None:
    malformed = (
        "AuthorizationQueryParametersError" if claim.presigned else "AuthorizationHeaderMalformed"
    )
    if claim.scope.service != "s3":
        raise S3Error(malformed, 'The Credential\'s service must be "s3".')
    if region is not None and claim.scope.region != region:
        raise S3Error(
            malformed,
            f"The Credential's region is wrong; expecting '{region}'",
            Region=region,
        )
    if claim.scope.date != claim.amz_date[:8]:
        raise S3Error(malformed, "The Credential's date is not that of the request.")


def _check_signed_headers(request: Request, claim: Claim) -> None:
    if "host" not in claim.signed_headers:
        raise S3Error("SignatureDoesNotMatch", "The Host header must be signed.")
    absent = [name for name in claim.signed_headers if name not in request.headers]
    if absent:
        raise S3Error("AccessDenied", "There were headers signed which are not in the request",
                      HeadersNotPresent=", ".join(absent)[:512])  # fmt: skip
    # An x-amz-* header that is not signed could turn a presigned PUT into a copy of another
    # object. The content hash is in the canonical request anyway, except beside a presigned URL,
    # where `payload_hash` above ignores the unsigned header.
    unsigned = [
        name
        for name in request.headers
        if name.startswith("x-amz-")
        and name not in claim.signed_headers
        and name != _CONTENT_SHA256
    ]
    if unsigned:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(sorted(unsigned))[:512],
        )


def verify(request: Request, claim: Claim, secret: str) -> SigningKey:
    """The signing key, if the claim's signature is what the secret gives; SignatureDoesNotMatch
    if not. Compares in constant time."""
    key = SigningKey.derive(secret, claim.scope)

    def holds_for(path: str) -> bool:
        signature = key.sign(string_to_sign(request, claim, path))
        return hmac.compare_digest(signature, claim.signature)

    raw_path = request.raw_path
    if holds_for(raw_path) or holds_for(quote(unquote_to_bytes(raw_path), safe="/~")):
        return key
    raise S3Error("SignatureDoesNotMatch", AWSAccessKeyId=claim.access_key)


def string_to_sign(request: Request, claim: Claim, path: str) -> str:
    canonical = canonical_request(request, claim, path)
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{ALGORITHM}\n{claim.amz_date}\n{claim.scope}\n{digest}"


def canonical_request(request: Request, claim: Claim, path: str) -> str:
    headers = "".join(
        [f"{name}:{' '.join(request.headers[name].split())}\n" for name in claim.signed_headers]
    )
    return "\n".join(
        (
            request.method,
            path,
            canonical_query(request.query.items()),
            headers,
            ";".join(claim.signed_headers),
            claim.payload_hash,
        )
    )


def canonical_query(parameters: Iterable[tuple[str, str]]) -> str:
    pairs = [
        (_quoted(name), _quoted(value)) for name, value in parameters if name != "X-Amz-Signature"
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _quoted(text: str) -> str:
    # quote() looks at each character, also where nothing is to be quoted.
    return text if _UNRESERVED.fullmatch(text) else _quoted_anew(text)


@lru_cache(256)  # a presigned URL's credential has slashes
def _quoted_anew(text: str) -> str:
    return quote(text, safe="~")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key of one day, region and service, derived from a secret. `repr` hides it."""

    key: bytes
    scope: Scope

    @classmethod
    @lru_cache(1024)  # the same all day, and four digests to make
    def derive(cls, secret: str, scope: Scope) -> SigningKey:
        key = f"AWS4{secret}".encode()
        for step in (scope.date, scope.region, scope.service, "aws4_request"):
            key = hmac.digest(key, step.encode(), "sha256")
        return cls(key, scope)

    def sign(self, text: str) -> str:
        return hmac.digest(self.key, text.encode("utf-8", "surrogateescape"), "sha256").hex()

    def __repr__(self) -> str:
        return f"SigningKey({self.scope})"
