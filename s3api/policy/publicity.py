"""Whether a bucket policy opens a bucket to everybody.

After "The meaning of 'public'" in Amazon's guide to blocking public access: a statement that allows
is public unless it names its principals, or holds the request to fixed values (no wildcard, no
variable) of a key that ties it to certain callers or networks. A range of addresses wider than /8
(IPv4) or /32 (IPv6) ties it to nobody.

Pure; callable from any thread.
"""

from __future__ import annotations

import ipaddress

from s3api.policy.conditions import Condition
from s3api.policy.documents import Policy, Statement

_FIXING_KEYS = frozenset(
    {
        "aws:principalarn", "aws:principalaccount", "aws:principalorgid", "aws:principalorgpaths",
        "aws:sourceaccount", "aws:sourcearn", "aws:sourceip", "aws:sourceorgid",
        "aws:sourceowner", "aws:sourcevpc", "aws:sourcevpce", "aws:userid", "aws:username",
        "s3:dataaccesspointaccount", "s3:dataaccesspointarn",
        "s3:x-amz-server-side-encryption-aws-kms-key-id",
    }
)  # fmt: skip
_FIXING_OPERATORS = frozenset(
    {"stringequals", "stringequalsignorecase", "stringlike", "arnequals", "arnlike", "ipaddress"}
)
_WIDEST_PREFIX = {4: 8, 6: 32}


def is_public(policy: Policy) -> bool:
    return any(_is_public(statement) for statement in policy.statements)


def _is_public(statement: Statement) -> bool:
    if not statement.allow or statement.principals is None:
        return False
    if not (statement.principals.everybody or statement.not_principals):
        return False
    return not any(_fixes(condition) for condition in statement.conditions)


def _fixes(condition: Condition) -> bool:
    operator = condition.operator.rpartition(":")[2].lower()
    if condition.key not in _FIXING_KEYS or operator not in _FIXING_OPERATORS:
        return False
    if condition.quantifier == "ForAllValues":  # true of a request without the key
        return False
    if operator == "ipaddress":
        networks = [ipaddress.ip_network(value, strict=False) for value in condition.values]
        return all(n.prefixlen >= _WIDEST_PREFIX[n.version] for n in networks)
    wild = "*?" if operator in ("stringlike", "arnequals", "arnlike") else ""
    return not any("${" in value or any(c in value for c in wild) for value in condition.values)
