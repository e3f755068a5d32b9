"""`forebay volumes`: what is above the buckets, for those who come from Apache Ozone."""

from __future__ import annotations

import typer

from node.commands.options import ConfigOption, JsonOption, print_json, print_table
from node.config import load
from node.volumes import existing_volume

S3_VOLUME = "s3v"

app = typer.Typer(no_args_is_help=True, help="Show the volume that the buckets are in.")


@app.command("list")
def list_volumes(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the volumes. A node has one, which holds all buckets: Ozone's `/s3v`.

    Example: `forebay volumes list`
    """
    with existing_volume(load(config)) as volume:
        buckets, links = len(volume.buckets.list()), len(volume.bucket_links.list())
    if as_json:
        print_json({"volumes": [{"name": S3_VOLUME, "buckets": buckets, "links": links}]})
    else:
        print_table(("VOLUME", "BUCKETS", "LINKS"), [(S3_VOLUME, str(buckets), str(links))])
