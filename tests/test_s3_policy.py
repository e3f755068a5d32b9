"""The evaluator of policies: against a second one over random policies, and against AWS's words."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3api.policy.conditions import read_condition
from s3api.policy.documents import (
    BUCKET_POLICY_BYTES_MAX,
    MalformedPolicy,
    Policy,
    read_bucket_policy,
    read_identity_policy,
    stored_bucket_policy,
)
from s3api.policy.evaluation import Decision, Question, evaluate
from s3api.policy.patterns import template
from s3api.policy.publicity import is_public
from tests.support.policy_oracle import verdict

ALICE = "arn:aws:iam::000000000000:user/alice"
NAMES = frozenset({ALICE, "000000000000", "c0ffee"})
OBJECT = "arn:aws:s3:::bucket/a/b"
_WORDS = {"deny": Decision.DENIED, "allow": Decision.ALLOWED, "nothing": Decision.SILENT}


def bucket_policy(*statements: dict[str, Any], version: str = "2012-10-17") -> dict[str, Any]:
    return {"Version": version, "Statement": list(statements)}


def decide(
    policy: dict[str, Any],
    *,
    action: str = "s3:GetObject",
    resource: str = OBJECT,
    names: frozenset[str] = NAMES,
    **context: list[str],
) -> Decision:
    read = read_bucket_policy(json.dumps(policy).encode(), "bucket")
    facts = {key.replace("__", ":").replace("_", "-"): value for key, value in context.items()}
    return evaluate([read], Question(action, resource, names, facts))


def allow(**fields: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::bucket/*",
        **fields,
    }


# ------------------------------------------------------------------------------------ the oracle

_KEYS = ["aws:username", "s3:prefix", "aws:SourceIp", "s3:max-keys", "aws:CurrentTime", "aws:x"]
_TEXTS = ["alice", "bob", "a", "A", "a*", "*", "al?ce", "${aws:username}", "${aws:nothing, 'a'}",
          "${aws:nothing}", "x${*}", "x*", "?", "", "a/b", "é"]  # fmt: skip
_NUMBERS = ["0", "1", "10", "-1", "1.5", "1000"]
_DATES = ["2026-11-21T00:00:00Z", "2026-11-20", "1700000000", "2026-11-21T02:00:00+02:00"]
_NETWORKS = ["10.0.0.0/8", "192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"]
_ARNS = ["arn:aws:iam::000000000000:user/alice", "arn:aws:iam::*:user/*", "arn:*:*:*:*:*",
         "arn:aws:iam::000000000000:user/${aws:username}", "arn:aws:s3:::b"]  # fmt: skip
_BASE = ["YQ==", "Yg==", ""]
_PREFIXES = ["", "", "ForAnyValue:", "ForAllValues:"]
_SUFFIXES = ["", "", "IfExists"]
_COMPARED = ["Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan",
             "GreaterThanEquals"]  # fmt: skip
_OPERATORS = {
    **dict.fromkeys(
        ["StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase",
         "StringLike", "StringNotLike"],
        _TEXTS,
    ),
    **{f"Numeric{name}": _NUMBERS for name in _COMPARED},
    **{f"Date{name}": _DATES for name in _COMPARED},
    **dict.fromkeys(["ArnEquals", "ArnNotEquals", "ArnLike", "ArnNotLike"], _ARNS),
    "Bool": ["true", "false"],
    "BinaryEquals": _BASE,
    "IpAddress": _NETWORKS,
    "NotIpAddress": _NETWORKS,
}  # fmt: skip
_VALUES = [*_TEXTS, *_NUMBERS, *_DATES, *_ARNS, *_BASE, "true", "FALSE", "10.1.2.3", "192.0.2.1",
           "2001:db8::1", "nonsense"]  # fmt: skip


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.integers(0, 9)) == 0:
            operator, values = "Null", ["true", "false"]
        else:
            name = draw(st.sampled_from(sorted(_OPERATORS)))
            operator = draw(st.sampled_from(_PREFIXES)) + name + draw(st.sampled_from(_SUFFIXES))
            values = _OPERATORS[name]
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        found.setdefault(operator, {})[draw(st.sampled_from(_KEYS))] = chosen
    return found


_ACTIONS = ["s3:GetObject", "s3:*", "*", "s3:Get*", "s3:PutObject", "s3:getobject", "s3:?etObject"]
_RESOURCES = ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*", "arn:aws:s3:::bucket/a/b",
              "arn:aws:s3:::b*", "arn:aws:s3:::bucket/?/b", "*", "arn:aws:s3:::*/b",
              "arn:aws:s3:::bucket/${aws:username}/*", "arn:aws:s3:::bucket/*a*b*"]  # fmt: skip
_PRINCIPALS = ["*", {"AWS": "*"}, {"AWS": ALICE}, {"AWS": ["000000000000"]},
               {"CanonicalUser": "c0ffee"}, {"AWS": "arn:aws:iam::000000000000:user/bob"},
               {"Service": "logging.s3.amazonaws.com"}]  # fmt: skip


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    effect = draw(st.sampled_from(["Allow", "Allow", "Deny"]))
    negated = effect == "Deny" and draw(st.booleans())

    def some(values: list[Any]) -> Any:
        return draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))

    return {
        "Effect": effect,
        "NotPrincipal" if negated else "Principal": draw(st.sampled_from(_PRINCIPALS)),
        draw(st.sampled_from(["Action", "Action", "NotAction"])): some(_ACTIONS),
        draw(st.sampled_from(["Resource", "Resource", "NotResource"])): some(_RESOURCES),
        "Condition": draw(conditions()),
    }


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(statements(), min_size=1, max_size=3),
    st.sampled_from(["2012-10-17", "2008-10-17"]),
    st.dictionaries(
        st.sampled_from([key.lower() for key in _KEYS]),
        st.lists(st.sampled_from(_VALUES), min_size=1, max_size=2),
    ),
    st.sampled_from(["s3:GetObject", "s3:PutObject", "s3:ListBucket"]),
    st.sampled_from(["arn:aws:s3:::bucket", OBJECT, "arn:aws:s3:::bucket/alice/x"]),
    st.sampled_from([NAMES, frozenset()]),
)
def test_two_evaluators_agree(
    listed: list[dict[str, Any]],
    version: str,
    context: dict[str, list[str]],
    action: str,
    resource: str,
    names: frozenset[str],
) -> None:
    policy = bucket_policy(*listed, version=version)
    read = read_bucket_policy(json.dumps(policy).encode(), "bucket")
    expected = verdict(
        [policy], names=set(names), action=action, resource=resource, context=context
    )
    assert evaluate([read], Question(action, resource, names, context)) is _WORDS[expected]


@settings(max_examples=200, deadline=None)
@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_match_as_they_do_elsewhere(pattern: str, text: str) -> None:
    read = bucket_policy(allow(Resource=f"arn:aws:s3:::bucket/{pattern}"))
    expected = verdict([read], names=set(), action="s3:GetObject",
                       resource=f"arn:aws:s3:::bucket/{text}", context={})  # fmt: skip
    found = template(pattern, variables=False).matches(text, {})
    assert found == (expected == "allow")


def test_no_pattern_explodes() -> None:
    begun = time.monotonic()
    assert not template("*a" * 500, variables=True).matches("a" * 499 + "b", {})
    assert not template("?*" * 300 + "b", variables=True).matches("a" * 1000, {})
    assert time.monotonic() - begun < 20


# ------------------------------------------------------------------------------------ AWS's words


def test_a_deny_wins_wherever_it_stands() -> None:
    denying = allow(Effect="Deny")
    for listed in ([allow(), denying], [denying, allow()]):
        assert decide(bucket_policy(*listed)) is Decision.DENIED
    assert decide(bucket_policy(allow())) is Decision.ALLOWED
    assert decide(bucket_policy(allow()), action="s3:PutObject") is Decision.SILENT


def test_all_conditions_and_any_of_their_values() -> None:
    policy = bucket_policy(
        allow(
            Condition={
                "StringEquals": {"s3:prefix": ["a", "b"]},
                "NumericLessThanEquals": {"s3:max-keys": 10},
            }
        )
    )
    assert decide(policy, s3__prefix=["b"], s3__max_keys=["10"]) is Decision.ALLOWED
    assert decide(policy, s3__prefix=["c"], s3__max_keys=["10"]) is Decision.SILENT
    assert decide(policy, s3__prefix=["b"], s3__max_keys=["11"]) is Decision.SILENT
    assert decide(policy, s3__prefix=["b"]) is Decision.SILENT
    assert decide(policy, s3__prefix=["b"], s3__max_keys=["x"]) is Decision.SILENT


@pytest.mark.parametrize(
    ("operator", "absent"),
    [
        ("StringEquals", False),
        ("StringNotEquals", True),
        ("StringEqualsIfExists", True),
        ("ForAllValues:StringEquals", True),
        ("ForAnyValue:StringEquals", False),
        ("ForAnyValue:StringNotEquals", False),
    ],
)
def test_a_key_that_is_absent(operator: str, absent: bool) -> None:
    policy = bucket_policy(allow(Condition={operator: {"s3:prefix": "a"}}))
    assert (decide(policy) is Decision.ALLOWED) == absent


def test_variables_are_text_and_only_in_new_policies() -> None:
    home = allow(Resource="arn:aws:s3:::bucket/${aws:username}/*")
    mine = "arn:aws:s3:::bucket/alice/x"
    assert decide(bucket_policy(home), resource=mine, aws__username=["alice"]) is Decision.ALLOWED
    assert decide(bucket_policy(home), resource=mine, aws__username=["*"]) is Decision.SILENT
    assert decide(bucket_policy(home), resource=mine) is Decision.SILENT
    old = bucket_policy(home, version="2008-10-17")
    assert decide(old, resource=mine, aws__username=["alice"]) is Decision.SILENT
    literal = bucket_policy(allow(Resource="arn:aws:s3:::bucket/${*}"))
    assert decide(literal, resource="arn:aws:s3:::bucket/*") is Decision.ALLOWED
    assert decide(literal, resource="arn:aws:s3:::bucket/x") is Decision.SILENT


def test_mapped_addresses_are_the_addresses_they_map() -> None:
    policy = bucket_policy(allow(Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}))
    assert decide(policy, aws__SourceIp=["192.0.2.9"]) is Decision.SILENT  # keys in lower case
    assert decide(policy, aws__sourceip=["192.0.2.9"]) is Decision.ALLOWED
    assert decide(policy, aws__sourceip=["::ffff:192.0.2.9"]) is Decision.ALLOWED
    assert decide(policy, aws__sourceip=["::1"]) is Decision.SILENT


def test_an_operator_that_nobody_knows_lets_nothing_through() -> None:
    """Such a policy is not taken; one from a later version that was kept fails closed."""
    statement = allow(Condition={"StringSounds": {"s3:prefix": "a"}})
    with pytest.raises(MalformedPolicy, match="StringSounds"):
        read_bucket_policy(json.dumps(bucket_policy(statement)).encode(), "bucket")
    unknown = read_condition("StringSounds", "s3:prefix", ["a"], variables=True)
    asked = Question("s3:GetObject", OBJECT, NAMES, {"s3:prefix": ["a"]})
    for effect, decision in (("Allow", Decision.SILENT), ("Deny", Decision.DENIED)):
        text = json.dumps(bucket_policy(allow(Effect=effect))).encode()
        (known,) = read_bucket_policy(text, "bucket").statements
        kept = Policy((dataclasses.replace(known, conditions=(unknown,)),), frozenset())
        assert evaluate([kept], asked) is decision


# ------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    "statement",
    [
        allow(Effect="allow"),
        allow(Effect=None),
        allow(Action="GetObject"),
        allow(Action="s3:"),
        allow(Action=[]),
        allow(Action=5),
        allow(Resource="bucket/*"),
        allow(Resource="arn:aws:s3:::other/*"),
        allow(Resource="arn:aws:s3:::bucketeer"),
        allow(Resource="arn:aws:s3:::bucke?/x/${aws:username"),
        allow(Resource=["arn:aws:s3:::bucket/*", "arn:aws:s3:::other"]),
        allow(Principal="alice"),
        allow(Principal={}),
        allow(Principal={"AWS": "alice"}),
        allow(Principal={"AWS": "arn:aws:iam::000000000000:user/*"}),
        allow(Principal={"AWS": []}),
        allow(Principal={"Nobody": "x"}),
        allow(NotPrincipal="*"),
        allow(NotAction="s3:*"),
        allow(NotResource="arn:aws:s3:::bucket"),
        allow(Sid=5),
        allow(Unknown="x"),
        allow(Condition=[]),
        allow(Condition={"StringEquals": "x"}),
        allow(Condition={"StringEquals": {"s3:prefix": []}}),
        allow(Condition={"StringEquals": {"s3:prefix": {"a": "b"}}}),
        allow(Condition={"StringEquals": {"s3:nonsense": "x"}}),
        allow(Condition={"StringEquals": {"prefix": "x"}}),
        allow(Condition={"StringEquals": {"s3:ExistingObjectTag/": "x"}}),
        allow(Condition={"Bool": {"aws:SecureTransport": "yes"}}),
        allow(Condition={"Null": {"aws:SecureTransport": "yes"}}),
        allow(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/99"}}),
        allow(Condition={"NumericEquals": {"s3:max-keys": "ten"}}),
        allow(Condition={"DateEquals": {"aws:CurrentTime": "today"}}),
        allow(Condition={"ArnLike": {"aws:PrincipalArn": "alice"}}),
        "statement",
    ],
)
def test_what_is_no_statement(statement: Any) -> None:
    with pytest.raises(MalformedPolicy):
        read_bucket_policy(json.dumps(bucket_policy(statement)).encode(), "bucket")


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "x", "{}", '{"Statement": []}', '{"Version": "2020-01-01", "Statement": []}',
        '{"Statement": [], "Statement": []}', "[" * 10_000, '{"Nonsense": 1, "Statement": []}',
        json.dumps({"Version": "2012-10-17", "Id": 5, "Statement": [allow()]}),
    ],
)  # fmt: skip
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(MalformedPolicy):
        read_bucket_policy(text.encode(), "bucket")


def test_size_and_encoding_of_policies() -> None:
    text = json.dumps(bucket_policy(allow())).encode()
    read_bucket_policy(text.ljust(BUCKET_POLICY_BYTES_MAX), "bucket")
    with pytest.raises(MalformedPolicy):
        read_bucket_policy(text.ljust(BUCKET_POLICY_BYTES_MAX + 1), "bucket")
    for other in (text.decode().encode("utf-16"), b"\xff" + text):
        with pytest.raises(MalformedPolicy):
            read_bucket_policy(other, "bucket")


@pytest.mark.parametrize(
    "resource",
    ["*", "arn:aws:s3:::*", "arn:aws:s3:::*/*", "arn:aws:s3:::buck*", "arn:aws:s3:::bucket",
     "arn:aws:s3:::bucket/x", "arn:aws:s3:::bucket/${aws:username}", "arn:aws:s3:::?ucket/*"],
)  # fmt: skip
def test_resources_of_the_bucket(resource: str) -> None:
    read_bucket_policy(json.dumps(bucket_policy(allow(Resource=resource))).encode(), "bucket")


def test_identity_policies_name_nobody() -> None:
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    read_identity_policy(json.dumps(bucket_policy(statement)).encode())
    for refused in ([allow()], [statement | {"Sid": "a"}] * 2):
        with pytest.raises(MalformedPolicy):
            read_identity_policy(json.dumps(bucket_policy(*refused)).encode())
    read_bucket_policy(json.dumps(bucket_policy(*[allow(Sid="a")] * 2)).encode(), "bucket")
    with pytest.raises(MalformedPolicy):
        read_bucket_policy(json.dumps(bucket_policy(statement)).encode(), "bucket")


# ------------------------------------------------------------------------------------- publicity


@pytest.mark.parametrize(
    ("statement", "public"),
    [
        (allow(), True),
        (allow(Principal={"AWS": "*"}), True),
        (allow(Principal={"AWS": ALICE}), False),
        (allow(Effect="Deny"), False),
        (allow(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), False),
        (allow(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/7"}}), True),
        (allow(Condition={"IpAddress": {"aws:SourceIp": ["10.0.0.1", "::/0"]}}), True),
        (allow(Condition={"NotIpAddress": {"aws:SourceIp": "10.0.0.1"}}), True),
        (allow(Condition={"StringLike": {"aws:username": "a*"}}), True),
        (allow(Condition={"StringLike": {"aws:username": "alice"}}), False),
        (allow(Condition={"StringEquals": {"aws:username": "${s3:prefix}"}}), True),
        (allow(Condition={"ForAllValues:StringEquals": {"aws:username": "alice"}}), True),
        (allow(Condition={"StringEqualsIfExists": {"aws:username": "alice"}}), True),
        (allow(Condition={"StringEquals": {"aws:Referer": "x"}}), True),
    ],
)
def test_what_is_public(statement: dict[str, Any], public: bool) -> None:
    policy = stored_bucket_policy(json.dumps(bucket_policy(statement)).encode())
    assert is_public(policy) == public
