"""Access control lists: what they grant, how they are kept, and every way to say one.

A grant gives one of five permissions to a user or to one of Amazon's groups. The owner is not part
of a list: an owner may do everything with what it owns, whatever the list says, and a list that
grants nothing to anybody else is kept as no bytes at all (PRIVATE). Users are kept by their names;
canonical IDs and addresses are how requests and answers name them.

Kept (`ObjectAttributes.acl`, and `acl` of a bucket's settings): JSON, a list of
`[permission, user]` and `[permission, "", group]`, in order.

Pure but for the directory of users that a caller hands in; callable from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from cache.users import User, canonical_id, canonical_id_of, display_name
from s3api.errors import S3Error

ALL_USERS = "AllUsers"
AUTHENTICATED_USERS = "AuthenticatedUsers"
LOG_DELIVERY = "LogDelivery"
GRANTS_MAX = 100

OF_THE_NODE = "forebay"
"""Shown as the owner of what nobody owns."""

_GROUPS = {
    "http://acs.amazonaws.com/groups/global/AllUsers": ALL_USERS,
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers": AUTHENTICATED_USERS,
    "http://acs.amazonaws.com/groups/s3/LogDelivery": LOG_DELIVERY,
}
_GROUP_URIS = {name: uri for uri, name in _GROUPS.items()}
_PUBLIC_GROUPS = frozenset({ALL_USERS, AUTHENTICATED_USERS})

READ, WRITE, READ_ACP, WRITE_ACP = "READ", "WRITE", "READ_ACP", "WRITE_ACP"
FULL_CONTROL = "FULL_CONTROL"
_PERMISSIONS = (READ, WRITE, READ_ACP, WRITE_ACP, FULL_CONTROL)
_GRANT_MEMBERS = {
    "GrantRead": READ,
    "GrantWrite": WRITE,
    "GrantReadACP": READ_ACP,
    "GrantWriteACP": WRITE_ACP,
    "GrantFullControl": FULL_CONTROL,
}
GRANT_HEADERS = " ".join(_GRANT_MEMBERS)
"""Input members of the x-amz-grant-* headers; GrantWrite is none of an object's."""
OBJECT_GRANT_HEADERS = "GrantFullControl GrantRead GrantReadACP GrantWriteACP"


class Directory(Protocol):
    """`cache.users.Users`, as far as ACLs need it."""

    def known(self, name: str) -> User: ...
    def by_canonical_id(self, wanted: str) -> User | None: ...
    def by_email(self, email: str) -> User | None: ...


@dataclass(frozen=True, slots=True)
class Grant:
    permission: str
    user: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Acl:
    grants: tuple[Grant, ...]

    def gives(self, permission: str, user: str, *, ignore_public: bool = False) -> bool:
        """Whether the list gives the permission to the user; "" is nobody in particular."""
        for grant in self.grants:
            if grant.permission not in (permission, FULL_CONTROL):
                continue
            if grant.group:
                if not ignore_public and (
                    grant.group == ALL_USERS or (grant.group == AUTHENTICATED_USERS and user)
                ):
                    return True
            elif user and grant.user == user:
                return True
        return False

    @property
    def is_public(self) -> bool:
        """Whether everybody, or every user whoever that is, is given something."""
        return any(grant.group in _PUBLIC_GROUPS for grant in self.grants)

    def others(self, owner: str) -> Acl:
        """Without what it gives to the owner."""
        return Acl(tuple(grant for grant in self.grants if grant.group or grant.user != owner))


def private(owner: str) -> Acl:
    return Acl((Grant(FULL_CONTROL, owner),))


# ---------------------------------------------------------------------------------- as it is kept


def pack(acl: Acl, owner: str) -> bytes:
    """The list as it is kept: no bytes for one that says that its owner may do everything."""
    if acl == private(owner):
        return b""
    rows = [[g.permission, "", g.group] if g.group else [g.permission, g.user] for g in acl.grants]
    return msgspec.json.encode(rows)


@lru_cache(1024)
def unpack(kept: bytes, owner: str) -> Acl:
    """A kept list. What does not read grants nothing to anybody."""
    if not kept:
        return private(owner)
    try:
        rows = msgspec.json.decode(kept, type=list[list[str]])
        return Acl(tuple(Grant(*row) for row in rows))
    except (msgspec.DecodeError, TypeError):
        return Acl(())


# ------------------------------------------------------------------------------- as it is asked for


def canned(name: str, owner: str, bucket_owner: str = "") -> Acl:
    """A canned ACL by its name. InvalidArgument.

    bucket_owner: of an object's bucket; empty for a bucket's own ACL, where the canned ACLs for it
    mean `private`, as on Amazon."""
    everything = Grant(FULL_CONTROL, owner)
    # Groups first, as lists are shown.
    match name:
        case "private":
            grants = [everything]
        case "public-read":
            grants = [Grant(READ, group=ALL_USERS), everything]
        case "public-read-write":
            grants = [Grant(READ, group=ALL_USERS), Grant(WRITE, group=ALL_USERS), everything]
        case "authenticated-read":
            grants = [Grant(READ, group=AUTHENTICATED_USERS), everything]
        case "log-delivery-write":
            grants = [
                Grant(WRITE, group=LOG_DELIVERY),
                Grant(READ_ACP, group=LOG_DELIVERY),
                everything,
            ]
        case "bucket-owner-read" | "bucket-owner-full-control":
            grants = [everything]
            if bucket_owner and bucket_owner != owner:
                given = READ if name == "bucket-owner-read" else FULL_CONTROL
                grants.append(Grant(given, bucket_owner))
        case "aws-exec-read":
            # For EC2 to read machine images: there is no such reader here.
            grants = [everything]
        case _:
            raise S3Error("InvalidArgument", ArgumentName="x-amz-acl", ArgumentValue=name[:64])
    return Acl(tuple(grants))


