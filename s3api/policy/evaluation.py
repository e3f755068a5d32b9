"""What policies say of a request: denied, allowed, or nothing.

One statement that denies and fits decides; else one that allows and fits; else the policies say
nothing, and the caller goes by what else there is (ownership, ACLs). A statement with a condition
operator that is not known allows nothing and denies everything it speaks of.

Pure; callable from any thread.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from s3api.policy.documents import Policy, Statement
from s3api.policy.patterns import Context


class Decision(enum.Enum):
    DENIED = "explicit deny"
    ALLOWED = "allow"
    SILENT = "nothing"


@dataclass(frozen=True, slots=True)
class Question:
    """May this caller do this to that?"""

    action: str  # s3:GetObject
    resource: str  # arn:aws:s3:::bucket/key
    caller: frozenset[str]
    """Every name by which a statement can mean the caller: ARNs, account, canonical ID."""
    context: Context


def evaluate(policies: Iterable[Policy], question: Question) -> Decision:
    """The decision of all policies together."""
    decision = Decision.SILENT
    for policy in policies:
        for statement in policy.statements:
            if statement.allow and decision is Decision.ALLOWED:
                continue
            if not _fits(statement, question):
                continue
            if not statement.allow:
                return Decision.DENIED
            decision = Decision.ALLOWED
    return decision


def _fits(statement: Statement, question: Question) -> bool:
    return (
        _names_caller(statement, question)
        and _names_action(statement, question.action)
        and _names_resource(statement, question)
        and _conditions_hold(statement, question.context)
    )


def _names_caller(statement: Statement, question: Question) -> bool:
    principals = statement.principals
    if principals is None:
        return True
    named = principals.everybody or not question.caller.isdisjoint(principals.named)
    return named != statement.not_principals


def _names_action(statement: Statement, action: str) -> bool:
    lower = action.lower()
    named = any(wanted.matches(lower, {}) for wanted in statement.actions)
    return named != statement.not_actions


def _names_resource(statement: Statement, question: Question) -> bool:
    context = question.context
    named = any(wanted.matches(question.resource, context) for wanted in statement.resources)
    return named != statement.not_resources


def _conditions_hold(statement: Statement, context: Context) -> bool:
    if not all(condition.known for condition in statement.conditions):
        return not statement.allow
    return all(condition.holds(context) for condition in statement.conditions)
