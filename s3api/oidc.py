"""Tokens of an OpenID Connect issuer: whether one holds, and which user it means.

A token is a JWT that the configured issuer signed for one of the configured audiences, and that has
not expired. Its signature must be of an asymmetric algorithm from a fixed list, by a key that the
issuer publishes under the token's key id; a key, or an address of keys, that the token itself
brings is never looked at. The keys are kept for `oidc_keys_fresh_s`, asked for again when a token
names one that is not known (rotation), and used on while the issuer does not answer, for at most
`oidc_keys_max_s`; then nobody gets in.

`prepare` may ask the issuer and is awaited first; `verify` is then pure. Event loop only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt

from cache.errors import InvalidName
from cache.keys import check_name
from s3api.config import TOKEN_BYTES_MAX, AuthConfig
from s3api.errors import S3Error

log = logging.getLogger(__name__)

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
_DOCUMENT_BYTES_MAX = 256 << 10
_ANSWER_S = 5.0
_LEEWAY_S = 30
_ASK_AGAIN_S = 10.0
"""Least time between two questions to the issuer: tokens with made-up key ids must not become load
on it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a token that holds says."""

    user: str
    subject: str
    audience: str


class Tokens:
    """The issuer's tokens, as one gateway process sees them."""

    def __init__(self, config: AuthConfig) -> None:
        assert config.oidc_issuer is not None
        self._config = config
        self._issuer = config.oidc_issuer
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_s = float("-inf")  # monotonic time of the keys
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def prepare(self, token: str) -> None:
        """Have the keys that the token needs, if the issuer has them. ServiceUnavailable when it
        does not answer, and what is known of its keys is too old."""
        try:
            kid = _header(token).get("kid")
        except S3Error:
            return  # verify() says what is wrong with it
        waiting = self._asking.locked() and self._key(kid) is None
        if waiting or self._needs_asking(kid):
            async with self._asking:
                if self._needs_asking(kid):
                    await self._ask()
        if time.monotonic() - self._fetched_s > self._config.oidc_keys_max_s:
            raise S3Error("ServiceUnavailable", headers={"Retry-After": "5"})

    def _needs_asking(self, kid: object) -> bool:
        now_s = time.monotonic()
        if now_s - self._asked_s < _ASK_AGAIN_S:
            return False
        stale = now_s - self._fetched_s > self._config.oidc_keys_fresh_s
        return stale or self._key(kid) is None

    def _key(self, kid: object) -> jwt.PyJWK | None:
        if kid is None:
            # Without key ids there is nothing to choose by: then there may be one key only.
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid) if isinstance(kid, str) else None

    def verify(self, token: str) -> Subject:
        """Who the token is of. InvalidToken, ExpiredToken."""
        header = _header(token)
        key = self._key(header.get("kid"))
        if key is None or header.get("alg") not in ALGORITHMS:
            raise S3Error("InvalidToken")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[header["alg"]],
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "sub"], "verify_aud": False},
            )
        except jwt.ExpiredSignatureError:
            raise S3Error("ExpiredToken") from None
        except (jwt.PyJWTError, TypeError, ValueError) as exc:
            # TypeError, ValueError: a key of another kind than the algorithm.
            log.debug("a token is refused: %s", exc)
            raise S3Error("InvalidToken") from None
        return Subject(self._user(claims), str(claims["sub"]), self._audience(claims))

    def _audience(self, claims: dict[str, Any]) -> str:
        """The configured audience that the token is for; who it was issued to counts, too."""
        named = claims.get("aud", [])
        named = [named] if isinstance(named, str) else named
        for audience in [*(named if isinstance(named, list) else []), claims.get("azp")]:
            if isinstance(audience, str) and audience in self._config.oidc_audiences:
                return audience
        raise S3Error("InvalidToken")

    def _user(self, claims: dict[str, Any]) -> str:
        value = claims.get(self._config.oidc_user_claim)
        if not isinstance(value, str) or not value:
            raise S3Error("InvalidToken")
        user = self._config.oidc_user_prefix + value
        try:
            check_name(user)
        except InvalidName:
            raise S3Error("InvalidToken") from None
        return user

    # ---------------------------------------------------------------------------- the issuer

    async def _ask(self) -> None:
        """Fetch the issuer's keys; on failure those that are known stay."""
        self._asked_s = time.monotonic()
        try:
            address = self._config.oidc_keys_url or await self._discover()
            found = (await self._get(address)).get("keys")
            if not isinstance(found, list):
                raise ValueError("there is no list of keys")
            self._keys = dict(filter(None, map(_read_key, found)))
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as exc:
            log.warning("the issuer %s does not tell its keys: %s", self._issuer, repr(exc))
            return
        self._fetched_s = self._asked_s
        log.debug("the issuer %s has %d keys", self._issuer, len(self._keys))

    async def _discover(self) -> str:
        """Where the keys are, by OpenID Connect Discovery 1.0, section 4."""
        place = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        document = await self._get(place)
        if document.get("issuer") != self._issuer:
            raise ValueError(f"it calls itself {str(document.get('issuer'))[:200]!r}")
        address = document.get("jwks_uri")
        scheme = "https://" if self._issuer.startswith("https://") else ("https://", "http://")
        if not isinstance(address, str) or not address.startswith(scheme):
            raise ValueError("jwks_uri is missing, or not as safe as the issuer")
        return address

    async def _get(self, address: str) -> dict[str, Any]:
        if self._session is None:
            tls = ssl.create_default_context(cafile=self._config.oidc_ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls),
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S),
            )
        # No redirects: the only addresses asked are the operator's and the issuer's own.
        async with self._session.get(address, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"{address} answers {answer.status}")
            document = await answer.content.read(_DOCUMENT_BYTES_MAX)
            while len(document) < _DOCUMENT_BYTES_MAX and not answer.content.at_eof():
                document += await answer.content.read(_DOCUMENT_BYTES_MAX - len(document))
        parsed = json.loads(document)
        if not isinstance(parsed, dict):
            raise ValueError(f"{address} answers with something else than an object")
        return parsed


def _header(token: str) -> dict[str, Any]:
    if len(token) > TOKEN_BYTES_MAX:
        raise S3Error("InvalidToken")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise S3Error("InvalidToken") from None


def _read_key(raw: Any) -> tuple[str, jwt.PyJWK] | None:
    """A key for signatures, by its id; None for one that cannot be used."""
    if not isinstance(raw, dict) or raw.get("use", "sig") != "sig" or raw.get("kty") == "oct":
        return None
    try:
        return str(raw.get("kid", "")), jwt.PyJWK(raw)
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        log.debug("a key of the issuer is not understood: %s", exc)
        return None
