"""Policies of users and groups, from files: what `forebay users` and `forebay groups` share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from cache.users import Group, User
from node.errors import ExitCode, OperatorError
from s3api.policy.documents import MalformedPolicy, read_identity_policy

Holder = TypeVar("Holder", User, Group)

PolicyArgument = Annotated[str, typer.Argument(help="Name of the policy.")]
PolicyFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The policy in IAM's JSON; `-`: standard input.")
]


def read_policy(file: Path) -> bytes:
    """The text of a policy that can be evaluated. OperatorError."""
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as exc:
        raise OperatorError(f"{file}: {exc.strerror}", ExitCode.NOT_FOUND) from exc
    try:
        read_identity_policy(text)
    except MalformedPolicy as exc:
        raise OperatorError(f"{file}: {exc}") from exc
    return text


def check_there(holder: Holder, name: str) -> None:
    """OperatorError if there is no policy of the name."""
    if name not in holder.policies:
        raise OperatorError(f"there is no policy {name}", ExitCode.NOT_FOUND)


def with_policy(holder: Holder, name: str, text: bytes) -> Holder:
    """The same with a policy, in place of the one that had the name."""
    return msgspec.structs.replace(holder, policies={**holder.policies, name: text})


def without_policy(holder: Holder, name: str) -> Holder:
    """The same without the policy of the name, if there is one."""
    kept = {other: text for other, text in holder.policies.items() if other != name}
    return msgspec.structs.replace(holder, policies=kept)
