"""What each operation is in the words of policies and ACLs: Amazon's list of actions for S3.

After "Actions, resources, and condition keys for Amazon S3" and "Mapping of ACL permissions and
access policy permissions". An operation that is not listed is `s3:` and its own name, and its
bucket's owner's alone.

Pure; callable from any thread.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s3api.acl import READ, READ_ACP, WRITE, WRITE_ACP


class Holder(enum.Enum):
    """Whose own the thing is that an operation is about: the holder may, unless a policy denies."""

    BUCKET_OWNER = 1
    OBJECT_OWNER = 2
    BUCKET_OR_OBJECT_OWNER = 3
    BUCKET_OWNER_OR_INITIATOR = 4  # of a multipart upload


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked for when an operation is."""

    action: str
    versioned: str = ""
    """The action where a version is named; empty: the same."""
    also: str = ""
    """A second action that must be allowed, too, by a policy or by being the holder."""
    also_versioned: str = ""
    holder: Holder = Holder.BUCKET_OWNER
    bucket_acl: str = ""
    """Permission of the bucket's ACL that allows it."""
    object_acl: str = ""
    of_key: bool = False
    """About a key of the bucket: the resource of policies is the key's."""
    reads_object: bool = False
    """Whether it says anything of an object that is there: then the object must be, and that it is
    not is told only to those who may list."""

    def actions(self, version_id: str | None) -> tuple[str, ...]:
        if version_id is None:
            return (self.action, self.also) if self.also else (self.action,)
        first, second = self.versioned or self.action, self.also_versioned or self.also
        return (first, second) if second else (first,)


def _bucket(action: str, acl: str = "") -> Rule:
    return Rule(f"s3:{action}", bucket_acl=acl)


def _object(
    action: str, versioned: str = "", acl: str = "", holder: Holder = Holder.OBJECT_OWNER
) -> Rule:
    return Rule(
        f"s3:{action}",
        versioned=f"s3:{versioned or action}",
        holder=holder,
        object_acl=acl,
        of_key=True,
        reads_object=True,
    )


_GET = _object("GetObject", "GetObjectVersion", READ)
PUT = Rule("s3:PutObject", bucket_acl=WRITE, of_key=True)
"""Of everything that makes an object."""
_EITHER = Holder.BUCKET_OR_OBJECT_OWNER
_INITIATOR = Holder.BUCKET_OWNER_OR_INITIATOR

