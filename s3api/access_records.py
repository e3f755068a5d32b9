"""One request as a line of a server access log, in Amazon's format; pure.

The fields and their order are those of the userguide's "Amazon S3 server access log format". What
a client sent may hold anything: nothing of it can end a field or a line, and no signature or
session token gets into a log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

_RESOURCES = {
    "AbortMultipartUpload": "UPLOAD",
    "CompleteMultipartUpload": "UPLOAD",
    "CreateMultipartUpload": "UPLOADS",
    "DeleteObjectTagging": "OBJECT_TAGGING",
    "DeleteObjects": "MULTI_OBJECT_DELETE",
    "GetObjectAcl": "ACL",
    "GetObjectAttributes": "OBJECT_ATTRIBUTES",
    "GetObjectTagging": "OBJECT_TAGGING",
    "GetBucketAcl": "ACL",
    "GetBucketLogging": "LOGGING_STATUS",
    "GetBucketLocation": "LOCATION",
    "ListMultipartUploads": "UPLOADS",
    "ListObjectVersions": "BUCKETVERSIONS",
    "ListParts": "UPLOAD",
    "Preflight": "PREFLIGHT",
    "PutBucketAcl": "ACL",
    "PutBucketLogging": "LOGGING_STATUS",
    "PutObjectAcl": "ACL",
    "PutObjectTagging": "OBJECT_TAGGING",
    "UploadPart": "PART",
    "UploadPartCopy": "PART",
}
_DOCUMENT = re.compile("^(?:Get|Put|Delete)Bucket(.+?)(?:Configuration)?$")
_SECRET = re.compile(r"(?i)((?:^|[?&])(?:x-amz-signature|x-amz-security-token|signature)=)[^&]*")
_UNSAFE = re.compile(r'[\x00-\x20"\x7f-\xff]')
_UNSAFE_IN_QUOTES = re.compile(r'[\x00-\x1f"\\\x7f-\xff]')


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """A request and its answer. Empty texts and None: there is none."""

    bucket_owner: str  # canonical id
    bucket: str
    time_ns: int
    remote: str
    requester: str  # canonical id
    request_id: str
    operation: str
    key: bytes
    method: str
    raw_path: str
    raw_query: str
    status: int
    error_code: str
    sent_bytes: int | None
    object_size: int | None
    total_ms: int
    referer: str
    user_agent: str
    version_id: str
    host_id: str
    signature: str  # SigV4
    cipher: str
    authentication: str  # AuthHeader or QueryString
    host: str
    tls: str

    def line(self) -> str:
        """Without a line end."""
        query = _SECRET.sub(r"\1-", self.raw_query)
        uri = f"{self.method} {self.raw_path}{'?' if query else ''}{query} HTTP/1.1"
        fields: Sequence[str] = (
            _word(self.bucket_owner),
            _word(self.bucket),
            datetime.fromtimestamp(self.time_ns // 10**9, UTC).strftime(
                "[%d/%b/%Y:%H:%M:%S +0000]"
            ),
            _word(self.remote),
            _word(self.requester),
            _word(self.request_id),
            _word(self.operation),
            quote(self.key, safe="/-_.~!*'()@:$,;+=") or "-",
            _quoted(uri),
            str(self.status),
            _word(self.error_code),
            _number(self.sent_bytes),
            _number(self.object_size),
            str(self.total_ms),
            "-",  # turn-around time
            _quoted(self.referer),
            _quoted(self.user_agent),
            _word(self.version_id),
            _word(self.host_id),
            _word(self.signature),
            _word(self.cipher),
            _word(self.authentication),
            _word(self.host),
            _word(self.tls),
            "-",  # access point
            "-",  # whether an ACL was required
        )
        return " ".join(fields)


def operation_name(method: str, operation: str, level: str) -> str:
    """`REST.GET.OBJECT`: how Amazon's logs call an operation of the model."""
    if operation == "Website":
        return f"WEBSITE.{method}.OBJECT"
    if operation == "CopyObject":
        return "REST.COPY.OBJECT"
    if operation == "UploadPartCopy":
        return "REST.COPY.PART"
    resource = _RESOURCES.get(operation)
    if resource is None:
        document = _DOCUMENT.match(operation)
        plain = {"key": "OBJECT", "bucket": "BUCKET"}.get(level, "SERVICE")
        resource = plain if document is None else document[1].upper()
    return f"REST.{method}.{resource}"


def _word(text: str) -> str:
    return _UNSAFE.sub(_escape, text) or "-"


def _quoted(text: str) -> str:
    return f'"{_UNSAFE_IN_QUOTES.sub(_escape, text) or "-"}"'


def _escape(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="replace")


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
