"""Whether a caller may do what a request asks for: the one place where that is decided.

`authorise` is called before an operation, with the request parsed and nothing of its body read, and
leaves its `Access` in the call, by which operations ask about what only they know: each key of
DeleteObjects, the tags in a body. The order is Amazon's:

 1. An explicit deny in an identity policy (the caller's and its groups') or in the bucket's policy
    refuses. Except: the bucket's owner and administrators can always get at the bucket's policy.
 2. An administrator may. So may everybody who is named, where nothing is proven anyway
    (`auth.mode = "simple"`).
 3. The holder may: the owner of the bucket or object, or who began an upload. In a bucket that
    nobody owns every user is its owner. An object without an owner of its own is its bucket's
    owner's; where ownership is enforced every object is.
 4. An identity policy that allows, allows. A bucket policy that allows, allows; not to objects of
    others than the bucket's owner, and not if it is public and public buckets are restricted.
 5. An ACL that gives the permission, allows, unless ownership is enforced; what it gives to
    everybody counts only if public ACLs are not ignored.
 6. Else AccessDenied.

What is not there is told (NoSuchKey) only to those who may list. A bucket that is not there is told
to everybody, as on Amazon.

Runs on the event loop. For a bucket's owner without policies it is two reads of the index; only
what the index does not know goes to a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cache.errors import NoSuchKey, NoSuchUpload, NoSuchVersion
from cache.memo import Memo
from cache.publishing import Object
from cache.records import Bucket
from cache.users import canonical_id
from cache.versions import is_version_id
from cache.volume import Volume
from s3api.acl import unpack
from s3api.actions import LIST, PUT, RULES, SOURCE, Holder, Rule, besides, rule_of
from s3api.auth import Identity
from s3api.controls import GUESTS, Controls, controls_of
from s3api.errors import S3Error
from s3api.facts import ACCOUNT, object_facts, request_facts, tag_facts, user_arn
from s3api.keys import parse_copy_source
from s3api.operations import Call
from s3api.policy.documents import Policy, stored_identity_policy
from s3api.policy.evaluation import Decision, Question, evaluate
from s3api.policy.patterns import Context

_NEVER_LOCKED_OUT = frozenset({"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"})
_EXISTING_TAG = "s3:existingobjecttag/"
_REQUEST_TAG = "s3:requestobjecttag"
_DELETE = RULES["DeleteObject"]
_READ = RULES["GetObject"]
_NO_FACTS: Context = {}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, with everything that decisions about it need."""

    user: str  # empty: nobody in particular
    names: frozenset[str]
    policies: tuple[Policy, ...]
    admin: bool


_NOBODY = Caller("", frozenset(), (), admin=False)


def caller_of(identity: Identity, volume: Volume, memo: Memo) -> Caller:
    if not identity.user:
        return _NOBODY
    user, groups = memo.of(volume.users.with_groups, identity.user)
    texts = [*user.policies.values(), *(t for group in groups for t in group.policies.values())]
    return Caller(
        user.name,
        _names(user.name, canonical_id(user)),
        tuple(map(stored_identity_policy, texts)),
        admin=user.admin or identity.believed,
    )


@lru_cache(4096)
def _names(user: str, canonical: str) -> frozenset[str]:
    """Every way in which a bucket policy can name a user, or all of the node's."""
    return frozenset(
        {
            user_arn(user),
            f"arn:aws:iam:::user/{user}",
            canonical,
            ACCOUNT,
            f"arn:aws:iam::{ACCOUNT}:root",
        }
    )


