"""`forebay buckets`: list them, make and remove them under the creatable store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache.buckets import check_bucket_name
from cache.records import Bucket
from node import added_bucket
from node.commands.options import ConfigOption, JsonOption, print_json, print_table
from node.config import NodeConfig, load
from node.errors import OperatorError
from node.volumes import look_into, open_volume

app = typer.Typer(no_args_is_help=True, help="List, create and delete buckets.")

NameArgument = Annotated[str, typer.Argument(help="Name of the bucket.")]


@app.command("list")
def list_buckets(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every bucket, its store and its write mode.

    Example: `forebay buckets list`
    """
    settings = load(config)
    with open_volume(settings) as volume:
        found = [
            {
                "name": bucket.name,
                "store": bucket.store,
                "prefix": bucket.location,
                "write_mode": volume.buckets.mode_of(bucket, b"").value,
                "owner": bucket.owner,
                "configured": _is_configured(settings, bucket),
            }
            for bucket in volume.buckets.list()
        ]
        links = volume.bucket_links.list()
    if as_json:
        linked = [{"name": link.name, "bucket": link.bucket} for link in links]
        print_json({"buckets": found, "links": linked})
    else:
        print_table(
            ("NAME", "STORE", "PREFIX", "WRITE MODE", "OWNER", "MADE BY"),
            (
                (
                    str(b["name"]),
                    str(b["store"]),
                    str(b["prefix"]),
                    str(b["write_mode"]),
                    str(b["owner"]),
                    "configuration" if b["configured"] else "a client",
                )
                for b in found
            ),
        )
        if links:
            typer.echo()
            print_table(("LINK", "LEADS TO"), ((link.name, link.bucket) for link in links))


@app.command()
def create(
    name: NameArgument,
    owner: Annotated[str, typer.Option(help="User that owns it.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bucket in the store that is marked `creatable`.

    Example: `forebay buckets create photos --owner alice`
    """
    with open_volume(load(config)) as volume:
        bucket = volume.buckets.create(name, owner)
    if as_json:
        print_json({"name": bucket.name, "store": bucket.store, "prefix": bucket.location})
    else:
        typer.echo(f"Made {bucket.name} in store {bucket.store}.")


@app.command()
def add(
    name: NameArgument,
    uri: Annotated[str, typer.Argument(help="s3://BUCKET, s3://BUCKET/PREFIX/ or a directory.")],
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A setting of the store or the bucket; repeatable."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Look into the store first.")] = True,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mount a store under a bucket: adds both to the configuration's file, for the next start.

    Example: `forebay buckets add photos s3://photos-of-2024/ --option region=eu-central-1`
    """
    check_bucket_name(name)
    settings = load(config)
    if settings.text.demo:
        raise OperatorError("there is no configuration file to add to: name one with --config")
    with open_volume(settings) as volume:
        if name in (bucket.name for bucket in volume.buckets.list()):
            raise OperatorError(f"there is a bucket {name} already")
    added = added_bucket.add(settings, name, uri, option or [])
    store = added.buckets[-1].store
    if check:
        look_into(added.stores[store])
    added_bucket.write(added, Path(settings.text.source))
    where = added.stores[store].location
    if as_json:
        print_json({"name": name, "store": store, "location": where})
    else:
        typer.echo(f"Added {name}, at {where}. Restart the node to serve it.")


@app.command()
def link(
    bucket: NameArgument,
    name: Annotated[str, typer.Argument(help="The further name.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let S3 clients see a bucket by another name, too; `forebay buckets delete` removes the link.

    Example: `forebay buckets link photos pictures`
    """
    with open_volume(load(config)) as volume:
        made = volume.bucket_links.create(name, bucket)
    if as_json:
        print_json({"name": made.name, "bucket": made.bucket})
    else:
        typer.echo(f"{made.name} leads to {made.bucket}.")


@app.command()
def delete(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Remove a bucket that is empty, or a link; what a link leads to stays.

    Example: `forebay buckets delete photos`
    """
    with open_volume(load(config)) as volume:
        if not volume.bucket_links.delete(name):
            volume.buckets.delete(name)
    if as_json:
        print_json({"deleted": name})
    else:
        typer.echo(f"Removed {name}.")


def _is_configured(settings: NodeConfig, bucket: Bucket) -> bool:
    return any(configured.name == bucket.name for configured in settings.buckets)
