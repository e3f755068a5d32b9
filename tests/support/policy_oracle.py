"""A second evaluator of policies, written from Amazon's words alone, to hold the first against.

It shares nothing with `s3api/policy`: it works on the JSON as it is, matches by regular
expressions, and computes every condition anew. Slow, and good for tests only.
"""

from __future__ import annotations

import base64
import datetime
import fractions
import ipaddress
import re
from typing import Any


def verdict(
    policies: list[dict[str, Any]],
    *,
    names: set[str],
    action: str,
    resource: str,
    context: dict[str, list[str]],
) -> str:
    """ "deny", "allow" or "nothing"."""
    effects = set()
    for policy in policies:
        modern = policy.get("Version") == "2012-10-17"
        for statement in as_list(policy["Statement"]):
            if applies(statement, modern, names, action, resource, context):
                effects.add(statement["Effect"])
    return "deny" if "Deny" in effects else "allow" if "Allow" in effects else "nothing"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def applies(
    statement: dict[str, Any],
    modern: bool,
    names: set[str],
    action: str,
    resource: str,
    context: dict[str, list[str]],
) -> bool:
    if "Principal" in statement and not is_named(statement["Principal"], names):
        return False
    if "NotPrincipal" in statement and is_named(statement["NotPrincipal"], names):
        return False
    wanted = as_list(statement.get("Action", statement.get("NotAction")))
    hit = any(glob(text.lower(), action.lower(), False, {}) for text in wanted)
    if hit != ("Action" in statement):
        return False
    wanted = as_list(statement.get("Resource", statement.get("NotResource")))
    hit = any(glob(text, resource, modern, context) for text in wanted)
    if hit != ("Resource" in statement):
        return False
    for operator, block in statement.get("Condition", {}).items():
        for key, values in block.items():
            if not condition(operator, key, as_list(values), modern, context):
                return False
    return True


def is_named(principal: Any, names: set[str]) -> bool:
    if principal == "*":
        return True
    for values in principal.values():
        for value in as_list(values):
            if value == "*" or value in names:
                return True
    return False


def expand(text: str, modern: bool, context: dict[str, list[str]]) -> list[tuple[str, str]] | None:
    """(kind, text) parts: "raw" text, whose wildcards count, and "said" text, whose do not; None
    if a variable has no value."""
    if not modern:
        return [("raw", text)]
    parts = []
    for index, piece in enumerate(re.split(r"\$\{([^}]*)\}", text)):
        if index % 2 == 0:
            parts.append(("raw", piece))
            continue
        if piece in ("*", "?", "$"):
            parts.append(("said", piece))
            continue
        name, comma, default = piece.partition(",")
        found = context.get(name.strip().lower(), [])
        if len(found) == 1:
            parts.append(("said", found[0]))
        elif comma:
            parts.append(("said", default.strip()[1:-1]))
        else:
            return None
    return parts


def glob(text: str, value: str, modern: bool, context: dict[str, list[str]]) -> bool:
    parts = expand(text, modern, context)
    if parts is None:
        return False
    expression = ""
    for kind, piece in parts:
        for character in piece:
            if kind == "raw" and character == "*":
                expression += ".*"
            elif kind == "raw" and character == "?":
                expression += "."
            else:
                expression += re.escape(character)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def same(
    text: str, value: str, modern: bool, context: dict[str, list[str]], lower: bool = False
) -> bool:
    parts = expand(text, modern, context)
    if parts is None:
        return False
    whole = "".join(piece for _, piece in parts)
    return whole.lower() == value.lower() if lower else whole == value


def condition(
    operator: str, key: str, values: list[Any], modern: bool, context: dict[str, list[str]]
) -> bool:
    texts = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    found = context.get(key.lower(), [])
    if operator == "Null":
        return any((text.lower() == "true") == (not found) for text in texts)
    every = operator.startswith("ForAllValues:")
    some = operator.startswith("ForAnyValue:")
    base = operator.partition(":")[2] or operator
    if_exists = base.endswith("IfExists")
    base = base.removesuffix("IfExists")
    negative = "Not" in base
    if not found:
        if if_exists or every:
            return True
        return negative and not some

    def passes(value: str) -> bool:
        outcomes = [one(base.replace("Not", ""), text, value, modern, context) for text in texts]
        if any(outcome is None for outcome in outcomes):
            return False
        return not any(outcomes) if negative else any(outcomes)

    if every or (negative and not some):
        return all(passes(value) for value in found)
    return any(passes(value) for value in found)


def one(
    base: str, text: str, value: str, modern: bool, context: dict[str, list[str]]
) -> bool | None:
    """Whether one value of the request fits one of the policy; None: it is of another type."""
    match base:
        case "StringEquals" | "StringEqualsIgnoreCase":
            return same(text, value, modern, context, lower=base.endswith("Case"))
        case "StringLike":
            return glob(text, value, modern, context)
        case "ArnEquals" | "ArnLike":
            wanted, given = arn_parts(text), value.split(":", 5)
            pairs = zip(wanted, given, strict=False)
            return len(given) == 6 and all(glob(a, b, modern, context) for a, b in pairs)
        case "Bool":
            return text.lower() == value.lower()
        case "BinaryEquals" | "IpAddress":
            return typed(base, text, value)
        case _:
            return ordered(base, text, value)


def typed(base: str, text: str, value: str) -> bool | None:
    try:
        if base == "IpAddress":
            return ipaddress.ip_address(value) in ipaddress.ip_network(text, strict=False)
        return base64.b64decode(text, validate=True) == base64.b64decode(value, validate=True)
    except ValueError:
        return None


def ordered(base: str, text: str, value: str) -> bool | None:
    kind = "Numeric" if base.startswith("Numeric") else "Date"
    read = number if kind == "Numeric" else moment
    left, right = read(value), read(text)
    if left is None or right is None:
        return None
    name = base.removeprefix(kind)
    if left == right:
        return name.endswith("Equals")
    return name.startswith("LessThan" if left < right else "GreaterThan")


def arn_parts(text: str) -> list[str]:
    """Six parts of an ARN in which `${a:b}` is one piece."""
    hidden = re.sub(r"\$\{[^}]*\}", lambda found: found.group().replace(":", "\0"), text)
    return [part.replace("\0", ":") for part in hidden.split(":", 5)]


def number(text: str) -> fractions.Fraction | None:
    try:
        return fractions.Fraction(text)
    except ValueError:
        return None


def moment(text: str) -> fractions.Fraction | None:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return number(text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return fractions.Fraction(int(when.timestamp()))
