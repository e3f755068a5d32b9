"""The condition operators of IAM, and what it means that all of a statement's conditions hold.

A condition is an operator, a condition key and the policy's values for it. It holds if one of the
values fits the request's value; a negated operator (StringNotEquals …) holds if none does. What a
request has no value for does not fit: plain operators are false then, negated ones true,
`…IfExists` true. `ForAnyValue:` asks that one of the request's values pass, `ForAllValues:` that
every one does, which is true of none. A value of the request that is no number, date or address
where the operator wants one makes its condition false, negated or not.

An operator that nobody knows is `UNKNOWN`: the caller lets such a statement allow nothing and deny
everything. Reading a policy refuses them (`documents.py`).

Pure; callable from any thread.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from s3api.policy.patterns import Context, template

Fits = Callable[[str, Context], bool | None]
"""Whether a value of the request fits one value of the policy; None: it is not of the type."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A condition operator without its prefix and suffix."""

    compile: Callable[[str, bool], Fits]
    """From a value of the policy, and whether it knows variables. ValueError if it is none."""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of a statement's Condition element."""

    operator: str  # as written
    key: str  # in lower case
    values: tuple[str, ...]  # as written
    fits: tuple[Fits, ...]
    negated: bool
    quantifier: str  # "", "ForAnyValue" or "ForAllValues"
    if_exists: bool
    null: bool  # the operator Null, which asks whether the key is there
    known: bool

    def holds(self, context: Context) -> bool:
        values = context.get(self.key, ())
        if self.null:
            return any((not values) == (value == "true") for value in self.values)
        if not values:
            if self.if_exists or self.quantifier == "ForAllValues":
                return True
            return self.negated and self.quantifier != "ForAnyValue"
        if self.quantifier == "ForAllValues":
            return all(self._passes(value, context) for value in values)
        if self.quantifier == "ForAnyValue" or not self.negated:
            return any(self._passes(value, context) for value in values)
        # Several values and no quantifier: the condition says that none of them is there.
        return all(self._passes(value, context) for value in values)

    def _passes(self, value: str, context: Context) -> bool:
        """Whether one value of the request passes, held against all values of the policy."""
        fitting = [fits(value, context) for fits in self.fits]
        if None in fitting:
            return False
        return any(fitting) != self.negated


def read_condition(operator: str, key: str, values: Sequence[str], *, variables: bool) -> Condition:
    """One condition. ValueError for a value that is not of the operator's type. An operator that
    is not known is kept as such."""
    quantifier, colon, name = operator.rpartition(":")
    if colon and quantifier.lower() not in _QUANTIFIERS:
        name = operator
    quantifier = _QUANTIFIERS.get(quantifier.lower(), "")
    if_exists = name.lower().endswith("ifexists")
    name = name.lower().removesuffix("ifexists")
    found = OPERATORS.get(name)
    null = name == "null" and not if_exists and not quantifier
    if null:
        values = [value.lower() for value in values]
        if not set(values) <= {"true", "false"}:
            raise ValueError(f"not a Boolean: {values}")
    return Condition(
        operator,
        key.lower(),
        tuple(values),
        () if found is None else tuple(found.compile(value, variables) for value in values),
        negated=found is not None and found.negated,
        quantifier=quantifier,
        if_exists=if_exists,
        null=null,
        known=null or found is not None,
    )


_QUANTIFIERS = {"foranyvalue": "ForAnyValue", "forallvalues": "ForAllValues"}


# ---------------------------------------------------------------------------------- the operators


def _string(value: str, variables: bool) -> Fits:
    wanted = template(value, variables=variables, wildcards=False)
    return wanted.matches


def _string_ignoring_case(value: str, variables: bool) -> Fits:
    wanted = template(value, variables=variables, wildcards=False)

    def fits(given: str, context: Context) -> bool:
        pattern = wanted.pattern(context)
        return pattern is not None and pattern.text.lower() == given.lower()

    return fits


def _string_like(value: str, variables: bool) -> Fits:
    wanted = template(value, variables=variables)
    return wanted.matches


