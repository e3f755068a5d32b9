"""From the members of an operation's output to response headers and an XML body.

Pure; callable from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s3api.documents import scalar_text, write_document
from s3api.errors import xml_text
from s3api.model import MODEL, XML_NAMESPACE, Operation
from s3api.parsing import METADATA_PREFIX

ROOT_ELEMENTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAcl": "AccessControlPolicy",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketRequestPayment": "RequestPaymentConfiguration",
    "ListBucketAnalyticsConfigurations": "ListBucketAnalyticsConfigurationsResult",
    "ListBucketIntelligentTieringConfigurations": (
        "ListBucketIntelligentTieringConfigurationsOutput"
    ),
    "ListBucketInventoryConfigurations": "ListInventoryConfigurationsResult",
    "ListBucketMetricsConfigurations": "ListMetricsConfigurationsResult",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}
"""Document elements of outputs that are not one payload member: the model does not name them."""


def write_headers(operation: Operation, output: Mapping[str, Any]) -> dict[str, str]:
    """Response headers of the members that travel in headers."""
    headers: dict[str, str] = {}
    if operation.output is None:
        return headers
    members = operation.output.members
    for name, value in output.items():
        member = members[name]
        if value is None:
            continue
        if member.location == "header":
            headers[member.wire_name] = scalar_text(value, MODEL.shapes[member.shape], "rfc822")
        elif member.location == "headers":
            for key, text in value.items():
                headers[METADATA_PREFIX + key] = text
    return headers


def write_body(operation: Operation, output: Mapping[str, Any]) -> bytes | None:
    """The XML document of an answer; None where the operation has none."""
    shape = operation.output
    if shape is None:
        return None
    if operation.name == "GetBucketLocation":
        # The one answer whose document element holds the text itself.
        text = xml_text(output.get("LocationConstraint") or "")
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<LocationConstraint xmlns="{XML_NAMESPACE}">{text}</LocationConstraint>'
        ).encode()
    if shape.payload is not None:
        member = shape.members[shape.payload]
        payload = MODEL.shapes[member.shape]
        if payload.kind != "structure":
            return None
        return write_document(member.wire_name, payload, output[member.name])
    if all(member.location for member in shape.members.values()):
        return None
    return write_document(ROOT_ELEMENTS[operation.name], shape, output)
