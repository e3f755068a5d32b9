"""`forebay users`: who may use the S3 endpoint, and as what. Works whether the node runs or not."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from cache.users import User, canonical_id, display_name
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

app = typer.Typer(
    no_args_is_help=True, help="Create, change, list and delete users of the S3 endpoint."
)

NameArgument = Annotated[str, typer.Argument(help="The user's name.")]
_DisplayName = Annotated[
    str | None, typer.Option(help="What S3 shows as the owner's name. Default: the name.")
]
_Email = Annotated[str | None, typer.Option(help="Address by which ACLs may name the user.")]
_Admin = Annotated[
    bool | None,
    typer.Option(
        "--admin/--no-admin", help="May do everything that no policy denies, in every bucket."
    ),
]


@app.command()
def create(
    name: NameArgument,
    display_name: _DisplayName = None,
    email: _Email = None,
    canonical_id: Annotated[
        str,
        typer.Option(help="ID by which ACLs and policies name the user. Default: from the name."),
    ] = "",
    admin: _Admin = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a user. It can sign in once it has an access key.

    Example: `forebay users create alice --display-name "Alice A." --email alice@example.org`
    """
    user = User(name, display_name or "", email or "", canonical_id, admin=bool(admin))
    with open_volume(load(config)) as volume:
        user = volume.users.create(user)
        _print(volume, user, as_json)


@app.command()
def change(
    name: NameArgument,
    display_name: _DisplayName = None,
    email: _Email = None,
    admin: _Admin = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given of a user, and leave the rest.

    Example: `forebay users change alice --admin`
    """
    wanted = {"display_name": display_name, "email": email, "admin": admin}
    fields = {field: value for field, value in wanted.items() if value is not None}
    with open_volume(load(config)) as volume:
        user = volume.users.change(name, lambda user: msgspec.structs.replace(user, **fields))
        _print(volume, user, as_json)


@app.command("list")
def list_users(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the users that have a record.

    Example: `forebay users list`
    """
    with open_volume(load(config)) as volume:
        users = volume.users.list()
        if as_json:
            print_json({"users": [described(volume, user) for user in users]})
            return
    print_table(
        ("NAME", "DISPLAY NAME", "EMAIL", "ADMIN", "GROUPS", "CANONICAL ID"),
        (
            (
                user.name,
                display_name(user),
                user.email,
                "yes" if user.admin else "",
                ", ".join(user.groups),
                canonical_id(user),
            )
            for user in users
        ),
    )


@app.command()
def show(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one user, its groups, policies and access keys (without secrets).

    Example: `forebay users show alice`
    """
    with open_volume(load(config)) as volume:
        _print(volume, volume.users.get(name), as_json)


@app.command("set-policy")
def set_policy(
    name: NameArgument,
    policy: PolicyArgument,
    file: PolicyFile,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a user a policy, or replace the one of that name.

    Example: `forebay users set-policy alice read-only read-only.json`
    """
    text = read_policy(file)
    with open_volume(load(config)) as volume:
        user = volume.users.change(name, lambda old: with_policy(old, policy, text))
        _print(volume, user, as_json)


@app.command("drop-policy")
def drop_policy(
    name: NameArgument,
    policy: PolicyArgument,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a policy away from a user.

    Example: `forebay users drop-policy alice read-only`
    """
    with open_volume(load(config)) as volume:
        check_there(volume.users.get(name), policy)
        user = volume.users.change(name, lambda old: without_policy(old, policy))
        _print(volume, user, as_json)


@app.command()
def delete(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Remove a user and its access keys. Its buckets and objects stay, owned by its name.

    Example: `forebay users delete alice`
    """
    with open_volume(load(config)) as volume:
        revoked = volume.users.delete(name)
    if as_json:
        print_json({"deleted": name, "revoked_keys": revoked})
    else:
        typer.echo(f"Removed {name} and {revoked} access keys.")


def described(volume: Volume, user: User) -> dict[str, Any]:
    """A user as --json shows it."""
    return {
        "name": user.name,
        "display_name": display_name(user),
        "email": user.email,
        "canonical_id": canonical_id(user),
        "admin": user.admin,
        "created": time_text(user.created_ns),
        "groups": user.groups,
        "policies": sorted(user.policies),
        "access_keys": [key.access_key for key in volume.keys.list() if key.user == user.name],
    }


def _print(volume: Volume, user: User, as_json: bool) -> None:
    print_record(described(volume, user), as_json)
