"""`forebay groups`: users that share policies. Works whether the node runs or not."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from cache.users import Group, User
from cache.volume import Volume
from node.commands.options import (
    ConfigOption,
    JsonOption,
    print_json,
    print_record,
    print_table,
    time_text,
)
from node.commands.policies import (
    PolicyArgument,
    PolicyFile,
    check_there,
    read_policy,
    with_policy,
    without_policy,
)
from node.config import load
from node.volumes import open_volume

app = typer.Typer(no_args_is_help=True, help="Groups of users of the S3 endpoint.")

NameArgument = Annotated[str, typer.Argument(help="The group's name.")]
_User = Annotated[str, typer.Argument(help="The user's name.")]


@app.command()
def create(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make a group.

    Example: `forebay groups create readers`
    """
    with open_volume(load(config)) as volume:
        _print(volume, volume.users.create_group(name), as_json)


@app.command("list")
def list_groups(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the groups.

    Example: `forebay groups list`
    """
    with open_volume(load(config)) as volume:
        groups = [_described(volume, group) for group in volume.users.groups()]
    if as_json:
        print_json({"groups": groups})
        return
    print_table(
        ("NAME", "MEMBERS", "POLICIES"),
        ((g["name"], ", ".join(g["members"]), ", ".join(g["policies"])) for g in groups),
    )


@app.command()
def show(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one group, its members and policies.

    Example: `forebay groups show readers`
    """
    with open_volume(load(config)) as volume:
        _print(volume, volume.users.group(name), as_json)


@app.command("set-policy")
def set_policy(
    name: NameArgument,
    policy: PolicyArgument,
    file: PolicyFile,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a group a policy, or replace the one of that name.

    Example: `forebay groups set-policy readers read-only read-only.json`
    """
    text = read_policy(file)
    with open_volume(load(config)) as volume:
        group = volume.users.change_group(name, lambda old: with_policy(old, policy, text))
        _print(volume, group, as_json)


@app.command("drop-policy")
def drop_policy(
    name: NameArgument,
    policy: PolicyArgument,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a policy away from a group.

    Example: `forebay groups drop-policy readers read-only`
    """
    with open_volume(load(config)) as volume:
        check_there(volume.users.group(name), policy)
        group = volume.users.change_group(name, lambda old: without_policy(old, policy))
        _print(volume, group, as_json)


@app.command()
def delete(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Remove a group; its members stay, without its policies.

    Example: `forebay groups delete readers`
    """
    with open_volume(load(config)) as volume:
        volume.users.delete_group(name)
    if as_json:
        print_json({"deleted": name})
    else:
        typer.echo(f"Removed {name}.")


@app.command()
def add(
    name: NameArgument, user: _User, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Put a user into a group.

    Example: `forebay groups add readers alice`
    """
    with open_volume(load(config)) as volume:
        volume.users.change(user, lambda found: _in_groups(found, {*found.groups, name}))
        _print(volume, volume.users.group(name), as_json)


@app.command()
def remove(
    name: NameArgument, user: _User, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Take a user out of a group.

    Example: `forebay groups remove readers alice`
    """
    with open_volume(load(config)) as volume:
        group = volume.users.group(name)
        volume.users.change(user, lambda found: _in_groups(found, {*found.groups} - {name}))
        _print(volume, group, as_json)


def _in_groups(user: User, groups: set[str]) -> User:
    return msgspec.structs.replace(user, groups=sorted(groups))


def _described(volume: Volume, group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "created": time_text(group.created_ns),
        "members": [user.name for user in volume.users.members(group.name)],
        "policies": sorted(group.policies),
    }


def _print(volume: Volume, group: Group, as_json: bool) -> None:
    print_record(_described(volume, group), as_json)
