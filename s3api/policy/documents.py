"""Reading policies: IAM's JSON, checked as Amazon checks it before it is kept.

A bucket policy says who (Principal or NotPrincipal) and speaks of its own bucket only; an identity
policy belongs to a user or group and says no principal. What is accepted here can be evaluated; a
refusal is MalformedPolicy with the reason in words. Principals that are no user of this node are
accepted, and are nobody.

Pure; callable from any thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from s3api.policy.conditions import Condition, read_condition
from s3api.policy.patterns import MalformedVariable, Template, template

BUCKET_POLICY_BYTES_MAX = 20 * 1024
IDENTITY_POLICY_BYTES_MAX = 20 * 1024
STATEMENTS_MAX = 1000

_CURRENT = "2012-10-17"
_VERSIONS = ("2008-10-17", _CURRENT)
_FIELDS = {
    "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource",
    "Condition",
}  # fmt: skip
_ACTION = re.compile(r"\*|[a-zA-Z0-9-]+:[a-zA-Z0-9*?]+")
_RESOURCE = re.compile(r"\*|arn:[^:]*:[^:]*:[^:]*:[^:]*:.+", re.DOTALL)
_S3_ARN = "arn:aws:s3:::"
_ACCOUNT = re.compile(r"\d{12}")
_PRINCIPAL_ARN = re.compile(
    r"arn:aws[a-z-]*:(iam|sts)::[^:*?]*:(root|(user|role|federated-user|assumed-role)/[^*?]+)"
)
_CANONICAL_ID = re.compile(r"[^\s*?]{1,256}")


class MalformedPolicy(ValueError):
    """A document that is no policy, with Amazon's words for why."""


@dataclass(frozen=True, slots=True)
class Principals:
    """Whom a statement of a bucket policy names."""

    everybody: bool
    aws: frozenset[str]  # ARNs and account ids
    canonical: frozenset[str]
    services: frozenset[str]
    federated: frozenset[str]

    @property
    def named(self) -> frozenset[str]:
        return self.aws | self.canonical | self.services | self.federated


@dataclass(frozen=True, slots=True)
class Statement:
    sid: str
    allow: bool
    principals: Principals | None  # None in identity policies
    not_principals: bool
    actions: tuple[Template, ...]  # in lower case
    not_actions: bool
    resources: tuple[Template, ...]
    not_resources: bool
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    statements: tuple[Statement, ...]
    keys: frozenset[str]
    """Condition keys that it mentions, variables included, in lower case: a caller need not find
    out the others."""


@lru_cache(256)
def stored_bucket_policy(text: bytes) -> Policy:
    """A bucket's policy as it was kept, read again: checked then, so only read now."""
    return _read(text, "bucket")


@lru_cache(256)
def stored_identity_policy(text: bytes) -> Policy:
    return _read(text, "identity")


def read_bucket_policy(text: bytes, bucket: str) -> Policy:
    """The policy of a bucket. MalformedPolicy."""
    if len(text) > BUCKET_POLICY_BYTES_MAX:
        raise MalformedPolicy(f"Policies must be at most {BUCKET_POLICY_BYTES_MAX} bytes")
    policy = _read(text, "bucket")
    arn = _S3_ARN + bucket
    for statement in policy.statements:
        for resource in statement.resources:
            # The whole of what it can mean: the bucket, or something in it.
            if not (resource.matches(arn, {}) or resource.may_match_below(arn + "/")):
                raise MalformedPolicy("Policy has invalid resource")
    return policy


def read_identity_policy(text: bytes) -> Policy:
    """A policy of a user or group. MalformedPolicy."""
    if len(text) > IDENTITY_POLICY_BYTES_MAX:
        raise MalformedPolicy(f"Policies must be at most {IDENTITY_POLICY_BYTES_MAX} bytes")
    return _read(text, "identity")


# ---------------------------------------------------------------------------------------- reading


