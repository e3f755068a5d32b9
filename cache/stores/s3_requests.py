"""Requests about one S3 object, in the words of the store: parameters out, StoredObjects back.

The layer between botocore and the store: it builds the parameters that objects are written with,
reads what HEAD answers, verifies ETags and knows what the server can do (conditions, tagging).
Uploads and copies share it, so each rule is here once. Blocks; any thread may call; it makes no
threads and keeps no deadline but the client's timeouts.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import logging
import re
import threading
import time
import uuid
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cache.errors import (
    AttributeTooLarge,
    StoreChanged,
    StoreCorrupt,
    StoreError,
    StoreNotFound,
    StoreRefused,
    StoreUnavailable,
)
from cache.records import Kind
from cache.stores import attributes as mapping
from cache.stores.base import ABSENT, StoredAttributes, StoredObject
from cache.stores.bodies import expected_body
from cache.stores.s3_client import S3StoreConfig, make_client, store_errors, was_retried
from cache.stores.s3_joined import JoinedEtags, Shows
from cache.stores.s3_keys import to_text

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CopySourceTypeDef

log = logging.getLogger(__name__)

_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_BUCKET_TRUSTED_S = 10.0
"""For this long after the bucket answered, a 404 is believed to mean the object."""
_SYMLINK_BYTES_MAX = 4096

_HEADERS = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "expires": "Expires",
}


class ObjectRequests:
    """See the module docstring."""

    def __init__(self, config: S3StoreConfig) -> None:
        self.config = config
        self.client = make_client(config)
        self._bucket_seen_s = float("-inf")
        self.joined_etags = JoinedEtags(
            etag_is_md5=config.etag_is_md5,
            shows=Shows.UNKNOWN if config.endpoint_url else Shows.ANSWERED,  # as Amazon documents
        )
        self._conditions_lock = threading.Lock()
        self._conditions: bool | None = {"native": True, "check": False}.get(
            config.conditional_writes
        )

    def address(self, key: bytes) -> dict[str, Any]:
        """Bucket and Key of a request."""
        return {"Bucket": self.config.bucket, "Key": self.config.prefix + to_text(key)}

    def copy_source(self, key: bytes) -> CopySourceTypeDef:
        """The same as the source of a copy."""
        return {"Bucket": self.config.bucket, "Key": self.config.prefix + to_text(key)}

    def omits(self, key: bytes) -> bool:
        """Whether the key is a directory marker, which this store is configured not to hold."""
        return key.endswith(b"/") and self.config.directory_markers == "omit"

    def omitted(self, key: bytes, attributes: StoredAttributes) -> StoredObject:
        """What stands for a marker that is not stored."""
        return StoredObject(key, 0, "omitted", time.time_ns(), attributes)

    # What is there ----------------------------------------------------------------------------

    def head(self, key: bytes) -> StoredObject:
        """The object with all attributes; reads the body of a symlink, which is its target."""
        if self.omits(key):
            raise StoreNotFound(f"this store has no directory markers: {key!r}")
        with store_errors("look up", key):
            try:
                response = self.client.head_object(**self.address(key))
            except ClientError as exc:
                self._not_the_bucket(exc)
                raise
        return self.described(key, response, int(response["ContentLength"]))

    def get(self, key: bytes, start: int, stop: int, **conditions: Any) -> Any:
        """GetObject of a range."""
        return self.client.get_object(
            **self.address(key), Range=f"bytes={start}-{stop - 1}", **conditions
        )

    def verify_version(self, key: bytes, version: str | None) -> StoredObject:
        """head(); StoreChanged unless the object is `version` (None: any)."""
        found = self.head(key)
        if version is not None and found.version != version:
            raise StoreChanged(f"{key!r} is {found.version}, not {version}")
        return found

    def check_expected(self, key: bytes, expected: str | None) -> None:
        """StoreChanged unless the key is as the writer expects, as far as HEAD can tell."""
        if expected is None:
            return
        try:
            with store_errors("look up", key):
                try:
                    current = version_of(self.client.head_object(**self.address(key)))
                except ClientError as exc:
                    self._not_the_bucket(exc)
                    raise
        except StoreNotFound:
            current = ABSENT
        if current != expected:
            raise StoreChanged(f"{key!r} is {current or 'absent'}, not {expected or 'absent'}")

    def _not_the_bucket(self, exc: ClientError) -> None:
        """A 404 to HEAD has no body that tells a missing object from a missing bucket. Ask, so
        that a bucket that is gone is never taken for "everything was deleted"."""
        if exc.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey", "NotFound"):
            return
        self.check_bucket()

    def check_bucket(self) -> None:
        """StoreUnavailable if it is the bucket that is not there, as far as was seen lately."""
        if time.monotonic() - self._bucket_seen_s < _BUCKET_TRUSTED_S:
            return
        try:
            self.client.head_bucket(Bucket=self.config.bucket)
        except ClientError as bucket_exc:
            raise StoreUnavailable(f"bucket {self.config.bucket}: {bucket_exc}") from bucket_exc
        self._bucket_seen_s = time.monotonic()

    def _tags(self, key: bytes, response: Any) -> dict[str, str]:
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        if not self.config.object_tagging or not int(headers.get("x-amz-tagging-count", "0")):
            return {}
        with store_errors("look up tags of", key):
            answer = self.client.get_object_tagging(**self.address(key))
        return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}

    def described(self, key: bytes, response: Any, size_bytes: int) -> StoredObject:
        """What an answer to HEAD or GET says of an object of this size. May ask for its tags, and
        for the target of a symlink."""
        self._bucket_seen_s = time.monotonic()
        headers = {
            name: str(response[field])
            for name, field in _HEADERS.items()
            if name != "expires" and response.get(field)
        }
        if expires := response["ResponseMetadata"]["HTTPHeaders"].get("expires"):
            headers["expires"] = expires
        version = version_of(response)
        found = mapping.from_object(
            key,
            size_bytes=size_bytes,
            store_etag=version,
            metadata=response.get("Metadata", {}),
            content_type=response.get("ContentType"),
            headers=headers,
            tags=self._tags(key, response),
        )
        if found.kind == Kind.SYMLINK and 0 < size_bytes <= _SYMLINK_BYTES_MAX:
            target = self._body(key, version)
            found = dataclasses.replace(found, symlink_target=target)
        modified_ns = int(response["LastModified"].timestamp()) * 10**9
        return StoredObject(key, size_bytes, version, modified_ns, found)

    def _body(self, key: bytes, version: str) -> bytes:
        """The whole of a small object."""
        with store_errors("read", key):
            response = self.client.get_object(**self.address(key), IfMatch=quoted(version))
            with contextlib.closing(response["Body"]) as body:
                content: bytes = body.read()
        if version_of(response) != version:
            raise StoreChanged(f"{key!r} is {version_of(response)}, no longer {version}")
        return content

    # What is written --------------------------------------------------------------------------

    def parameters(
        self, attributes: StoredAttributes, size_bytes: int | None, store_etag: str | None = None
    ) -> dict[str, Any]:
        """The attributes as parameters of PutObject, CopyObject or CreateMultipartUpload."""
        fields = mapping.to_object(
            attributes, size_bytes, store_etag, tagging=self.config.object_tagging
        )
        parameters: dict[str, Any] = {"Metadata": fields.metadata}
        if fields.content_type:
            parameters["ContentType"] = fields.content_type
        if fields.tagging:
            parameters["Tagging"] = fields.tagging
        for name, value in fields.headers.items():
            parameters[_HEADERS[name.lower()]] = value
        return parameters

    def check_attributes(self, attributes: StoredAttributes) -> None:
        """AttributeTooLarge if their metadata is more than S3 takes with an object."""
        metadata = self.parameters(attributes, None)["Metadata"]
        size = sum(len(name) + len(value) for name, value in metadata.items())
        if size > mapping.METADATA_BYTES_MAX:
            raise AttributeTooLarge(
                f"{size} bytes of metadata, tags and what is kept beside them; the store takes"
                f" {mapping.METADATA_BYTES_MAX}"
            )

    def put(
        self, key: bytes, body: bytes, attributes: StoredAttributes, expected: str | None
    ) -> StoredObject:
        """One PutObject, verified by MD5 on both sides."""
        if self.omits(key):
            if body:
                raise StoreRefused(f"{key!r}: this store is configured to have no such keys")
            return self.omitted(key, attributes)
        fixed = expected_body(attributes)
        if fixed is not None:
            body = fixed
        digest = hashlib.md5(body, usedforsecurity=False)
        etag = digest.hexdigest()
        store_etag = etag if self.config.etag_is_md5 else None
        conditions = self.conditions(key, expected)
        with store_errors("write", key):
            try:
                response = self.client.put_object(
                    **self.address(key),
                    Body=body,
                    ContentLength=len(body),
                    ContentMD5=base64.b64encode(digest.digest()).decode("ascii"),
                    **self.parameters(attributes, len(body), store_etag),
                    **conditions,
                )
            except ClientError as exc:
                if self._was_ours(key, exc, etag):
                    return self.head(key)
                if expected and exc.response.get("Error", {}).get("Code") == "NoSuchKey":
                    raise StoreChanged(f"{key!r} is absent, not {expected}") from exc
                raise
        self.verify_etag(key, etag, response)
        return self.written(key, len(body), response, attributes)

    def written(
        self, key: bytes, size_bytes: int, response: Any, attributes: StoredAttributes
    ) -> StoredObject:
        """What a write that answered `response` made. The answer carries no Last-Modified: the
        server's Date is within a second of it."""
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        modified_ns = time.time_ns()
        if "date" in headers:
            with contextlib.suppress(ValueError):
                modified_ns = int(parsedate_to_datetime(headers["date"]).timestamp()) * 10**9
        version = version_of(response)
        known = dataclasses.replace(attributes, s3_etag=attributes.s3_etag or version)
        return StoredObject(key, size_bytes, version, modified_ns, known)

    def add_late(
        self, stored: StoredObject, attributes: StoredAttributes, begun: StoredAttributes | None
    ) -> None:
        """Keep what was not known when the metadata of a new object was said: see late_tags().
        That it was stored counts more: if the server takes no tags, this is not kept."""
        if not self.config.object_tagging:
            return
        tags = mapping.late_tags(attributes, stored.size_bytes, stored.version, begun)
        if not tags:
            return
        try:
            with store_errors("tag", stored.key):
                self.client.put_object_tagging(
                    **self.address(stored.key),
                    Tagging={"TagSet": [{"Key": k, "Value": v} for k, v in tags.items()]},
                )
        except StoreError as exc:
            log.warning("ETag and checksums of %r are not kept: %s", stored.key, exc)

    def verify_etag(self, key: bytes, etag: str, response: Any) -> None:
        """StoreCorrupt if the server's ETag is an MD5, and not of the bytes that were sent."""
        found = version_of(response)
        if self.is_md5(found, response) and found != etag:
            raise StoreCorrupt(f"{key!r}: the store has ETag {found} for bytes with MD5 {etag}")

    def is_md5(self, etag: str, response: Any) -> bool:
        """Whether an ETag is the MD5 of the bytes: not with SSE-KMS or a customer's key."""
        return (
            self.config.etag_is_md5
            and _MD5.fullmatch(etag) is not None
            and not str(response.get("ServerSideEncryption", "")).startswith("aws:kms")
            and not response.get("SSECustomerAlgorithm")
        )

    def _was_ours(self, key: bytes, exc: ClientError, etag: str) -> bool:
        """Whether a condition failed only because the first attempt, whose answer was lost, had
        written these very bytes."""
        if exc.response.get("Error", {}).get("Code") != "PreconditionFailed":
            return False
        if not was_retried(exc.response):
            return False
        try:
            return version_of(self.client.head_object(**self.address(key))) == etag
        except ClientError:
            return False

    # Conditions -------------------------------------------------------------------------------

    @property
    def has_conditions(self) -> bool:
        """Whether conditional writes are known to be atomic; False before `auto` found out."""
        return bool(self._conditions)

    def conditions(self, key: bytes, expected: str | None) -> dict[str, Any]:
        """Parameters that make a write conditional. Where the server has none, looks now."""
        if expected is None:
            return {}
        if not self._server_has_conditions():
            self.check_expected(key, expected)
            return {}
        return {"IfNoneMatch": "*"} if expected == ABSENT else {"IfMatch": quoted(expected)}

    def _server_has_conditions(self) -> bool:
        """Found out once: a server that honours If-Match refuses to write a new object under it.
        One that does not has then written a probe, which is removed."""
        with self._conditions_lock:
            if self._conditions is None:
                probe = probe_key()
                with store_errors("probe", probe):
                    try:
                        self.client.put_object(
                            **self.address(probe), Body=b"", IfMatch=quoted("0" * 32)
                        )
                    except ClientError as exc:
                        status = exc.response["ResponseMetadata"]["HTTPStatusCode"]
                        if status not in (404, 409, 412, 501):
                            raise
                        self._conditions = status != 501
                    else:
                        self.client.delete_object(**self.address(probe))
                        self._conditions = False
                log.info(
                    "bucket %s: conditional writes %s",
                    self.config.bucket,
                    "are atomic" if self._conditions else "are checked just before",
                )
            return self._conditions


def version_of(response: Any) -> str:
    """The ETag without quotes; StoreCorrupt if there is none."""
    etag = str(response.get("ETag", "")).strip('"')
    if not etag:
        raise StoreCorrupt("the store answered without an ETag")
    return etag


def probe_key() -> bytes:
    """A key that nobody else has, for an object that is there for a moment only."""
    return f".forebay-tmp/probe-{uuid.uuid4().hex}".encode()


def quoted(version: str) -> str:
    return f'"{version}"'
