"""Who sends a request: in `sigv4` by a signature that holds, in `oidc` also by a token, in `simple`
by what the Authorization header says. What they may do is decided in `access.py`.

Runs on the event loop: the key lookup is one read of the index, about 2 microseconds.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

from cache.memo import Memo
from s3api import sigv4
from s3api.begun import own_task
from s3api.chunked import Chain
from s3api.config import AuthConfig, is_loopback
from s3api.errors import S3Error
from s3api.form_signature import FormClaim, read_form_claim

if TYPE_CHECKING:
    from s3api.oidc import Tokens

_DUMMY_SECRET = "0" * 40
"""Verified against for unknown access keys, so that they take as long as known ones."""


class AccessKey(Protocol):
    @property
    def secret(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def expires_ns(self) -> int: ...


class KeyStore(Protocol):
    """`cache.keys.Keys`."""

    def get(self, access_key: str) -> AccessKey | None: ...
    def list(self) -> Sequence[AccessKey]: ...


class RememberedKeys:
    """Keys as of the last refresh of a memo."""

    def __init__(self, keys: KeyStore, memo: Memo) -> None:
        self._keys = keys
        self._memo = memo

    def get(self, access_key: str) -> AccessKey | None:
        return self._memo.of(self._keys.get, access_key)

    def list(self) -> Sequence[AccessKey]:
        return self._keys.list()


class Identity(msgspec.Struct, frozen=True):
    """Who a request is from; anonymous if `user` is empty."""

    user: str
    access_key: str = ""
    believed: bool = False
    """The name is only what the request says; nobody is held to what is another's then."""


ANONYMOUS = Identity("")


class Authentication(msgspec.Struct, frozen=True):
    """What a request's credentials say about it and its body."""

    identity: Identity
    payload_hash: str
    """A SHA-256 that the body must have, UNSIGNED-PAYLOAD, or one of the streaming words."""
    chain: Chain | None = None
    """Where the chunks of a signed streaming body begin their signatures."""


UNPROVEN = Authentication(ANONYMOUS, sigv4.UNSIGNED_PAYLOAD)
"""Of a request that says only in its body who it is from."""


def _tokens(config: AuthConfig) -> Tokens:
    from s3api.oidc import Tokens  # with its cryptography, which no other mode needs

    return Tokens(config)


class Authenticator:
    def __init__(
        self, config: AuthConfig, keys: KeyStore, *, address: str, region: str | None
    ) -> None:
        """address: where the gateway listens. region: the only one to sign for, None for any."""
        self._config = config
        self._keys = keys
        self._region = region
        self._loopback = is_loopback(address)
        self._keys_exist = False
        self.tokens = _tokens(config) if config.mode == "oidc" else None
        """Those of the OpenID Connect issuer, where they are taken."""
        if config.mode == "simple" and not (self._loopback or config.allow_simple_remote):
            raise ValueError(
                f"auth.mode is simple, which checks nothing, and {address} is not a loopback"
                " address: set auth.allow_simple_remote = true if that is meant"
            )

    @property
    def issuer(self) -> str:
        return self._config.oidc_issuer or ""

    @property
    def session_s_max(self) -> int:
        return self._config.oidc_session_s_max

    async def prepare(self, authorization: str) -> None:
        """What authenticate() needs and must not wait for: the keys for a bearer token in the
        Authorization header."""
        token = None if self.tokens is None else bearer_token(authorization)
        if self.tokens is not None and token is not None:
            await own_task()
            await self.tokens.prepare(token)

    async def close(self) -> None:
        if self.tokens is not None:
            await self.tokens.close()

    @property
    def mode(self) -> str:
        """`sigv4`, `simple` or `oidc`, as of now."""
        if self._config.mode != "auto":
            return self._config.mode
        # Once a key was seen, this process never goes back: revoking the last key must not open
        # the door.
        self._keys_exist = self._keys_exist or bool(self._keys.list())
        return "simple" if self._loopback and not self._keys_exist else "sigv4"

    def authenticate_form(
        self, fields: Mapping[str, str]
    ) -> tuple[Authentication, FormClaim | None]:
        """The identity behind a browser's form, and the claim whose policy allows it; no claim if
        the form is anonymous. fields: by name in lower case."""
        version_2 = self._config.form_signature_v2
        claim = read_form_claim(fields, self._region, version_2=version_2)
        if self.mode == "simple":
            if claim is None:
                raise S3Error("InvalidAccessKeyId")
            identity = Identity(claim.access_key, claim.access_key, believed=True)
            return Authentication(identity, sigv4.UNSIGNED_PAYLOAD), claim
        if claim is None:
            return Authentication(ANONYMOUS, sigv4.UNSIGNED_PAYLOAD), None
        known = self._keys.get(claim.access_key)
        try:
            claim.verify(_DUMMY_SECRET if known is None else known.secret)
        except S3Error:
            if known is not None:
                raise
        known = _check_session(known, claim.access_key, claim.token)
        identity = Identity(known.user, claim.access_key)
        return Authentication(identity, sigv4.UNSIGNED_PAYLOAD), claim

    def authenticate(self, request: sigv4.Request, now: datetime) -> Authentication:
        """The identity behind a request. Raises S3Error with Amazon's codes; a request without
        credentials is anonymous in sigv4, and refused in simple."""
        if self.mode == "simple":
            return _believe(request)
        token = (
            None if self.tokens is None else bearer_token(request.headers.get("authorization", ""))
        )
        if self.tokens is not None and token is not None:
            identity = Identity(self.tokens.verify(token).user)
            return Authentication(identity, _anonymous_payload_hash(request))
        claim = sigv4.read_claim(request, now, self._region)
        if claim is None:
            return Authentication(ANONYMOUS, _anonymous_payload_hash(request))
        known = self._keys.get(claim.access_key)
        try:
            signing_key = sigv4.verify(
                request, claim, _DUMMY_SECRET if known is None else known.secret
            )
        except S3Error:
            if known is None:
                raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=claim.access_key) from None
            raise
        known = _check_session(known, claim.access_key, claim.token)
        chain = None
        if claim.payload_hash in (sigv4.STREAMING_SIGNED, sigv4.STREAMING_SIGNED_TRAILER):
            chain = Chain(signing_key, claim.amz_date, claim.signature)
        return Authentication(
            Identity(known.user, claim.access_key), _payload_hash(request, claim), chain
        )


