"""`forebay stat`: everything the node knows of one object or directory."""

from __future__ import annotations

import logging
from typing import Any

import typer

from cache.contents import is_dirty
from cache.encryption import Encryption
from cache.errors import NoSuchKey
from cache.records import Bucket, Inode, InodeFlag, Kind, ObjectAttributes
from cache.volume import Volume
from node.commands.options import ConfigOption, JsonOption, print_json, readable, time_text
from node.commands.paths import PathArgument, Target, parse
from node.config import load
from node.volumes import existing_volume

log = logging.getLogger(__name__)


def stat(path: PathArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show size, times, ETag, how much of it is cached, and whether the store has it.

    Exit code 7 when there is nothing at PATH.

    Example: `forebay stat photos/2024/a.jpg`
    """
    settings = load(config)
    target = parse(path, settings)
    with existing_volume(settings) as volume:
        inode, attributes = _find(volume, target)
        found = _describe(volume, target, inode, attributes)
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        if value not in ("", None, {}):
            typer.echo(f"{name.replace('_', ' '):<{width}}  {_text(value)}")


def _find(volume: Volume, target: Target) -> tuple[Inode, ObjectAttributes]:
    """What the key leads to: an object as S3 sees it, else what the mount shows."""
    bucket = volume.buckets.get(target.bucket)
    try:
        if target.key:
            found = volume.objects.get(target.bucket, target.key)
            return found.inode, found.attributes
    except NoSuchKey:
        log.debug("%s is no object; perhaps a directory", target)
    inode = volume.files.get(bucket.root)
    for name in target.key.split(b"/"):
        if name:
            inode = volume.files.lookup(inode.id, name)
    return inode, ObjectAttributes()


def _describe(
    volume: Volume, target: Target, inode: Inode, attributes: ObjectAttributes
) -> dict[str, Any]:
    bucket = volume.buckets.get(target.bucket)
    encryption = Encryption.of(attributes)
    return {
        "path": str(target),
        "kind": Kind(inode.kind).name.lower(),
        "inode": inode.id,
        "size": inode.visible_size,
        "mode": f"{inode.mode:04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "links": inode.nlink,
        "modified": time_text(inode.mtime_ns, "milliseconds"),
        "etag": inode.etag,
        "symlink_target": readable(inode.target),
        "content_type": attributes.content_type,
        "metadata": dict(attributes.metadata),
        "tags": dict(attributes.tags),
        "encryption": "" if encryption is None else encryption.mode.value,
        "cached_bytes": _cached_bytes(volume, inode),
        "pinned": bool(inode.flags & InodeFlag.PINNED),
        "store": bucket.store,
        "write_mode": volume.buckets.mode_of(bucket, target.key).value,
        "state": _state(volume, bucket, target, inode),
    }


def _state(volume: Volume, bucket: Bucket, target: Target, inode: Inode) -> str:
    """`dirty`: bytes that the store lacks; `queued`: it lacks less (a name, attributes);
    `stored`: it agrees; `local`: it is not meant to have it."""
    if inode.kind == Kind.FILE and is_dirty(inode):
        return "dirty"
    if target.key and target.key in volume.queue.pending_below(bucket.root, target.key):
        return "queued"
    return "stored" if inode.stored is not None or inode.is_dir else "local"


def _cached_bytes(volume: Volume, inode: Inode) -> int:
    if inode.kind != Kind.FILE:
        return 0
    snapshot = volume.contents.open(inode.id)
    if snapshot is None:
        return 0
    with snapshot:
        return snapshot.size - sum(stop - start for start, stop in snapshot.missing(0, inode.size))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return str(value)
