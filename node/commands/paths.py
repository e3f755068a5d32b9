"""How commands are told what they are about: one word for a bucket, a prefix or an object.

`s3://photos/2024/a.jpg`, `photos/2024/a.jpg` and, where the node mounts on /srv/photos,
`/srv/forebay/photos/2024/a.jpg` are the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from node.config import NodeConfig
from node.errors import ExitCode, OperatorError

PathArgument = Annotated[
    str,
    typer.Argument(metavar="PATH", help="BUCKET/KEY, s3://BUCKET/KEY, or a path inside the mount."),
]


@dataclass(frozen=True, slots=True)
class Target:
    bucket: str
    key: bytes  # empty for the whole bucket; ends in / where the word did

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key.decode('utf-8', 'backslashreplace')}"


def parse(word: str, config: NodeConfig) -> Target:
    """OperatorError when it names no bucket. Does not look whether the target exists."""
    name = os.fsencode(word)
    if name.startswith(b"s3://"):
        name = name.removeprefix(b"s3://")
    elif name.startswith((b"/", b"./", b"../")):
        name = _below_mount(word, config)
    bucket, _, key = name.partition(b"/")
    try:
        return Target(bucket.decode("ascii"), key)
    except UnicodeDecodeError as exc:
        raise OperatorError(f"{word}: not a bucket name", ExitCode.NOT_FOUND) from exc


def _below_mount(word: str, config: NodeConfig) -> bytes:
    if config.mount is None:
        raise OperatorError(f"{word}: the node has no mount; write BUCKET/KEY", ExitCode.USAGE)
    # normpath and not resolve(): the command must not wait for a mount that hangs.
    path = Path(os.path.normpath(Path.cwd() / word))
    if not path.is_relative_to(config.mount.path) or path == config.mount.path:
        raise OperatorError(
            f"{word}: not below the mount point {config.mount.path}", ExitCode.NOT_FOUND
        )
    slash = b"/" if word.endswith("/") else b""
    return os.fsencode(path.relative_to(config.mount.path)) + slash