def bearer_token(authorization: str) -> str | None:
    """The token in `Authorization: Bearer TOKEN` (RFC 6750)."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _check_session(known: AccessKey | None, access_key: str, token: str | None) -> AccessKey:
    """The key whose signature holds, if it may be used: temporary ones with their token, and not
    for ever. InvalidAccessKeyId, InvalidToken, ExpiredToken."""
    # Without its token a temporary key does not exist, as on Amazon.
    if known is None or (known.expires_ns and token is None):
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    if not hmac.compare_digest((token or "").encode("utf-8", "replace"), known.token.encode()):
        raise S3Error("InvalidToken")
    if known.expires_ns and time.time_ns() >= known.expires_ns:
        raise S3Error("ExpiredToken")
    return known


def _anonymous_payload_hash(request: sigv4.Request) -> str:
    payload_hash = request.headers.get("x-amz-content-sha256", sigv4.UNSIGNED_PAYLOAD)
    if payload_hash in (sigv4.STREAMING_SIGNED, sigv4.STREAMING_SIGNED_TRAILER):
        raise S3Error("AccessDenied")  # chunks signed by nobody
    return sigv4.check_payload_hash(payload_hash)


def _payload_hash(request: sigv4.Request, claim: sigv4.Claim) -> str:
    """What the body is held to. Beside a presigned URL an unsigned x-amz-content-sha256 may make
    that stricter, and never change how the body is read."""
    header = request.headers.get("x-amz-content-sha256", claim.payload_hash)
    if header == claim.payload_hash or claim.payload_hash != sigv4.UNSIGNED_PAYLOAD:
        return claim.payload_hash
    if sigv4.check_payload_hash(header) in sigv4.STREAMING:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned="x-amz-content-sha256",
        )
    return header


_UNKNOWN_KEY = sigv4.SigningKey(b"", sigv4.Scope("", "", ""))


def _believe(request: sigv4.Request) -> Authentication:
    """The identity that a request names, with nothing proven (acceptance A03, B16, B18)."""
    credential = _named_credential(request)
    if credential is None:
        raise S3Error(
            "InvalidAccessKeyId",
            "Name a user: Authorization: AWS4-HMAC-SHA256 Credential=<user>/...",
        )
    # A whole scope is cut off from the right, since a user may be a principal with slashes.
    user, *scope = credential.rsplit("/", 4)
    if len(scope) != 4 or scope[-1] != "aws4_request":
        user = credential.partition("/")[0]
    if not user:
        raise S3Error("InvalidAccessKeyId")
    payload_hash = request.headers.get("x-amz-content-sha256", sigv4.UNSIGNED_PAYLOAD)
    payload_hash = sigv4.check_payload_hash(payload_hash)
    chain = None
    if payload_hash in (sigv4.STREAMING_SIGNED, sigv4.STREAMING_SIGNED_TRAILER):
        chain = Chain(_UNKNOWN_KEY, "", "", verify=False)
    return Authentication(Identity(user, user, believed=True), payload_hash, chain)


def _named_credential(request: sigv4.Request) -> str | None:
    authorization = request.headers.get("authorization")
    if authorization is None:
        return request.query.get("X-Amz-Credential")
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != sigv4.ALGORITHM:
        return None
    for field in rest.replace(",", " ").split():
        name, _, value = field.partition("=")
        if name == "Credential":
            return value
    return None