async def authorise(call: Call) -> None:
    """AccessDenied, or NoSuchBucket, unless the caller may; sets call.access."""
    caller = caller_of(call.identity, call.volume, call.door.memo)
    if not call.bucket or call.operation.name == "CreateBucket":
        _authorise_service(call, caller)
        return
    bucket = call.door.memo.of(call.volume.buckets.get, call.bucket)
    call.access = Access(call, caller, bucket)
    if call.operation.name == "DeleteObjects":
        call.access.check_hope()
        return
    rule = rule_of(call.operation.name, call.operation.level)
    if call.operation.name != "PutObjectTagging" or not call.access.depends_on(_REQUEST_TAG):
        await call.access.check(rule, call.key, call.input.get("VersionId"))
    if rule is PUT:
        await call.access.welcome()
    if "CopySource" in call.input:
        source = parse_copy_source(call.input["CopySource"])
        call.source_access = Access(call, caller, call.volume.buckets.get(source.bucket))
        await call.source_access.check(SOURCE, source.key, source.version_id)


def _authorise_service(call: Call, caller: Caller) -> None:
    """What is about no bucket that is there: users may, unless they have policies; then those
    decide."""
    if not caller.user:
        raise S3Error("AccessDenied")
    if not caller.policies:
        return
    rule = rule_of(call.operation.name, call.operation.level)
    resource = f"arn:aws:s3:::{call.bucket or '*'}"
    question = Question(rule.action, resource, caller.names, request_facts(call))
    decision = evaluate(caller.policies, question)
    if decision is Decision.DENIED or (decision is Decision.SILENT and not caller.admin):
        raise S3Error("AccessDenied")


@dataclass(frozen=True, slots=True)
class _Look:
    """An object on which a decision was made, and for what."""

    rule: Rule
    version_id: str | None
    more: Context
    found: Object

    def is_of(self, found: Object) -> bool:
        seen, now = self.found.inode, found.inode
        return (seen.id, seen.attributes_revision) == (now.id, now.attributes_revision)