def _read(text: bytes, kind: Literal["bucket", "identity"]) -> Policy:
    try:
        document = json.loads(text.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, MalformedPolicy):
            raise
        raise MalformedPolicy("This policy contains invalid Json") from exc
    if not isinstance(document, dict):
        raise MalformedPolicy("Policies must be valid JSON and the first byte must be '{'")
    unknown = document.keys() - {"Version", "Id", "Statement"}
    if unknown:
        raise MalformedPolicy(f"Unknown field {min(unknown)}")
    version = document.get("Version", _VERSIONS[0])
    if version not in _VERSIONS:
        raise MalformedPolicy("The policy must contain a valid version string")
    if not isinstance(document.get("Id", ""), str):
        raise MalformedPolicy("Invalid policy syntax.")
    if "Statement" not in document:
        raise MalformedPolicy("Missing required field Statement")
    listed = document["Statement"]
    statements = listed if isinstance(listed, list) else [listed]
    if not statements:
        raise MalformedPolicy("Could not parse the policy: Statement is empty!")
    if len(statements) > STATEMENTS_MAX:
        raise MalformedPolicy("Too many statements")
    read = tuple(_statement(each, kind, variables=version == _CURRENT) for each in statements)
    sids = [statement.sid for statement in read if statement.sid]
    if kind == "identity" and len(sids) != len(set(sids)):  # IAM insists on it, S3 does not
        raise MalformedPolicy("Statement IDs (SID) in a single policy must be unique.")
    return Policy(read, frozenset().union(*(_keys(statement) for statement in read)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedPolicy("Duplicate field in the policy")
    return found


def _statement(raw: Any, kind: str, *, variables: bool) -> Statement:
    if not isinstance(raw, dict):
        raise MalformedPolicy("Invalid policy syntax.")
    unknown = raw.keys() - _FIELDS
    if unknown:
        raise MalformedPolicy(f"Unknown field {min(unknown)}")
    for one, other in (("Action", "NotAction"), ("Resource", "NotResource")):
        if (one in raw) == (other in raw):
            raise MalformedPolicy(
                f"Statement holds both {one} and {other}"
                if one in raw
                else f"Missing required field {one}"
            )
    effect = raw.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise MalformedPolicy(
            "Missing required field Effect" if effect is None else f"Invalid effect: {effect}"
        )
    sid = raw.get("Sid", "")
    if not isinstance(sid, str):
        raise MalformedPolicy("Invalid policy syntax.")
    return Statement(
        sid=sid,
        allow=effect == "Allow",
        principals=_principals(raw, kind),
        not_principals="NotPrincipal" in raw,
        actions=tuple(_action(each) for each in _texts(raw, "Action", "NotAction")),
        not_actions="NotAction" in raw,
        resources=tuple(
            _resource(each, variables) for each in _texts(raw, "Resource", "NotResource")
        ),
        not_resources="NotResource" in raw,
        conditions=_conditions(raw.get("Condition", {}), variables=variables),
    )


def _texts(raw: Mapping[str, Any], *names: str) -> list[str]:
    """The strings of an element that may be one or a list."""
    name = next(name for name in names if name in raw)
    value = raw[name]
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise MalformedPolicy(f"Policy has invalid {name.removeprefix('Not').lower()}")
    return texts


def _action(text: str) -> Template:
    if not _ACTION.fullmatch(text):
        raise MalformedPolicy("Policy has invalid action")
    return template(text.lower(), variables=False)


def _resource(text: str, variables: bool) -> Template:
    if not _RESOURCE.fullmatch(text):
        raise MalformedPolicy("Policy has invalid resource")
    try:
        return template(text, variables=variables)
    except MalformedVariable:
        raise MalformedPolicy("Policy has invalid resource") from None


def _principals(raw: Mapping[str, Any], kind: str) -> Principals | None:
    given = [name for name in ("Principal", "NotPrincipal") if name in raw]
    if kind == "identity":
        if given:
            raise MalformedPolicy("Policy document should not specify a principal.")
        return None
    if not given:
        raise MalformedPolicy("Missing required field Principal")
    if len(given) == 2:
        raise MalformedPolicy("Statement holds both Principal and NotPrincipal")
    if given == ["NotPrincipal"] and raw["Effect"] == "Allow":
        raise MalformedPolicy("Allow with NotPrincipal is not allowed.")
    value = raw[given[0]]
    if value == "*":
        return Principals(True, *[frozenset()] * 4)
    if not isinstance(value, dict) or not value:
        raise MalformedPolicy("Invalid principal in policy")
    found = {name: _principal_texts(name, texts) for name, texts in value.items()}
    aws = found.get("AWS", frozenset())
    return Principals(
        "*" in aws,
        aws - {"*"},
        found.get("CanonicalUser", frozenset()),
        found.get("Service", frozenset()),
        found.get("Federated", frozenset()),
    )


def _principal_texts(name: str, value: Any) -> frozenset[str]:
    texts = value if isinstance(value, list) else [value]
    check = _PRINCIPAL_KINDS.get(name)
    if check is None or not texts:
        raise MalformedPolicy("Invalid principal in policy")
    if not all(isinstance(text, str) and check(text) for text in texts):
        raise MalformedPolicy("Invalid principal in policy")
    return frozenset(texts)


def _is_aws_principal(text: str) -> bool:
    return text == "*" or bool(_ACCOUNT.fullmatch(text) or _PRINCIPAL_ARN.fullmatch(text))


def _is_plain(text: str) -> bool:
    return bool(_CANONICAL_ID.fullmatch(text))


_PRINCIPAL_KINDS = {
    "AWS": _is_aws_principal,
    "CanonicalUser": _is_plain,
    "Service": _is_plain,
    "Federated": _is_plain,
}


def _conditions(raw: Any, *, variables: bool) -> tuple[Condition, ...]:
    if not isinstance(raw, dict):
        raise MalformedPolicy("Invalid Condition")
    found = []
    for operator, block in raw.items():
        if not isinstance(block, dict):
            raise MalformedPolicy("Invalid Condition")
        for key, value in block.items():
            try:
                condition = read_condition(operator, key, _values(value), variables=variables)
            except ValueError as exc:
                raise MalformedPolicy(f"Invalid Condition value for {operator}: {key}") from exc
            if not condition.known:
                raise MalformedPolicy(f"Invalid Condition type : {operator}")
            if not _is_condition_key(condition.key):
                raise MalformedPolicy("Policy has an invalid condition key")
            found.append(condition)
    return tuple(found)


def _values(value: Any) -> list[str]:
    """Values of a condition as text: JSON's numbers and Booleans, too."""
    texts = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, bool):
            texts.append("true" if each else "false")
        elif isinstance(each, str | int | float):
            texts.append(str(each))
        else:
            raise ValueError(f"not a value: {each!r}")
    if not texts:
        raise ValueError("no values")
    return texts


S3_KEYS = frozenset(
    {
        "s3:accessgrantsinstancearn", "s3:accesspointnetworkorigin", "s3:authtype",
        "s3:dataaccesspointaccount", "s3:dataaccesspointarn", "s3:delimiter",
        "s3:destinationregion", "s3:if-match", "s3:if-none-match",
        "s3:inventoryaccessibleoptionalfields",
        "s3:isreplicationpauserequest", "s3:jobsuspendedcause", "s3:locationconstraint",
        "s3:max-keys", "s3:object-lock-legal-hold", "s3:object-lock-mode",
        "s3:object-lock-remaining-retention-days", "s3:object-lock-retain-until-date",
        "s3:objectcreationoperation", "s3:prefix", "s3:requestjoboperation",
        "s3:requestjobpriority", "s3:requestobjecttagkeys", "s3:resourceaccount",
        "s3:signatureage", "s3:signatureversion", "s3:tlsversion", "s3:versionid",
        "s3:x-amz-acl", "s3:x-amz-content-sha256", "s3:x-amz-copy-source",
        "s3:x-amz-grant-full-control", "s3:x-amz-grant-read", "s3:x-amz-grant-read-acp",
        "s3:x-amz-grant-write", "s3:x-amz-grant-write-acp", "s3:x-amz-metadata-directive",
        "s3:x-amz-object-ownership", "s3:x-amz-server-side-encryption",
        "s3:x-amz-server-side-encryption-aws-kms-key-id",
        "s3:x-amz-server-side-encryption-customer-algorithm", "s3:x-amz-storage-class",
        "s3:x-amz-website-redirect-location",
    }
)  # fmt: skip
"""Condition keys of S3 in lower case, beside the two with a tag's name at their end. A key that
no request here has a value for is accepted, and has none."""

_TAG_KEYS = ("s3:existingobjecttag/", "s3:requestobjecttag/")
_OTHER_SERVICES = re.compile(r"[a-z0-9-]+:.+")


def _is_condition_key(key: str) -> bool:
    if key.startswith("s3:"):
        return key in S3_KEYS or (key.startswith(_TAG_KEYS) and not key.endswith("/"))
    return bool(_OTHER_SERVICES.fullmatch(key))


def _keys(statement: Statement) -> set[str]:
    """Keys of conditions, and of variables in resources and conditions' values."""
    keys = {condition.key for condition in statement.conditions}
    for resource in statement.resources:
        keys |= {part.key for part in resource.parts if not isinstance(part, tuple)}
    for condition in statement.conditions:
        for value in condition.values:
            keys |= {name.strip().lower() for name in _VARIABLE_NAME.findall(value)}
    return keys


_VARIABLE_NAME = re.compile(r"\$\{([^},]+)")
