"""A further bucket in the configuration: what `forebay buckets add` writes at the end of the file.

The file stays the operator's: nothing in it is changed or laid out anew, two tables are added. They
are checked as they would be at the next start before anything is written. Pure but for `write`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from cache.config import BucketConfig
from node.config import NodeConfig, parse
from node.errors import OperatorError

_OF_BUCKET = {each.name for each in fields(BucketConfig)} - {"name", "store", "prefix", "prefixes"}


def add(config: NodeConfig, name: str, uri: str, options: Sequence[str]) -> NodeConfig:
    """The configuration with a bucket, the last one, in a store of its own. ConfigError, or
    OperatorError, if it cannot be.

    uri: `s3://BUCKET`, `s3://BUCKET/PREFIX/` or a directory. options: `KEY=VALUE`, settings of
    the bucket or of the store."""
    store = _store_name(config, name)
    of_store, of_bucket = _place(uri), {"name": _string(name), "store": _string(store)}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not re.fullmatch(r"[a-z_]+", key):
            raise OperatorError(f"{option}: write KEY=VALUE")
        (of_bucket if key in _OF_BUCKET else of_store)[key] = _value(value)
    text = config.text.toml
    joined = text + ("" if text.endswith("\n") or not text else "\n")
    joined += _table(f"[stores.{store}]", of_store) + _table("[[buckets]]", of_bucket)
    return parse(msgspec.structs.replace(config.text, toml=joined))


def _store_name(config: NodeConfig, bucket: str) -> str:
    """One that is not taken; a bare key of TOML."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in bucket)
    name, number = plain, 2
    while name in config.stores:
        name, number = f"{plain}-{number}", number + 1
    return name


def _place(uri: str) -> dict[str, str]:
    """The settings that say where a store is."""
    split = urlsplit(uri)
    if split.scheme in ("", "file") and not split.netloc and split.path:
        path = split.path if split.scheme else uri
        return {"type": _string("posix"), "path": _string(str(Path(path).absolute()))}
    if split.scheme == "s3" and split.netloc and not (split.query or split.fragment):
        where = {"type": _string("s3"), "bucket": _string(split.netloc)}
        prefix = split.path.strip("/")
        return where | ({"prefix": _string(prefix + "/")} if prefix else {})
    raise OperatorError(f"{uri}: write s3://BUCKET, s3://BUCKET/PREFIX/ or a directory")


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is one of TOML, too


def _value(text: str) -> str:
    """What somebody wrote after `=`: a boolean or number of TOML as it is, else a string."""
    return text if re.fullmatch(r"true|false|[0-9]+(\.[0-9]+)?", text) else _string(text)


def _table(header: str, values: Mapping[str, str]) -> str:
    return "\n".join(("", header, *(f"{key} = {value}" for key, value in values.items()), ""))


def write(config: NodeConfig, path: Path) -> None:
    """Replace the configuration's file by its text, whole or not at all, with the same mode and
    owner. OSError."""
    path = path.resolve()
    status = path.stat()
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(config.text.toml)
            file.flush()
            os.fchmod(descriptor, status.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
