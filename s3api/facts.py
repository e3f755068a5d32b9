"""What policies can ask about a request: the values of condition keys.

Keys are in lower case, as `policy.patterns.Context` has them. A key that a request has no value for
is not there. Everything comes from the request as it was parsed and authenticated; the object's
tags are asked for separately, since they cost a look at the object.

Runs on the event loop; inline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from cache.publishing import Object
from s3api.keys import parse_copy_source
from s3api.operations import Call
from s3api.policy.patterns import Context

ACCOUNT = "000000000000"
"""The one account there is: every user of the node is in it."""

_MEMBERS = {
    "ACL": "s3:x-amz-acl",
    "GrantFullControl": "s3:x-amz-grant-full-control",
    "GrantRead": "s3:x-amz-grant-read",
    "GrantReadACP": "s3:x-amz-grant-read-acp",
    "GrantWrite": "s3:x-amz-grant-write",
    "GrantWriteACP": "s3:x-amz-grant-write-acp",
    "MetadataDirective": "s3:x-amz-metadata-directive",
    "ServerSideEncryption": "s3:x-amz-server-side-encryption",
    "SSEKMSKeyId": "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "SSECustomerAlgorithm": "s3:x-amz-server-side-encryption-customer-algorithm",
    "StorageClass": "s3:x-amz-storage-class",
    "WebsiteRedirectLocation": "s3:x-amz-website-redirect-location",
    "ObjectOwnership": "s3:x-amz-object-ownership",
    "ObjectLockMode": "s3:object-lock-mode",
    "ObjectLockRetainUntilDate": "s3:object-lock-retain-until-date",
    "ObjectLockLegalHoldStatus": "s3:object-lock-legal-hold",
    "Prefix": "s3:prefix",
    "Delimiter": "s3:delimiter",
    "MaxKeys": "s3:max-keys",
    "VersionId": "s3:versionid",
    "IfMatch": "s3:if-match",
    "IfNoneMatch": "s3:if-none-match",
}
"""Members of the input that are condition keys."""
_CREATIONS = frozenset(
    {"PutObject", "CopyObject", "CreateMultipartUpload", "CompleteMultipartUpload"}
)


def user_arn(user: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:user/{user}"


def request_facts(call: Call) -> dict[str, list[str]]:
    """Of the request and its caller."""
    facts = {
        "aws:currenttime": [f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"],
        "aws:epochtime": [str(int(time.time()))],
        "aws:securetransport": ["true" if call.request.scheme == "https" else "false"],
        "aws:requestedregion": [call.door.config.region],
        "aws:principaltype": ["User" if call.identity.user else "Anonymous"],
        "aws:viaawsservice": ["false"],
        "s3:resourceaccount": [ACCOUNT],
    }
    _add(facts, "aws:sourceip", call.request.remote)
    _add(facts, "aws:referer", call.headers.get("referer"))
    _add(facts, "aws:useragent", call.headers.get("user-agent"))
    user = call.identity.user
    if user:
        facts["aws:username"] = [user]
        facts["aws:userid"] = [user]
        facts["aws:principalarn"] = [user_arn(user)]
        facts["aws:principalaccount"] = [ACCOUNT]
        facts["s3:signatureversion"] = ["AWS4-HMAC-SHA256"]
        facts["s3:authtype"] = [_auth_type(call)]
        _add(facts, "s3:signatureage", _signature_age(call))
    _add(facts, "s3:x-amz-content-sha256", call.headers.get("x-amz-content-sha256"))
    for member, key in _MEMBERS.items():
        if member in call.input:
            facts[key] = [str(call.input[member])]
    if "CopySource" in call.input:
        source = parse_copy_source(call.input["CopySource"])
        key_text = source.key.decode("utf-8", "replace")
        facts["s3:x-amz-copy-source"] = [f"{source.bucket}/{key_text}"]
    if "Tagging" in call.input:
        facts |= tag_facts(dict(parse_qsl(call.input["Tagging"], keep_blank_values=True)))
    if call.operation.name in _CREATIONS:
        facts["s3:objectcreationoperation"] = ["true"]
    return facts


def tag_facts(tags: Mapping[str, str]) -> dict[str, list[str]]:
    """Of the tags that a request gives to an object."""
    facts = {f"s3:requestobjecttag/{name.lower()}": [value] for name, value in tags.items()}
    facts["s3:requestobjecttagkeys"] = list(tags)
    return facts


def object_facts(found: Object) -> Context:
    """Of the object that the request is about."""
    facts: dict[str, list[str]] = {}
    for name, value in found.attributes.tags.items():
        # Keys of conditions have no case; tags that differ in theirs only are one key's values.
        facts.setdefault(f"s3:existingobjecttag/{name.lower()}", []).append(value)
    return facts


def _add(facts: dict[str, list[str]], key: str, value: str | None) -> None:
    if value is not None:
        facts[key] = [value]


def _auth_type(call: Call) -> str:
    if "authorization" in call.headers:
        return "REST-HEADER"
    if "X-Amz-" in call.request.query_string:
        return "REST-QUERY-STRING"
    return "POST"


def _signature_age(call: Call) -> str | None:
    """Milliseconds since the request was signed."""
    signed = call.request.query.get("X-Amz-Date") or call.headers.get("x-amz-date")
    if signed is None:
        return None
    try:
        moment = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return str(int((time.time() - moment.timestamp()) * 1000))
