"""What a bucket's settings say about who may use it: policy, ACL, ownership, public access block.

The documents are kept as they were put (`Bucket.settings`); read here, each text once. A bucket
without any of them costs a few look-ups in a dictionary.

Pure; callable from any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cache.records import Bucket
from s3api.acl import Acl, private, unpack
from s3api.documents import write_document
from s3api.errors import S3Error
from s3api.model import MODEL
from s3api.parsing import read_kept
from s3api.policy.documents import Policy, stored_bucket_policy
from s3api.policy.publicity import is_public

POLICY = "policy"
ACL = "acl"
OWNERSHIP = "ownership-controls"
PUBLIC_ACCESS_BLOCK = "public-access-block"
"""Names of the documents in a bucket's settings."""
GUESTS = "guests"
"""Name of the setting that says that objects of others than the bucket's owner may be in it: set
before the first is put, never removed. Without it the owner need not be held against each object.
"""

OBJECT_WRITER = "ObjectWriter"
BUCKET_OWNER_PREFERRED = "BucketOwnerPreferred"
BUCKET_OWNER_ENFORCED = "BucketOwnerEnforced"


@dataclass(frozen=True, slots=True)
class PublicAccessBlock:
    block_public_acls: bool = False
    ignore_public_acls: bool = False
    block_public_policy: bool = False
    restrict_public_buckets: bool = False


_NO_BLOCK = PublicAccessBlock()


@dataclass(frozen=True, slots=True)
class Controls:
    owner: str
    policy: Policy | None
    acl: Acl
    ownership: str
    block: PublicAccessBlock
    guests: bool

    @property
    def acls_count(self) -> bool:
        """Whether ACLs mean anything here."""
        return self.ownership != BUCKET_OWNER_ENFORCED

    @property
    def has_public_policy(self) -> bool:
        return self.policy is not None and is_public(self.policy)

    @property
    def is_public(self) -> bool:
        """Whether the bucket's policy or its ACL opens it to everybody, as things are."""
        by_acl = self.acls_count and self.acl.is_public and not self.block.ignore_public_acls
        by_policy = self.has_public_policy and not self.block.restrict_public_buckets
        return by_acl or by_policy


def controls_of(bucket: Bucket) -> Controls:
    settings = bucket.settings
    if not settings:
        return _plain(bucket.owner)
    policy = settings.get(POLICY)
    ownership = settings.get(OWNERSHIP)
    block = settings.get(PUBLIC_ACCESS_BLOCK)
    return Controls(
        bucket.owner,
        None if policy is None else stored_bucket_policy(policy),
        unpack(settings.get(ACL, b""), bucket.owner),
        OBJECT_WRITER if ownership is None else _ownership(ownership),
        _NO_BLOCK if block is None else _block(block),
        GUESTS in settings,
    )


@lru_cache(1024)
def _plain(owner: str) -> Controls:
    return Controls(owner, None, private(owner), OBJECT_WRITER, _NO_BLOCK, guests=False)


def ownership_document(ownership: str) -> bytes:
    """The document that says this. InvalidArgument."""
    if ownership not in MODEL.shapes["ObjectOwnership"].enum:
        raise S3Error(
            "InvalidArgument",
            ArgumentName="x-amz-object-ownership",
            ArgumentValue=ownership[:64],
        )
    shape = MODEL.shapes["OwnershipControls"]
    return write_document("OwnershipControls", shape, {"Rules": [{"ObjectOwnership": ownership}]})


@lru_cache(256)
def _ownership(text: bytes) -> str:
    (rule,) = read_kept(text, "PutBucketOwnershipControls")["Rules"]
    ownership: str = rule["ObjectOwnership"]
    return ownership


@lru_cache(256)
def _block(text: bytes) -> PublicAccessBlock:
    found = read_kept(text, "PutPublicAccessBlock")
    return PublicAccessBlock(
        found.get("BlockPublicAcls", False),
        found.get("IgnorePublicAcls", False),
        found.get("BlockPublicPolicy", False),
        found.get("RestrictPublicBuckets", False),
    )
