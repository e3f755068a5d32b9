"""An OpenID Connect issuer for tests: keys that rotate, tokens of every kind, failures on demand.

The honest flow is tested against a mock provider that others wrote (`oidc-provider-mock`); this one
exists for what that one never does: bad tokens, changed keys, no answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "forebay"


class Issuer:
    def __init__(self, url: str) -> None:
        self.url = url
        self.discovery: dict[str, Any] = {"issuer": url, "jwks_uri": f"{url}/keys"}
        self.status = 200
        self.asked: list[str] = []  # paths
        self.private: dict[str, Any] = {}
        self.published: list[dict[str, Any]] = []
        self.add_key("first")

    def add_key(self, kid: str, kind: str = "RSA", **published: Any) -> None:
        """Make a key and publish it."""
        key: Any
        if kind == "RSA":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        elif kind == "EC":
            key = ec.generate_private_key(ec.SECP256R1())
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = ed25519.Ed25519PrivateKey.generate()
            jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.private[kid] = key
        self.published.append({**jwk, "kid": kid, "use": "sig", **published})

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "alice",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, kid: str = "first", alg: str = "RS256", headers: Any = None, **claims: Any
    ) -> str:
        """A signed token; a claim of None is left out."""
        headers = {"kid": kid, **(headers or {})}
        return jwt.encode(self.claims(**claims), self.private[kid], algorithm=alg, headers=headers)


@contextmanager
def serving_issuer() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            document: dict[str, Any] = {"keys": issuer.published}
            if self.path == "/.well-known/openid-configuration":
                document = issuer.discovery
            body = json.dumps(document).encode()
            self.send_response(issuer.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
