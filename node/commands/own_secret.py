"""`forebay s3`: a user's own secret for the S3 endpoint, by the commands of Apache Ozone.

The access key is the user's name, the secret is shown once. Who may run these commands may read the
index anyway, so the rights checked here guard against mistakes, not against the machine's users.
"""

from __future__ import annotations

import os
import pwd
from typing import Annotated

import typer

from cache.keys import NoSuchAccessKey
from cache.volume import Volume
from node.commands.options import ConfigOption, JsonOption, print_json
from node.config import NodeConfig, load
from node.errors import ExitCode, OperatorError
from node.volumes import open_volume

app = typer.Typer(no_args_is_help=True, help="Get and revoke a user's secret, as Ozone does.")

UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", help="Whose secret; for administrators. Default: your own."),
]


@app.command()
def getsecret(
    user: UserOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Make a secret and show it, this once: awsAccessKey is the user's name.

    Exit code 1 when the user has one already: revoke it to get another.

    Example: `forebay s3 getsecret -u testuser/scm@EXAMPLE.COM`
    """
    settings = load(config)
    with open_volume(settings) as volume:
        key = volume.keys.create_named(whose(user, settings, volume))
    if as_json:
        print_json({"awsAccessKey": key.access_key, "awsSecret": key.secret})
    else:
        typer.echo(f"awsAccessKey={key.access_key}\nawsSecret={key.secret}")


@app.command()
def revokesecret(
    user: UserOption = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a secret away: the next request signed with it is refused. Asks before.

    Example: `forebay s3 revokesecret -y`
    """
    settings = load(config)
    with open_volume(settings) as volume:
        name = whose(user, settings, volume)
        if volume.keys.get(name) is None:
            raise NoSuchAccessKey(name)
        question = f"Enter 'y' to confirm S3 secret revocation for '{name}'"
        if not yes and typer.prompt(question, default="n", show_default=False, err=True) != "y":
            raise OperatorError("revocation cancelled", ExitCode.FAILED)
        volume.keys.revoke(name)
    if as_json:
        print_json({"revoked": name})
    else:
        typer.echo("S3 secret revoked.")


def whose(user: str | None, settings: NodeConfig, volume: Volume) -> str:
    """The user whose secret is meant. OperatorError if it is another's and the caller no
    administrator: root, the owner of the state directory, or a user made with --admin."""
    caller = pwd.getpwuid(os.getuid()).pw_name
    if user is None or user == caller:
        return caller
    owner = settings.cache.state_dir.stat().st_uid
    if os.getuid() not in (0, owner) and not volume.users.known(caller).admin:
        raise OperatorError(
            f"{caller} is no administrator and may get and revoke its own secret only",
            ExitCode.FAILED,
        )
    return user
