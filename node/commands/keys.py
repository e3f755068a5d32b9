"""`forebay keys`: the access keys of S3 users. Works whether the node runs or not."""

from __future__ import annotations

from typing import Annotated

import typer

from cache.users import canonical_id, display_name
from node.commands.options import ConfigOption, JsonOption, print_json, print_table, time_text
from node.config import load
from node.volumes import open_volume

app = typer.Typer(no_args_is_help=True, help="Create, revoke and list access keys of S3 users.")


@app.command()
def create(
    user: Annotated[str, typer.Argument(help="Who will use the key: owner of what it creates.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an access key. Its secret is shown now, and never again.

    From the first key on the endpoint checks signatures, unless `auth.mode` says otherwise.

    Example: `forebay keys create alice`
    """
    with open_volume(load(config)) as volume:
        key = volume.keys.create(user)
        owner = volume.users.known(user)
    if as_json:
        print_json(
            {
                "user": key.user,
                "display_name": display_name(owner),
                "canonical_id": canonical_id(owner),
                "access_key": key.access_key,
                "secret_key": key.secret,
            }
        )
    else:
        typer.echo(f"AWS_ACCESS_KEY_ID={key.access_key}\nAWS_SECRET_ACCESS_KEY={key.secret}")


@app.command()
def revoke(
    access_key: Annotated[str, typer.Argument(help="The key, as `forebay keys list` shows it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an access key away: the next request signed with it is refused.

    Example: `forebay keys revoke FBEXAMPLEEXAMPLE2345`
    """
    with open_volume(load(config)) as volume:
        volume.keys.revoke(access_key)
    if as_json:
        print_json({"revoked": access_key})
    else:
        typer.echo(f"Revoked {access_key}.")


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the access keys and their users, without secrets.

    Example: `forebay keys list --json`
    """
    with open_volume(load(config)) as volume:
        keys = volume.keys.list()
    if as_json:
        print_json(
            {
                "keys": [
                    {"access_key": k.access_key, "user": k.user, "created": time_text(k.created_ns)}
                    for k in keys
                ]
            }
        )
    else:
        print_table(
            ("ACCESS KEY", "USER", "CREATED"),
            ((k.access_key, k.user, time_text(k.created_ns)) for k in keys),
        )