class Access:
    """What a request's caller may do in one bucket."""

    __slots__ = ("_call", "_facts", "_looked_at", "bucket", "caller", "controls")

    def __init__(self, call: Call, caller: Caller, bucket: Bucket) -> None:
        self._call = call
        self.caller = caller
        self.bucket = bucket
        self.controls: Controls = controls_of(bucket)
        self._facts: Context | None = None
        self._looked_at: _Look | None = None

    async def check(
        self, rule: Rule, key: bytes = b"", version_id: str | None = None, more: Context = _NO_FACTS
    ) -> None:
        """AccessDenied unless the caller may. NoSuchKey, NoSuchVersion for reading what is not
        there, if the caller may know that. more: facts beyond the request's head."""
        if self._needs_no_look(rule):
            return
        found = None
        if self._needs_object(rule):
            try:
                found = await self._find(key, version_id)
            except (NoSuchKey, NoSuchVersion):
                if rule.reads_object:
                    if self._may_know(rule, key, version_id):
                        raise
                    raise S3Error("AccessDenied") from None
        if not self._may(rule, key, version_id, found, more):
            raise S3Error("AccessDenied")
        if found is not None:
            self._looked_at = _Look(rule, version_id, more, found)

    def confirm(self, found: Object) -> Object:
        """The object that an operation came upon, if it is what was looked at before, or the
        caller may have it just the same: it may have been replaced by another's meanwhile.
        AccessDenied. Cheap, and for any thread."""
        look = self._looked_at
        if look is None or look.is_of(found):
            return found
        if not self._may(look.rule, found.key, look.version_id, found, look.more):
            raise S3Error("AccessDenied")
        return found

    async def check_delete(self, key: bytes, version_id: str | None) -> None:
        """AccessDenied unless the caller may delete the key, or this version of it."""
        await self.check(_DELETE, key, version_id)

    async def check_match(self, etag: str | None, key: bytes, version_id: str | None) -> None:
        """AccessDenied for a deletion on condition of an ETag by who may not read the object: the
        answer would tell the ETag to who guesses. `*` asks for nothing that a deletion does not."""
        if etag is not None and etag.strip() != "*":
            with contextlib.suppress(NoSuchKey, NoSuchVersion):
                await self.check(_READ, key, version_id)

    async def welcome(self) -> None:
        """Note, before it is made, that the object of a request may be its writer's and not the
        bucket owner's."""
        user, controls = self.caller.user, self.controls
        if user and self.bucket.owner not in ("", user) and not controls.guests:
            if not controls.acls_count:
                return
            await self._call.threads.metadata(
                self._call.volume.buckets.change_settings, self.bucket.name, {GUESTS: b"yes"}
            )

    def check_hope(self) -> None:
        """AccessDenied for a caller who may delete no key whatever: its body is not worth reading.
        Else each key is asked about by itself."""
        mine = self._needs_no_look(_DELETE)
        if not (mine or self._has_policies or self.controls.acl.others(self.bucket.owner).grants):
            raise S3Error("AccessDenied")

    async def check_tagging(self, tags: Mapping[str, str]) -> None:
        """AccessDenied unless the caller may give the request's object these tags, which were in
        the body. Where policies look at them, this is the first check of the request."""
        call = self._call
        rule = rule_of(call.operation.name, call.operation.level)
        await self.check(rule, call.key, call.input.get("VersionId"), tag_facts(tags))

    def allows(self, action: str, key: bytes) -> bool:
        """Whether the caller may do something beside its operation (s3:BypassGovernanceRetention):
        as the bucket's owner, or by a policy."""
        return self._decide(Rule(action, of_key=True), action, key, None, _NO_FACTS)

    def depends_on(self, prefix: str) -> bool:
        """Whether a policy that counts here mentions condition keys that begin so."""
        return any(key.startswith(prefix) for policy in self._policies() for key in policy.keys)

    # ----------------------------------------------------------------------------- short cuts

    @property
    def _has_policies(self) -> bool:
        return bool(self.caller.policies) or self.controls.policy is not None

    def _needs_no_look(self, rule: Rule) -> bool:
        """Whether the caller may for certain: no policy can deny, the bucket is its own."""
        if self._has_policies:
            return False
        caller = self.caller
        if caller.admin or (caller.user and not self.bucket.owner):
            return True
        if caller.user != self.bucket.owner or not caller.user:
            return False
        return rule.holder is not Holder.OBJECT_OWNER or not self.has_guests

    @property
    def has_guests(self) -> bool:
        """Whether an object here can be somebody else's than the bucket owner's."""
        return self.controls.acls_count and self.controls.guests

    def _needs_object(self, rule: Rule) -> bool:
        if rule.reads_object:
            return True
        if not rule.of_key:
            return False
        if rule is _DELETE and self.controls.acl.others(self.bucket.owner).grants:
            return True
        return self.depends_on(_EXISTING_TAG)

    async def _find(self, key: bytes, version_id: str | None) -> Object | None:
        """The object or version; None for what can be no version's id, which the operation says.
        NoSuchKey, NoSuchVersion."""
        objects = self._call.volume.objects
        if version_id is not None and not is_version_id(version_id):
            return None
        found = objects.get_now(self.bucket.name, key) if version_id is None else None
        if found is None:
            found = await self._call.threads.metadata(
                objects.get, self.bucket.name, key, version_id
            )
        return found

    # ------------------------------------------------------------------------------ decisions

    def _may_know(self, rule: Rule, key: bytes, version_id: str | None) -> bool:
        """Whether a caller may know that a key is not there."""
        if any(self._denied(action, key) for action in rule.actions(version_id)):
            return False
        prefix = {"s3:prefix": [key.decode("utf-8", "replace")]}
        return self._decide(LIST, LIST.action, b"", None, prefix)

    def _may(
        self, rule: Rule, key: bytes, version_id: str | None, found: Object | None, more: Context
    ) -> bool:
        if any(self._denied(action, key) for action in besides(rule, self._call.input)):
            return False
        return all(
            self._decide(rule, action, key, found, more) for action in rule.actions(version_id)
        )

    def _denied(self, action: str, key: bytes) -> bool:
        if not self._has_policies:
            return False
        question = self._question(action, key, None, _NO_FACTS)
        return evaluate(self._policies(), question) is Decision.DENIED

    def _policies(self) -> Sequence[Policy]:
        policy = self.controls.policy
        return self.caller.policies if policy is None else (*self.caller.policies, policy)

    def _decide(
        self, rule: Rule, action: str, key: bytes, found: Object | None, more: Context
    ) -> bool:
        """One action: the order of the module's docstring."""
        by_identity = by_bucket = Decision.SILENT
        if self._has_policies:
            question = self._question(action, key, found, more)
            by_identity = evaluate(self.caller.policies, question)
            if by_identity is Decision.DENIED:
                return False
            if self.controls.policy is not None:
                by_bucket = evaluate((self.controls.policy,), question)
            if by_bucket is Decision.DENIED and not (
                action in _NEVER_LOCKED_OUT and self._is_owner
            ):
                return False
        if self.caller.admin or self._holds(rule, found):
            return True
        if by_identity is Decision.ALLOWED:
            return True
        if by_bucket is Decision.ALLOWED and self._policy_reaches(rule, found):
            return True
        return self._acl_gives(rule, found)

    def _question(self, action: str, key: bytes, found: Object | None, more: Context) -> Question:
        if self._facts is None:
            self._facts = request_facts(self._call)
        context = {**self._facts, **more}
        if found is not None:
            context |= object_facts(found)
        resource = f"arn:aws:s3:::{self.bucket.name}"
        if key:
            resource += "/" + key.decode("utf-8", "replace")
        return Question(action, resource, self.caller.names, context)

    @property
    def _is_owner(self) -> bool:
        """Whether the bucket is the caller's, or as good as that."""
        user = self.caller.user
        return self.caller.admin or (bool(user) and self.bucket.owner in ("", user))

    def owner_of(self, found: Object | None) -> str:
        """Whose an object is; empty in a bucket that nobody owns, if it has no owner either."""
        if found is None or not self.controls.acls_count:
            return self.bucket.owner
        return found.attributes.owner or self.bucket.owner

    def _holds(self, rule: Rule, found: Object | None) -> bool:
        user = self.caller.user
        if not user:
            return False
        if not self.bucket.owner:
            return True
        match rule.holder:
            case Holder.BUCKET_OWNER:
                return user == self.bucket.owner
            case Holder.OBJECT_OWNER:
                return user == self.owner_of(found)
            case Holder.BUCKET_OR_OBJECT_OWNER:
                return user in (self.bucket.owner, self.owner_of(found))
            case Holder.BUCKET_OWNER_OR_INITIATOR:
                return user == self.bucket.owner or user == self._initiator()

    def _initiator(self) -> str:
        """Who began the upload that the request names; empty if there is none such."""
        call = self._call
        try:
            return call.volume.uploads.get(call.bucket, call.key, call.input["UploadId"]).owner
        except (NoSuchUpload, KeyError):
            return ""

    def _policy_reaches(self, rule: Rule, found: Object | None) -> bool:
        """Whether the bucket's policy can allow this to somebody."""
        if self.controls.block.restrict_public_buckets and self.controls.has_public_policy:
            return False
        return not rule.reads_object or self.owner_of(found) == self.bucket.owner

    def _acl_gives(self, rule: Rule, found: Object | None) -> bool:
        if not self.controls.acls_count:
            return False
        user = self.caller.user
        ignore_public = self.controls.block.ignore_public_acls
        if rule.bucket_acl and self.controls.acl.gives(
            rule.bucket_acl, user, ignore_public=ignore_public
        ):
            # Who may write may overwrite, and remove what is its own.
            return rule is not _DELETE or found is None or user == self.owner_of(found) != ""
        if rule.object_acl and found is not None:
            acl = unpack(found.attributes.acl, self.owner_of(found))
            return acl.gives(rule.object_acl, user, ignore_public=ignore_public)
        return False
