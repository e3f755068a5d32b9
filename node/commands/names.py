"""`forebay names`: what exists over S3 and cannot be seen on the mount.

S3 keys are any UTF-8; file names are not. Nothing is lost by that, and nothing escapes its bucket:
such keys are simply not shown by the mount, and this command says which they are, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from cache.names import is_posix_name
from cache.publishing import Object
from cache.volume import Volume
from node.commands.options import ConfigOption, JsonOption, print_json, print_table, readable
from node.config import load
from node.volumes import open_volume

_PAGE = 1000


def names(
    bucket: Annotated[
        list[str] | None, typer.Argument(help="Buckets to look through; none: all.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys that the mount cannot show, each with the reason.

    Example: `forebay names photos`
    """
    with open_volume(load(config)) as volume:
        buckets = bucket or [found.name for found in volume.buckets.list()]
        hidden = [
            {"bucket": name, "key": readable(key), "reason": reason}
            for name in buckets
            for key, reason in hidden_keys(_keys_and_sizes(volume, name))
        ]
    if as_json:
        print_json({"hidden": hidden})
    elif hidden:
        print_table(
            ("BUCKET", "KEY", "REASON"), ((h["bucket"], h["key"], h["reason"]) for h in hidden)
        )
    else:
        typer.echo("Every key can be seen on the mount.")


def hidden_keys(keys: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, str]]:
    """Those of the keys (all of a bucket's, in byte order, with the sizes of their objects) that
    no path of the mount leads to, or not to their bytes.

    Holds only the keys that a directory of the same name may still follow: `a` until `a0`, as
    everything in `a/` lies between them.
    """
    open_files: list[tuple[bytes, bool]] = []  # key, already reported
    for key, size_bytes in keys:
        while open_files and key >= open_files[-1][0] + b"0":
            open_files.pop()
        for number, (file, reported) in enumerate(open_files):
            if not reported and key.startswith(file + b"/"):
                yield file, "a directory has the same name"
                open_files[number] = (file, True)
        reason = _not_a_path(key)
        if reason:
            yield key, reason
        elif key.endswith(b"/"):
            if size_bytes:
                yield key, "a directory, which shows no bytes of its own"
        else:
            open_files.append((key, False))


def _not_a_path(key: bytes) -> str:
    for name in key.removesuffix(b"/").split(b"/"):
        if not name:
            return "an empty name between slashes"
        if len(name) > 255:
            return "a name of more than 255 bytes"
        if not is_posix_name(name):
            return f"{readable(name)!r} cannot be a file name"
    return ""


def _keys_and_sizes(volume: Volume, bucket: str) -> Iterator[tuple[bytes, int]]:
    after, truncated = b"", True
    while truncated:
        page = volume.objects.list(bucket, after=after, limit=_PAGE)
        for entry in page.entries:
            assert isinstance(entry, Object), "no delimiter, no common prefixes"
            yield entry.key, entry.size
        after, truncated = page.last, page.truncated
