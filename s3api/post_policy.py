"""POST policies: what the owner of a key allows the sender of a form.

The grammar and the rules are those of "Creating a POST policy" in Amazon's S3 API reference:

    { "expiration": "2026-12-01T12:00:00.000Z",
      "conditions": [ {"bucket": "photos"}, ["starts-with", "$key", "user/"],
                      ["content-length-range", 1, 1048576] ] }

Every field of the form must be named by a condition, but for those that carry the signature or the
file, those that begin with `x-ignore-`, and checksums of the file (which allow nothing: they hold
the file to a value). A field that a condition names and the form lacks counts as an empty one, as
with Ceph and MinIO: `["starts-with", "$x-amz-meta-tag", ""]` allows it to be absent. Amazon's
reference is silent, and Amazon is said to insist on the field.

Pure; callable from any thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from s3api.errors import S3Error

_EXPIRATION = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_UNCONDITIONED = {"awsaccesskeyid", "file", "policy", "signature", "x-amz-signature"}
_UNCONDITIONED_PREFIXES = ("x-ignore-", "x-amz-checksum-")
_SIZE_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Condition:
    operator: str  # eq, starts-with
    field: str  # in lower case, without the dollar
    value: str

    def holds(self, text: str) -> bool:
        """Whether a field with this text fulfils it."""
        if self.operator == "eq":
            return text == self.value
        # "Content-Type values for a starts-with condition that include commas are interpreted as
        # lists. Each value in the list must meet the condition."
        texts = text.split(",") if self.field == "content-type" else [text]
        return all(each.strip().startswith(self.value) for each in texts[1:]) and texts[
            0
        ].startswith(self.value)

    def __str__(self) -> str:
        return json.dumps([self.operator, f"${self.field}", self.value])


@dataclass(frozen=True, slots=True)
class PostPolicy:
    expiration: datetime
    conditions: tuple[Condition, ...]
    size_bytes_min: int = 0
    size_bytes_max: int = _SIZE_MAX

    @classmethod
    def read(cls, document: bytes) -> PostPolicy:
        """The policy in a JSON document. InvalidPolicyDocument."""
        policy = _members(_parse(document))
        if "expiration" not in policy:
            raise _invalid("Policy missing expiration.")
        if type(policy.get("conditions")) is not list:
            raise _invalid("Policy missing conditions.")
        conditions: list[Condition] = []
        size_bytes_min, size_bytes_max = 0, _SIZE_MAX
        for raw in policy["conditions"]:
            found = _read_condition(raw)
            if isinstance(found, Condition):
                conditions.append(found)
            else:
                size_bytes_min = max(size_bytes_min, found[0])
                size_bytes_max = min(size_bytes_max, found[1])
        return cls(
            _read_expiration(policy["expiration"]),
            tuple(conditions),
            size_bytes_min,
            size_bytes_max,
        )

    def check(self, fields: Mapping[str, str], now: datetime) -> None:
        """Raise AccessDenied unless the policy allows a form with these fields (names in lower
        case, the bucket among them) now. The file's size is not looked at."""
        if now >= self.expiration:
            raise S3Error("AccessDenied", "Invalid according to Policy: Policy expired.")
        for condition in self.conditions:
            if not condition.holds(fields.get(condition.field, "")):
                raise S3Error(
                    "AccessDenied",
                    f"Invalid according to Policy: Policy Condition failed: {condition}"[:512],
                )
        named = {condition.field for condition in self.conditions} | _UNCONDITIONED
        extra = [
            name
            for name in fields
            if name not in named and not name.startswith(_UNCONDITIONED_PREFIXES)
        ]
        if extra:
            raise S3Error(
                "AccessDenied",
                f"Invalid according to Policy: Extra input fields: {', '.join(extra)}"[:512],
            )


def _invalid(message: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", f"Invalid Policy: {message}")


_Pairs = list[tuple[str, Any]]


class _Object(_Pairs):
    """A JSON object with all of its pairs, also those of the same name."""


def _parse(document: bytes) -> Any:
    try:
        # `\$` is a dollar in a POST policy and nothing in JSON.
        text = _ESCAPE.sub(lambda match: "$" if match[1] == "$" else match[0], document.decode())
        return json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _invalid("Invalid JSON.") from None


def _members(parsed: Any) -> dict[str, Any]:
    if not isinstance(parsed, _Object):
        raise _invalid("Invalid JSON: expected an object.")
    members = dict(parsed)
    if len(members) != len(parsed):
        raise _invalid("Invalid JSON: a name occurs twice.")
    return members


def _read_expiration(value: Any) -> datetime:
    if isinstance(value, str) and _EXPIRATION.fullmatch(value):
        try:
            return datetime.strptime(value[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            pass  # the 31st of February: said below
    raise _invalid(f"Invalid 'expiration' value: '{str(value)[:64]}'.")


def _read_condition(raw: Any) -> Condition | tuple[int, int]:
    """A condition on a field, or the least and greatest size of the file."""
    if isinstance(raw, _Object):
        if len(raw) != 1:
            raise _invalid(
                "Invalid Simple-Condition: Simple-Conditions must have exactly one property"
                " specified."
            )
        name, value = raw[0]
        if not isinstance(value, str):
            raise _invalid("Invalid Simple-Condition: value must be a string.")
        return Condition("eq", name.lower(), value)
    if not isinstance(raw, list) or not raw or not isinstance(raw[0], str):
        raise _invalid("Invalid Condition: expected an object, or a list that begins with eq,"
                       " starts-with or content-length-range.")  # fmt: skip
    operator, *arguments = raw
    operator = operator.lower()
    if operator == "content-length-range":
        return _read_size_range(arguments)
    if operator not in ("eq", "starts-with"):
        raise _invalid(f"Invalid Condition: unknown operation '{operator[:64]}'.")
    if len(arguments) != 2 or not all(isinstance(each, str) for each in arguments):
        raise _invalid(f"Invalid {operator}: expected a field and a value.")
    field, value = arguments
    if not field.startswith("$"):
        raise _invalid(f"Invalid {operator}: the field must begin with $.")
    return Condition(operator, field[1:].lower(), value)


def _read_size_range(arguments: list[Any]) -> tuple[int, int]:
    sizes = [each for each in arguments if type(each) is int and each >= 0]
    if len(arguments) != 2 or len(sizes) != 2:
        raise _invalid("Invalid content-length-range: expected two sizes in bytes.")
    return sizes[0], sizes[1]
