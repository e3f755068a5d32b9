"""The S3 store's configuration, its boto3 client, and what the client's errors mean.

One client for a store: botocore's clients are thread-safe. Retries are few and timeouts are cut
so that a request, its retry and the wait between them end within deadline_s; what may wait
longer than that (an outage) is retried by the core, which knows what is worth it.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointProviderError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError, IncompleteRead

from cache.config import MIB, ConfigError
from cache.errors import (
    StoreChanged,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreOverQuota,
    StoreRefused,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ATTEMPTS = 2
_BACKOFF_S = 1.0  # botocore's "standard" mode waits up to this before the second attempt
_PART_BYTES_MIN = 5 * MIB
_PART_BYTES_MAX = 512 * MIB
_COPY_PART_BYTES_MAX = 5 << 30


@dataclass(frozen=True, slots=True)
class S3StoreConfig:
    """A bucket, or a prefix in one, as a store."""

    bucket: str
    """Name of the bucket; it must exist."""
    prefix: str = ""
    """Part of the bucket to use, ending in `/`; unset: all of it."""
    endpoint_url: str = ""
    """URL of the S3 server; unset: Amazon's for the region."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    access_key: str = ""
    """Access key; unset: the credentials that the AWS tools of this user find (environment,
    shared files, instance role)."""
    secret_key: str = field(default="", repr=False)
    """Secret key for access_key; secret_key_file keeps it out of the configuration."""
    secret_key_file: Path | None = None
    """File that holds the secret key and nothing else."""
    path_style: bool = True
    """Name the bucket in the path, as most servers other than Amazon's need it."""
    deadline_s: float = 30.0
    """Longest that one request may take, with its retry; bodies are many requests."""
    connect_timeout_s: float = 3.0
    """Longest wait for a connection."""
    max_connections: int = 32
    """Connections to the server, and so requests at the same time."""
    part_size_bytes: int = 8 * MIB
    """Bodies larger than this are uploaded in parts of it; an upload holds up to `parts_in_flight`
    + 1 of them in memory. Bodies of unknown length get larger parts as they grow beyond 2,000 of
    them."""
    parts_in_flight: int = 2
    """Parts of one upload that are on their way at the same time: more for distant servers. How
    many uploads there are is up to `cache.persist_workers` and, in write_through, to the clients
    (`s3.transfer_threads`); all share `max_connections`."""
    copy_part_size_bytes: int = 512 * MIB
    """Objects larger than this are copied inside the store in parts of it, so that no single
    request lasts as long as a copy of gigabytes."""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    """Whether uploads carry CRC trailers, which some servers refuse (`when_supported`); the MD5
    is sent and compared in either case."""
    conditional_writes: Literal["auto", "native", "check"] = "auto"
    """Whether the server honours If-Match and If-None-Match on writes: `native`, it does; `check`,
    Forebay looks just before it writes; `auto`, try it out at the first conditional write."""
    listing: Literal["v2", "v1", "unordered"] = "v2"
    """ListObjectsV2, or V1 for old servers; `unordered` for servers whose pages are not in key
    order (rclone serve s3): each listing is then read whole and sorted in memory."""
    etag_is_md5: bool = True
    """Whether the ETag of a simple upload is the MD5 of its bytes. Where it is not (SSE-KMS, some
    servers), set it to false, and uploads are verified by Content-MD5 and size only."""
    object_tagging: bool = True
    """Whether the server has object tagging; where not, tags are kept in the metadata."""
    directory_markers: Literal["store", "omit"] = "store"
    """Whether the server can hold keys that end in `/`. `omit` for those that cannot (rclone
    serve s3 makes a file of it): a directory then is in the store only while something is in
    it, and its mode, owner and times are kept by Forebay alone."""
    verify_tls: bool = True
    """Whether the server's certificate is checked. Without it anybody can pose as the store."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""

    def __post_init__(self) -> None:
        if not self.bucket:
            raise ConfigError("bucket must be named")
        if self.prefix and (not self.prefix.endswith("/") or self.prefix.startswith("/")):
            raise ConfigError("prefix must end in / and not begin with it")
        if self.secret_key and self.secret_key_file:
            raise ConfigError("secret_key and secret_key_file exclude each other")
        if bool(self.access_key) != bool(self.secret_key or self.secret_key_file):
            raise ConfigError("access_key and its secret key are set together or not at all")
        if not 0 < self.connect_timeout_s < self.deadline_s / _ATTEMPTS - _BACKOFF_S:
            raise ConfigError(
                "connect_timeout_s must be more than 0, and deadline_s more than twice that + 2"
            )
        if self.max_connections < 2:
            raise ConfigError("max_connections must be at least 2")
        if not 1 <= self.parts_in_flight <= self.max_connections:
            raise ConfigError("parts_in_flight must be 1 to max_connections")
        if not _PART_BYTES_MIN <= self.part_size_bytes <= _PART_BYTES_MAX:
            raise ConfigError("part_size_bytes must be 5 MiB to 512 MiB")
        if not _PART_BYTES_MIN <= self.copy_part_size_bytes <= _COPY_PART_BYTES_MAX:
            raise ConfigError("copy_part_size_bytes must be 5 MiB to 5 GiB")


def make_client(config: S3StoreConfig) -> S3Client:
    """The client for a store. Makes no request."""
    # Imported here: boto3 takes a third of a second, which a node without S3 stores need not pay.
    import boto3
    import botocore.session
    from botocore.config import Config

    secret: str | None = config.secret_key or None
    if config.secret_key_file is not None:
        try:
            secret = config.secret_key_file.read_text().strip()
        except OSError as exc:
            raise ConfigError(f"secret_key_file: {exc}") from exc
    settings = Config(
        region_name=config.region,
        signature_version="s3v4",
        connect_timeout=config.connect_timeout_s,
        read_timeout=config.deadline_s / _ATTEMPTS - config.connect_timeout_s - _BACKOFF_S / 2,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=config.max_connections,
        request_checksum_calculation=config.checksums,
        # Bodies are compared with their MD5 by Forebay; a wrapped stream would only slow them.
        response_checksum_validation="when_required",
        s3={
            "addressing_style": "path" if config.path_style else "virtual",
            # MD5 covers the body, on plain HTTP too: no second hash over all bytes.
            "payload_signing_enabled": False,
        },
        # botocore's own tells of the machine, and is put together anew for each request.
        user_agent="forebay",
    )
    verify: bool | str = config.verify_tls
    if config.verify_tls and config.ca_file is not None:
        verify = str(config.ca_file)
    session = botocore.session.Session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=time_of)
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        endpoint_url=config.endpoint_url or None,
        aws_access_key_id=config.access_key or None,
        aws_secret_access_key=secret,
        verify=verify,
        config=settings,
    )


def time_of(text: str) -> datetime:
    """A time as S3 writes it, in a header or in XML. botocore asks dateutil, which takes fifty
    times as long, for each key of a listing; for what is not that it still may."""
    with contextlib.suppress(ValueError):
        is_iso = text[4:5] == "-"
        found = datetime.fromisoformat(text) if is_iso else parsedate_to_datetime(text)
        if found.tzinfo is not None:
            return found
    return parse_timestamp(text)


_CODES: dict[str, type[StoreError]] = {
    "NoSuchKey": StoreNotFound,
    "NoSuchUpload": StoreNotFound,
    "PreconditionFailed": StoreChanged,
    "ConditionalRequestConflict": StoreChanged,
    "QuotaExceeded": StoreOverQuota,
    "XMinioAdminBucketQuotaExceeded": StoreOverQuota,
    "InsufficientCapacity": StoreFull,
    "XMinioStorageFull": StoreFull,
    "BadDigest": StoreCorrupt,
    "IncompleteBody": StoreCorrupt,
    "InvalidRange": StoreCorrupt,
    "RequestTimeout": StoreUnavailable,
    "SlowDown": StoreUnavailable,
    "Throttling": StoreUnavailable,
    # A bucket that is gone says nothing about its objects: wrong endpoint, wrong name, outage.
    "NoSuchBucket": StoreUnavailable,
}
_STATUSES: dict[int, type[StoreError]] = {
    404: StoreNotFound,
    408: StoreUnavailable,
    409: StoreChanged,
    412: StoreChanged,
    416: StoreCorrupt,
    429: StoreUnavailable,
    507: StoreFull,
}
_REFUSALS = (
    CredentialRetrievalError,
    EndpointProviderError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)


@contextlib.contextmanager
def store_errors(action: str, key: bytes) -> Iterator[None]:
    """Turn what botocore and urllib3 raise into the StoreError that it means."""
    subject = f"{action} {key!r}"
    try:
        yield
    except ClientError as exc:
        raise error_of_answer(subject, exc) from exc
    except (FlexibleChecksumError, IncompleteReadError, IncompleteRead) as exc:
        raise StoreCorrupt(f"{subject}: {exc}") from exc
    except ResponseParserError as exc:
        raise StoreCorrupt(f"{subject}: an answer that is no S3: {exc}") from exc
    except _REFUSALS as exc:
        raise StoreRefused(f"{subject}: {exc}") from exc
    except RecursionError as exc:
        # botocore follows a redirect by asking for the bucket's region, which redirects …
        raise StoreRefused(f"{subject}: redirected in a circle: region or endpoint?") from exc
    except (HTTPClientError, BotoCoreError, HTTPError, http.client.HTTPException, OSError) as exc:
        raise StoreUnavailable(f"{subject}: {exc}") from exc


def error_of_answer(subject: str, exc: ClientError) -> StoreError:
    """What an error that the server answered means: by its code, else by its status."""
    code = exc.response.get("Error", {}).get("Code", "")
    status = status_of(exc.response)
    kind = _CODES.get(code) or _STATUSES.get(status)
    if kind is StoreNotFound and code not in _CODES and exc.operation_name != "HeadObject":
        kind = StoreUnavailable  # somebody else's 404 page: S3 names what it did not find
    if kind is None:
        # 3xx is a wrong region or endpoint; an error inside a 200 is a 500 that came late.
        kind = StoreRefused if 300 <= status < 500 else StoreUnavailable
    return kind(f"{subject}: {code or status} {exc.response.get('Error', {}).get('Message', '')}")


def status_of(response: Any) -> int:
    """HTTP status of a response, or of the response in a ClientError; 0 if it has none."""
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_retried(response: Any) -> bool:
    """Whether this answer is to a second attempt: the first may have taken effect unseen."""
    return int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0
