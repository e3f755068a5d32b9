"""`forebay`: the commands, and how any of them ends.

Commands raise OperatorError, or a cache error; both become one sentence on stderr (with --json
also {"error": …} on stdout) and an exit code of `node/errors.py`. A traceback means a bug.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

import typer

from cache.errors import CacheError, NotFound
from node.commands.options import print_json
from node.errors import ExitCode, OperatorError

_HELP = "A caching node: a mount and an S3 endpoint over one disk cache, a plain store behind."
_EXIT_CODES = "\n\n".join(f"{code.value}: {code.meaning}" for code in ExitCode)
_COMMANDS = ("serve", "check-config", "status", "flush", "stat", "fsck", "names")
"""Each is the function of its name in the module of its name."""
_FAMILIES = {
    "keys": "keys",
    "s3": "own_secret",
    "kms": "kms",
    "users": "users",
    "groups": "groups",
    "buckets": "buckets",
    "volumes": "volumes",
}
"""Commands with commands of their own, and their modules."""


def make_app(asked: str | None = None) -> typer.Typer:
    """All commands; only one of them, if that is asked for by its name. What `serve` loads stays in
    memory as long as the node runs, and it has two seconds to serve."""
    app = typer.Typer(
        name="forebay",
        help=_HELP,
        epilog=f"Exit codes:\n\n{_EXIT_CODES}",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        # Tracebacks with local variables would print secrets.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_commands)
    known = asked in (*_COMMANDS, *_FAMILIES)
    for name in _COMMANDS:
        if not known or name == asked:
            function = name.replace("-", "_")
            app.command(name)(getattr(import_module(f"node.commands.{function}"), function))
    for name, module in _FAMILIES.items():
        if not known or name == asked:
            app.add_typer(import_module(f"node.commands.{module}").app, name=name)
    return app


def _commands() -> None:
    # With a callback a program of one command is still called by the command's name.
    pass


def main() -> None:
    """Entry point of the console script."""
    try:
        make_app(next(iter(sys.argv[1:]), None))(prog_name="forebay")
    except OperatorError as exc:
        _end(str(exc), exc.code)
    except CacheError as exc:
        code = ExitCode.NOT_FOUND if isinstance(exc, NotFound) else ExitCode.FAILED
        _end(str(exc) or type(exc).__name__, code)
    except Exception as exc:  # noqa: BLE001 - the last one to see it, and it is shown whole
        traceback.print_exc()
        _end(f"internal error: {type(exc).__name__}: {exc}", ExitCode.BUG)


def _end(message: str, code: ExitCode) -> None:
    typer.echo(f"forebay: {message}", err=True)
    # What was asked for on the command line holds also where the command did not get to read it.
    if "--json" in sys.argv[1:]:
        print_json({"error": message, "code": int(code)})
    sys.exit(int(code))