RULES: dict[str, Rule] = {
    # the service
    "ListBuckets": Rule("s3:ListAllMyBuckets"),
    "CreateBucket": _bucket("CreateBucket"),
    # buckets
    "DeleteBucket": _bucket("DeleteBucket"),
    "HeadBucket": _bucket("ListBucket", READ),
    "ListObjects": _bucket("ListBucket", READ),
    "ListObjectsV2": _bucket("ListBucket", READ),
    "ListObjectVersions": _bucket("ListBucketVersions", READ),
    "ListMultipartUploads": _bucket("ListBucketMultipartUploads", READ),
    "GetBucketAcl": _bucket("GetBucketAcl", READ_ACP),
    "PutBucketAcl": _bucket("PutBucketAcl", WRITE_ACP),
    "GetBucketLocation": _bucket("GetBucketLocation"),
    "GetBucketPolicy": _bucket("GetBucketPolicy"),
    "GetBucketPolicyStatus": _bucket("GetBucketPolicyStatus"),
    "PutBucketPolicy": _bucket("PutBucketPolicy"),
    "DeleteBucketPolicy": _bucket("DeleteBucketPolicy"),
    "GetPublicAccessBlock": _bucket("GetBucketPublicAccessBlock"),
    "PutPublicAccessBlock": _bucket("PutBucketPublicAccessBlock"),
    "DeletePublicAccessBlock": _bucket("PutBucketPublicAccessBlock"),
    "GetBucketOwnershipControls": _bucket("GetBucketOwnershipControls"),
    "PutBucketOwnershipControls": _bucket("PutBucketOwnershipControls"),
    "DeleteBucketOwnershipControls": _bucket("PutBucketOwnershipControls"),
    "GetBucketTagging": _bucket("GetBucketTagging"),
    "PutBucketTagging": _bucket("PutBucketTagging"),
    "DeleteBucketTagging": _bucket("PutBucketTagging"),
    "GetBucketCors": _bucket("GetBucketCORS"),
    "PutBucketCors": _bucket("PutBucketCORS"),
    "DeleteBucketCors": _bucket("PutBucketCORS"),
    "GetBucketLifecycleConfiguration": _bucket("GetLifecycleConfiguration"),
    "PutBucketLifecycleConfiguration": _bucket("PutLifecycleConfiguration"),
    "DeleteBucketLifecycle": _bucket("PutLifecycleConfiguration"),
    "GetBucketWebsite": _bucket("GetBucketWebsite"),
    "PutBucketWebsite": _bucket("PutBucketWebsite"),
    "DeleteBucketWebsite": _bucket("DeleteBucketWebsite"),
    "GetBucketLogging": _bucket("GetBucketLogging"),
    "PutBucketLogging": _bucket("PutBucketLogging"),
    "GetBucketVersioning": _bucket("GetBucketVersioning"),
    "PutBucketVersioning": _bucket("PutBucketVersioning"),
    "GetObjectLockConfiguration": _bucket("GetBucketObjectLockConfiguration"),
    "PutObjectLockConfiguration": _bucket("PutBucketObjectLockConfiguration"),
    "GetBucketEncryption": _bucket("GetEncryptionConfiguration"),
    "PutBucketEncryption": _bucket("PutEncryptionConfiguration"),
    "DeleteBucketEncryption": _bucket("PutEncryptionConfiguration"),
    "GetBucketNotificationConfiguration": _bucket("GetBucketNotification"),
    "PutBucketNotificationConfiguration": _bucket("PutBucketNotification"),
    "GetBucketRequestPayment": _bucket("GetBucketRequestPayment"),
    "PutBucketRequestPayment": _bucket("PutBucketRequestPayment"),
    "GetBucketReplication": _bucket("GetReplicationConfiguration"),
    "PutBucketReplication": _bucket("PutReplicationConfiguration"),
    "DeleteBucketReplication": _bucket("PutReplicationConfiguration"),
    "GetBucketAccelerateConfiguration": _bucket("GetAccelerateConfiguration"),
    "PutBucketAccelerateConfiguration": _bucket("PutAccelerateConfiguration"),
    # each key of DeleteObjects is asked for by itself, with DeleteObject's rule
    # objects that are there
    "GetObject": _GET,
    "HeadObject": _GET,
    "SelectObjectContent": _GET,
    "GetObjectAttributes": Rule(
        "s3:GetObject",
        versioned="s3:GetObjectVersion",
        also="s3:GetObjectAttributes",
        also_versioned="s3:GetObjectVersionAttributes",
        holder=Holder.OBJECT_OWNER,
        of_key=True,
        reads_object=True,
    ),
    "GetObjectAcl": _object("GetObjectAcl", "GetObjectVersionAcl", READ_ACP),
    "PutObjectAcl": _object("PutObjectAcl", "PutObjectVersionAcl", WRITE_ACP),
    "GetObjectTagging": _object("GetObjectTagging", "GetObjectVersionTagging", holder=_EITHER),
    "PutObjectTagging": _object("PutObjectTagging", "PutObjectVersionTagging", holder=_EITHER),
    "DeleteObjectTagging": _object(
        "DeleteObjectTagging", "DeleteObjectVersionTagging", holder=_EITHER
    ),
    "GetObjectRetention": _object("GetObjectRetention", holder=_EITHER),
    "PutObjectRetention": _object("PutObjectRetention", holder=_EITHER),
    "GetObjectLegalHold": _object("GetObjectLegalHold", holder=_EITHER),
    "PutObjectLegalHold": _object("PutObjectLegalHold", holder=_EITHER),
    "GetObjectTorrent": _object("GetObjectTorrent", "GetObjectVersionTorrent"),
    "RestoreObject": _object("RestoreObject", holder=_EITHER),
    # keys
    "PutObject": PUT,
    "CopyObject": PUT,
    "CreateMultipartUpload": PUT,
    "UploadPart": PUT,
    "UploadPartCopy": PUT,
    "CompleteMultipartUpload": PUT,
    "AbortMultipartUpload": Rule("s3:AbortMultipartUpload", holder=_INITIATOR, of_key=True),
    "ListParts": Rule("s3:ListMultipartUploadParts", holder=_INITIATOR, of_key=True),
    "DeleteObject": Rule(
        "s3:DeleteObject", versioned="s3:DeleteObjectVersion", bucket_acl=WRITE, of_key=True
    ),
}

SOURCE = _GET
"""Of what x-amz-copy-source names."""
LIST = RULES["ListObjectsV2"]
"""Who may list may know which keys there are."""

_BESIDES = {
    "s3:PutObjectAcl": (
        "ACL", "GrantFullControl", "GrantRead", "GrantReadACP", "GrantWriteACP", "GrantWrite",
    ),
    "s3:PutObjectTagging": ("Tagging",),
    "s3:PutObjectRetention": ("ObjectLockMode", "ObjectLockRetainUntilDate"),
    "s3:PutObjectLegalHold": ("ObjectLockLegalHoldStatus",),
}  # fmt: skip


def rule_of(operation: str, level: str) -> Rule:
    """The rule of an operation of the model; level: `bucket` or `key`."""
    found = RULES.get(operation)
    return found or Rule(f"s3:{operation}", of_key=level == "key")


def besides(rule: Rule, values: Mapping[str, Any]) -> list[str]:
    """Actions that a PutObject with these members does besides. Amazon's example policies allow
    it with s3:PutObject alone ("bucket owner full control"); who may not do the thing by itself
    may not do it so either: an explicit deny of one of these counts."""
    if rule is not PUT:
        return []
    return [action for action, members in _BESIDES.items() if any(m in values for m in members)]
