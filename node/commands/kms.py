"""`forebay kms`: the keys of SSE-KMS that this node holds. Works whether the node runs or not."""

from __future__ import annotations

from typing import Annotated

import typer

from node.commands.options import ConfigOption, JsonOption, print_json, print_table, time_text
from node.config import load
from node.volumes import open_volume

app = typer.Typer(
    no_args_is_help=True,
    help="Create, rotate and list the master keys of encrypted objects."
    " They are in `keyring.json` in the state directory: back it up, without it those objects are"
    " lost.",
)

KeyId = Annotated[
    str, typer.Argument(help="Id of the key: what x-amz-server-side-encryption-aws-kms-key-id has.")
]


@app.command()
def create(key_id: KeyId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make a key for SSE-KMS. Requests that name none use the key `aws/s3`, if it was made.

    Example: `forebay kms create backups`
    """
    with open_volume(load(config)) as volume:
        volume.keyring.create(key_id)
    if as_json:
        print_json({"key": key_id, "version": 1})
    else:
        typer.echo(f"Made the key {key_id}. Back up keyring.json.")


@app.command()
def rotate(key_id: KeyId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make a new version of a key. New objects use it; the older versions go on opening theirs.

    `sse-s3` is the node's own key, that of SSE-S3. Example: `forebay kms rotate backups`
    """
    with open_volume(load(config)) as volume:
        version = volume.keyring.rotate(key_id)
    if as_json:
        print_json({"key": key_id, "version": version})
    else:
        typer.echo(f"The key {key_id} has version {version} now. Back up keyring.json.")


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the master keys, without secrets.

    Example: `forebay kms list --json`
    """
    with open_volume(load(config)) as volume:
        keys = volume.keyring.list()
    if as_json:
        print_json(
            {
                "keys": [
                    {
                        "key": k.id,
                        "versions": k.versions,
                        "created": time_text(k.created_ns),
                        "rotated": time_text(k.rotated_ns),
                    }
                    for k in keys
                ]
            }
        )
    else:
        print_table(
            ("KEY", "VERSIONS", "CREATED", "ROTATED"),
            (
                (k.id, str(k.versions), time_text(k.created_ns), time_text(k.rotated_ns))
                for k in keys
            ),
        )