def from_headers(
    values: Mapping[str, Any], users: Directory, owner: str, bucket_owner: str = ""
) -> Acl | None:
    """The ACL that x-amz-acl or x-amz-grant-* of a request ask for; None if there are none.
    InvalidRequest for both kinds at once, InvalidArgument, UnresolvableGrantByEmailAddress."""
    given = [member for member in _GRANT_MEMBERS if member in values]
    name = values.get("ACL")
    if name is not None and given:
        raise S3Error(
            "InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed"
        )
    if name is not None:
        return canned(name, owner, bucket_owner)
    if not given:
        return None
    grants = [
        Grant(_GRANT_MEMBERS[member], *_named(text, users))
        for member in given
        for text in values[member].split(",")
    ]
    return _checked(grants)


def _named(text: str, users: Directory) -> tuple[str, str]:
    """(user, group) of one grantee of a header: `id="…"`, `emailAddress="…"` or `uri="…"`."""
    kind, equals, quoted = text.strip().partition("=")
    value = quoted.strip().strip('"')
    if not equals or not value:
        raise S3Error("InvalidArgument", "Argument format not recognized", ArgumentValue=text[:128])
    match kind.strip().lower():
        case "id":
            return _user_of_id(value, users), ""
        case "emailaddress":
            return _user_of_email(value, users), ""
        case "uri":
            return "", _group_of(value)
        case _:
            raise S3Error(
                "InvalidArgument", "Argument format not recognized", ArgumentValue=text[:128]
            )


def from_document(policy: Mapping[str, Any], users: Directory, owner: str) -> Acl:
    """The ACL of an AccessControlPolicy. The owner that it names must be the one there is:
    MalformedACLError without one, AccessDenied for another. Else as from_headers."""
    named = policy.get("Owner", {}).get("ID")
    if named is None:
        raise S3Error("MalformedACLError")
    if named != canonical_id(users.known(owner or OF_THE_NODE)):
        raise S3Error("AccessDenied", "The owner of a bucket or object cannot be changed.")
    return _checked([read_grant(raw, users) for raw in policy.get("Grants", [])])


def read_grant(raw: Mapping[str, Any], users: Directory) -> Grant:
    """A Grant of a document. MalformedACLError; else as from_headers."""
    grantee, permission = raw.get("Grantee"), raw.get("Permission")
    if grantee is None or permission not in _PERMISSIONS:
        raise S3Error("MalformedACLError")
    match grantee.get("Type"):
        case "CanonicalUser" if "ID" in grantee:
            return Grant(permission, _user_of_id(grantee["ID"], users))
        case "AmazonCustomerByEmail" if "EmailAddress" in grantee:
            return Grant(permission, _user_of_email(grantee["EmailAddress"], users))
        case "Group" if "URI" in grantee:
            return Grant(permission, group=_group_of(grantee["URI"]))
        case _:
            raise S3Error("MalformedACLError")


def _checked(grants: Sequence[Grant]) -> Acl:
    """Each grant once, groups first. InvalidRequest for more grants than Amazon keeps."""
    if len(grants) > GRANTS_MAX:
        raise S3Error("InvalidRequest", f"An ACL can have at most {GRANTS_MAX} grants.")
    unique = dict.fromkeys(grants)
    return Acl(tuple(sorted(unique, key=lambda grant: not grant.group)))


def _user_of_id(wanted: str, users: Directory) -> str:
    if wanted == canonical_id_of(OF_THE_NODE):
        return ""
    found = users.by_canonical_id(wanted)
    if found is None:
        raise S3Error("InvalidArgument", "Invalid id", ArgumentName="CanonicalUser/ID",
                      ArgumentValue=wanted[:128])  # fmt: skip
    return found.name


def _user_of_email(email: str, users: Directory) -> str:
    found = users.by_email(email)
    if found is None:
        raise S3Error("UnresolvableGrantByEmailAddress")
    return found.name


def _group_of(uri: str) -> str:
    if uri not in _GROUPS:
        raise S3Error("InvalidArgument", "Invalid group uri", ArgumentName="Group/URI",
                      ArgumentValue=uri[:128])  # fmt: skip
    return _GROUPS[uri]


# ----------------------------------------------------------------------------------- as it is shown


def shown_user(name: str, users: Directory) -> dict[str, str]:
    """A user as S3 shows one: Owner, Initiator, Grantee. "" is nobody."""
    user = users.known(name or OF_THE_NODE)
    return {"DisplayName": display_name(user), "ID": canonical_id(user)}


def shown(acl: Acl, users: Directory) -> Sequence[dict[str, Any]]:
    """The Grants of an answer."""
    return [
        {
            "Grantee": {"Type": "Group", "URI": _GROUP_URIS[grant.group]}
            if grant.group
            else {**shown_user(grant.user, users), "Type": "CanonicalUser"},
            "Permission": grant.permission,
        }
        for grant in acl.grants
    ]