def _arn(value: str, variables: bool) -> Fits:
    """Each of the six parts of an ARN for itself: a star does not reach over a colon of the first
    five."""
    wanted = [template(part, variables=variables) for part in split_arn(value)]
    if len(wanted) != 6:
        raise ValueError(f"not an ARN: {value}")

    def fits(given: str, context: Context) -> bool:
        parts = split_arn(given)
        return len(parts) == 6 and all(
            part.matches(text, context) for part, text in zip(wanted, parts, strict=True)
        )

    return fits


def split_arn(text: str) -> list[str]:
    """Split at the first five colons that are not inside a variable."""
    parts = [""]
    inside = False
    for position, character in enumerate(text):
        if character == ":" and not inside and len(parts) < 6:
            parts.append("")
            continue
        if text.startswith("${", position):
            inside = True
        elif character == "}":
            inside = False
        parts[-1] += character
    return parts


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(Z|[+-]\d\d:?\d\d)?)?",
    re.ASCII,
)


def _date(text: str) -> Decimal | None:
    """Seconds since 1970 of a W3C date (ISO 8601) or of a number of them."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return _number(text)
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    seconds = Decimal(int(moment.timestamp())) + Decimal(f"0.{fraction or 0}")
    if zone and zone != "Z":
        offset_s = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
        seconds -= offset_s if zone[0] == "+" else -offset_s
    return seconds


def _compared(
    parse: Callable[[str], Decimal | None], holds: Callable[[Decimal, Decimal], bool]
) -> Callable[[str, bool], Fits]:
    def read(value: str, _variables: bool) -> Fits:
        wanted = parse(value)
        if wanted is None:
            raise ValueError(f"not a number or date: {value}")

        def fits(given: str, _context: Context) -> bool | None:
            number = parse(given)
            return None if number is None else holds(number, wanted)

        return fits

    return read


def _boolean(value: str, _variables: bool) -> Fits:
    wanted = value.lower()
    if wanted not in ("true", "false"):
        raise ValueError(f"not a Boolean: {value}")
    return lambda given, _context: given.lower() == wanted


def _binary(value: str, _variables: bool) -> Fits:
    try:
        wanted = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"not base64: {value}") from None

    def fits(given: str, _context: Context) -> bool | None:
        try:
            return base64.b64decode(given, validate=True) == wanted
        except (binascii.Error, ValueError):
            return None

    return fits


def _address(value: str, _variables: bool) -> Fits:
    wanted = ipaddress.ip_network(value, strict=False)

    def fits(given: str, _context: Context) -> bool | None:
        try:
            address = ipaddress.ip_address(given)
        except ValueError:
            return None
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address) in wanted

    return fits


_COMPARISONS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "equals": lambda given, wanted: given == wanted,
    "lessthan": lambda given, wanted: given < wanted,
    "lessthanequals": lambda given, wanted: given <= wanted,
    "greaterthan": lambda given, wanted: given > wanted,
    "greaterthanequals": lambda given, wanted: given >= wanted,
}

OPERATORS: dict[str, Operator] = {
    "stringequals": Operator(_string),
    "stringnotequals": Operator(_string, negated=True),
    "stringequalsignorecase": Operator(_string_ignoring_case),
    "stringnotequalsignorecase": Operator(_string_ignoring_case, negated=True),
    "stringlike": Operator(_string_like),
    "stringnotlike": Operator(_string_like, negated=True),
    "arnequals": Operator(_arn),
    "arnnotequals": Operator(_arn, negated=True),
    "arnlike": Operator(_arn),
    "arnnotlike": Operator(_arn, negated=True),
    "bool": Operator(_boolean),
    "binaryequals": Operator(_binary),
    "ipaddress": Operator(_address),
    "notipaddress": Operator(_address, negated=True),
    "numericnotequals": Operator(_compared(_number, _COMPARISONS["equals"]), negated=True),
    "datenotequals": Operator(_compared(_date, _COMPARISONS["equals"]), negated=True),
    **{f"numeric{name}": Operator(_compared(_number, by)) for name, by in _COMPARISONS.items()},
    **{f"date{name}": Operator(_compared(_date, by)) for name, by in _COMPARISONS.items()},
}
"""By name in lower case; `Null` is the one that has its own way (Condition.holds)."""
