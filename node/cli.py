"""`forebay`: the commands, and how any of them ends.

Commands raise OperatorError, or a cache error; both become one sentence on stderr (with --json
also {"error": …} on stdout) and an exit code of `node/errors.py`. A traceback means a bug.
"""

from __future__ import annotations

import sys
import traceback

import typer

from cache.errors import CacheError, NotFound
from node.commands import (
    buckets,
    check_config,
    flush,
    fsck,
    groups,
    keys,
    kms,
    names,
    own_secret,
    serve,
    stat,
    status,
    users,
    volumes,
)
from node.commands.options import print_json
from node.errors import ExitCode, OperatorError

_EXIT_CODES = "\n\n".join(f"{code.value}: {code.meaning}" for code in ExitCode)

app = typer.Typer(
    name="forebay",
    help="A caching node: a mount and an S3 endpoint over one disk cache, a plain store behind.",
    epilog=f"Exit codes:\n\n{_EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    # Tracebacks with local variables would print secrets.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("check-config")(check_config.check_config)
app.command("status")(status.status)
app.command("flush")(flush.flush)
app.command("stat")(stat.stat)
app.command("fsck")(fsck.fsck)
app.command("names")(names.names)
app.add_typer(keys.app, name="keys")
app.add_typer(own_secret.app, name="s3")
app.add_typer(kms.app, name="kms")
app.add_typer(users.app, name="users")
app.add_typer(groups.app, name="groups")
app.add_typer(buckets.app, name="buckets")
app.add_typer(volumes.app, name="volumes")


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="forebay")
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
