"""`forebay check-config`: what a node would run with, without running it."""

from __future__ import annotations

from typing import Annotated

import typer

from node import config_docs
from node.commands.options import ConfigOption, JsonOption, print_json
from node.config import effective, load


def check_config(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Check the configuration, and print it with every default filled in and secrets hidden.

    Exit code 3, and one sentence that names file, table and key, when something is wrong.

    Example: `forebay check-config --config /etc/forebay/forebay.toml`
    """
    if markdown:
        typer.echo(config_docs.page(), nl=False)
        return
    settings = load(config)
    tables = effective(settings)
    if as_json:
        print_json({"source": settings.text.source, "config": tables})
    else:
        typer.echo(f"# {settings.text.source}: in order. Effective values:\n")
        typer.echo(config_docs.as_toml(tables), nl=False)
