"""Settings of the S3 door; the tables [s3] and [auth] of the configuration file.

Imports nothing of the door itself: the supervisor reads the settings without loading aiohttp.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    enabled: bool = True
    """Serve S3. Off: nothing listens, connections are refused; the mount is served all the same."""

    address: str = "127.0.0.1"
    """Address on which S3 is served; `0.0.0.0` or `::` for all of this machine's."""

    port: int = 29998
    """TCP port of S3 over HTTP."""

    https_port: int = 29996
    """TCP port of S3 over HTTPS, served once there is a certificate."""

    https_only: bool = False
    """Do not serve plain HTTP: nothing listens on `port`."""

    tls_certificate: Path | None = None
    """Certificate for HTTPS, and what leads from it to its authority: a file in PEM. A renewed one
    is taken within seconds, with no restart."""

    tls_key: Path | None = None
    """The certificate's private key, in PEM, without a password."""

    tls_self_signed: bool = False
    """Serve HTTPS with a certificate that the node makes for itself, in `tls/` of its state
    directory. Clients must be told to trust that file, or to trust anybody."""

    domain: str | None = None
    """Domain under which `bucket.domain` names a bucket (virtual-host addressing); unset: the
    bucket is always the first part of the path, which works beside a domain, too."""

    website_domain: str | None = None
    """Domain under which `bucket.domain` is the website of a bucket that has one; another than
    `domain`. Sites are served on the ports of S3, to anybody whom the bucket's policy lets read."""

    region: str = "us-east-1"
    """Region that the node says it is in. Clients may sign for any, unless check_region is on."""

    check_region: bool = False
    """Refuse requests that are signed for another region, as Amazon does."""

    keep_alive: bool = True
    """Leave a connection open for further requests."""

    idle_timeout_s: float = 120.0
    """Seconds after which a connection without a request is closed; 0: never."""

    header_timeout_s: float = 10.0
    """Seconds in which a request's headers must be complete, else the connection is closed."""

    body_timeout_s: float = 60.0
    """Longest pause, in seconds, within a request's body or of a client that reads nothing of an
    answer; then the connection is closed."""

    max_connections: int = 4096
    """Connections that one gateway process serves; further ones get 503 SlowDown."""

    max_connections_per_client: int = 0
    """The same for one client address; 0: no limit of its own (many clients may be behind one)."""

    metadata_threads: int = 16
    """Threads of one gateway process for work on the index: listings, deletions, copies."""

    transfer_threads: int = 32
    """Threads of one gateway process that hash, write and fetch the bytes of objects."""

    drain_timeout_s: float = 15.0
    """Longest that requests under way may go on after a stop was asked for."""

    upload_age_max_s: float = 7 * 86400.0
    """Seconds after which a multipart upload that neither gets parts nor is completed is aborted,
    its parts freed; 0: never."""

    list_directories: bool = False
    """List every directory as an object `dir/`, as Alluxio does; off: only those that were made
    by mkdir or by a PUT of `dir/`, as S3 does."""

    list_uploads_as_objects: bool = False
    """List multipart uploads in progress as objects `KEY_UPLOADID/` and their parts as
    `KEY_UPLOADID/NUMBER`, as Alluxio does; off: listings show objects only, as S3 does."""

    directories_as_buckets: bool = False
    """Take `BUCKET:DIR:SUBDIR` in a path for a bucket of what is in that directory, as Alluxio
    does; off: no such bucket can be named. Listings of buckets never show them."""

    browser: bool = False
    """Answer `GET /BUCKET?browser=true` with the listing as a page of HTML, as Apache Ozone does,
    to those who may list the bucket; off: the parameter means nothing, as on S3."""

    bucket_log_interval_s: float = 300.0
    """Seconds after which server access logs of buckets are delivered to their target buckets."""

    bucket_log_records: int = 10_000
    """Records of one gateway process that are delivered at once when there are so many."""

    lifecycle_day_s: int = 86_400
    """Seconds that the mover takes for a day of lifecycle rules: less only to test rules, for then
    objects go before the dates that clients are told."""

    tag_limits: bool = True
    """Hold tags to Amazon's limits: 10 for an object or bucket, 128 characters for a key, 256 for a
    value, and which characters."""

    metadata_bytes_max: int = 2048
    """Names and values of an object's user metadata together; more is refused. 2048 as on Amazon;
    stores take no more than they can keep, S3 buckets 2048."""

    sse_c_over_http: Literal["never", "loopback", "always"] = "loopback"
    """Whether clients may send their encryption keys (SSE-C) over HTTP: `loopback`: from this
    machine itself, so that a proxy here may end TLS; `never`, as on Amazon; `always`: everybody on
    the way can read the keys."""

    access_log: Literal["off", "failures", "all"] = "failures"
    """Which requests are logged, one line of JSON each: none, those answered with an error, all."""

    def __post_init__(self) -> None:
        self._check_listening()
        self._check_amounts()
        if self.domain is not None and self.website_domain is not None:
            domain, site = "." + self.domain.lower(), "." + self.website_domain.lower()
            if site.endswith(domain) or domain.endswith(site):
                raise ValueError(
                    "website_domain and domain must not contain one another: a host would name a"
                    " bucket and a site"
                )

    def _check_amounts(self) -> None:
        if self.bucket_log_interval_s <= 0 or not 1 <= self.bucket_log_records <= 100_000:
            raise ValueError(
                "bucket_log_interval_s must be above 0, bucket_log_records from 1 to 100000"
            )
        for name in ("header_timeout_s", "body_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0: a client could stay for ever")
        for name in (
            "idle_timeout_s", "drain_timeout_s", "upload_age_max_s", "max_connections_per_client",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0")
        for name in ("max_connections", "metadata_threads", "transfer_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name, least, most in (
            ("metadata_bytes_max", 0, 65_536),
            ("lifecycle_day_s", 1, 86_400),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least} to {most}")

    def _check_listening(self) -> None:
        for name in ("port", "https_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must be from 0 to 65535")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_self_signed and self.tls_certificate is not None:
            raise ValueError("tls_self_signed makes what tls_certificate names: choose one")
        if self.https_only and not self.https:
            raise ValueError("https_only needs tls_certificate and tls_key, or tls_self_signed")

    @property
    def https(self) -> bool:
        """HTTPS is served."""
        return self.tls_certificate is not None or self.tls_self_signed


TOKEN_BYTES_MAX = 16 << 10
"""Of a bearer token: what is longer is refused unread."""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    mode: Literal["auto", "sigv4", "simple", "oidc"] = "auto"
    """How requests are authenticated: `sigv4` checks their signatures against the access keys made
    by `forebay keys create`; `simple` believes the user named in the Authorization header and
    checks nothing; `auto` is simple on a loopback address while no access key exists; `oidc` is
    sigv4 and takes tokens of an OpenID Connect issuer, too: as `Authorization: Bearer`, and by
    AssumeRoleWithWebIdentity in exchange for temporary access keys."""

    allow_simple_remote: bool = False
    """Allow `simple` on an address that other machines can reach. Anybody who can may then read
    and write everything."""

    form_signature_v2: bool = True
    """Accept browser forms whose policy is signed in the old way (AWSAccessKeyId and signature), as
    Amazon does in its older regions. Requests are never accepted so."""

    oidc_issuer: str | None = None
    """URL of the issuer whose tokens are taken in mode oidc, exactly as it calls itself."""

    oidc_audiences: tuple[str, ...] = ()
    """Whom tokens must be for (`aud`, or `azp`): the client ids under which the issuer knows this
    node. Tokens for others are refused: whoever got one could use it here."""

    oidc_user_claim: str = "sub"
    """Claim of a token that names the user, such as `preferred_username` or `email`. Choose one
    that users cannot change themselves."""

    oidc_user_prefix: str = ""
    """Put before the claim to make the user's name, such as `oidc:`, so that nobody whom the issuer
    knows becomes a user of this node by having the same name."""

    oidc_keys_url: str | None = None
    """Where the issuer publishes its keys (JWKS); unset: as its discovery document says."""

    oidc_ca: Path | None = None
    """Authorities, in PEM, to trust for HTTPS to the issuer; unset: those of the system."""

    oidc_keys_fresh_s: float = 300.0
    """Seconds after which the issuer is asked for its keys again. One that a token names and nobody
    knows is asked for at once."""

    oidc_keys_max_s: float = 3600.0
    """Longest that known keys are used while the issuer does not answer; then tokens are refused
    with 503. Temporary keys that were given out are good until they expire."""

    oidc_session_s_max: int = 43200
    """Longest life of temporary keys, from 900 seconds on."""

    def __post_init__(self) -> None:
        if self.mode == "oidc" and not (self.oidc_issuer and self.oidc_audiences):
            raise ValueError("mode: oidc needs oidc_issuer and oidc_audiences")
        for name in ("oidc_issuer", "oidc_keys_url"):
            url = getattr(self, name)
            if url is not None and not url.startswith(("https://", "http://")):
                raise ValueError(f"{name} must begin with https:// or http://")
        if not 900 <= self.oidc_session_s_max <= 43200:
            raise ValueError("oidc_session_s_max must be from 900 to 43200")
        for name in ("oidc_keys_fresh_s", "oidc_keys_max_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address. A name other than localhost may be any."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
