"""The configuration of a node: one TOML file, or the embedded one, as checked dataclasses.

Each table is a dataclass beside the code that reads it; this module knows which table is whose,
and checks what no single table can: that a bucket's store exists, that paths do not contain each
other, that an unauthenticated endpoint is not offered to a network. How a table is read is in
`node/tables.py`, the reference page is made by `node/config_docs.py`.

The supervisor reads the file once and gives its text to every child, so that all run the same.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.config import BucketConfig, CacheConfig
from cache.records import WriteMode
from fuse.config import MountConfig
from node import config_text, tables
from node.config_text import ConfigText
from node.errors import ConfigError
from node.logs import LogConfig
from node.stores import StoreConfig, read_store
from node.supervisor_config import SupervisorConfig
from node.tables import Place, read, unknown_key
from s3api.config import AuthConfig, GatewayConfig, is_loopback


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Tables of the file, by name."""

    cache: CacheConfig
    stores: dict[str, StoreConfig]
    buckets: tuple[BucketConfig, ...]
    s3: GatewayConfig
    auth: AuthConfig
    mount: MountConfig | None  # None: no table, no mount
    node: SupervisorConfig
    log: LogConfig
    text: ConfigText = dataclasses.field(repr=False)

    @property
    def creatable_store(self) -> str | None:
        """The store in which new buckets are made."""
        return next((name for name, store in self.stores.items() if store.creatable), None)

    @property
    def creatable_write_mode(self) -> WriteMode:
        """The write mode of new buckets."""
        name = self.creatable_store
        return WriteMode.WRITE_THROUGH if name is None else self.stores[name].write_mode


def load(path: Path | None) -> NodeConfig:
    """Read and check the file, as config_text.find() finds it. ConfigError if anything is wrong."""
    return parse(config_text.find(path))


def parse(text: ConfigText) -> NodeConfig:
    """The configuration in the text, checked."""
    try:
        document = tomllib.loads(text.toml)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{text.source}: is not TOML: {exc}") from exc
    place = Place(text.source, Path(text.base), text.private)
    if text.mount and isinstance(document.setdefault("mount", {}), dict):
        document["mount"] |= text.mount
    known = [field.name for field in dataclasses.fields(NodeConfig) if field.name != "text"]
    for name in document:
        if name not in known:
            raise unknown_key(name, known, place)

    def table(name: str) -> dict[str, Any]:
        found = document.get(name, {})
        if not isinstance(found, dict):
            raise place.error(name, f"must be a table: write [{name}]")
        return found

    config = NodeConfig(
        cache=read(CacheConfig, table("cache"), place.under("cache")),
        stores={
            name: read_store(store, place.under("stores").under(name))
            for name, store in table("stores").items()
        },
        buckets=tuple(
            read(BucketConfig, bucket, place.under(f"buckets[{number}]"))
            for number, bucket in enumerate(_list_of_tables(document, "buckets", place), start=1)
        ),
        s3=read(GatewayConfig, table("s3"), place.under("s3")),
        auth=read(AuthConfig, table("auth"), place.under("auth")),
        mount=read(MountConfig, document["mount"], place.under("mount"))
        if "mount" in document
        else None,
        node=read(SupervisorConfig, table("node"), place.under("node")),
        log=read(LogConfig, table("log"), place.under("log")),
        text=text,
    )
    for check in (_check_buckets, _check_paths, _check_auth):
        check(config, place)
    return config


def _list_of_tables(document: Mapping[str, Any], name: str, place: Place) -> list[dict[str, Any]]:
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise place.error(name, f"must be a list of tables: write [[{name}]]")
    return found


# -------------------------------------------------------------------- what no single table can know


def _check_buckets(config: NodeConfig, place: Place) -> None:
    creatable = [name for name, store in config.stores.items() if store.creatable]
    if len(creatable) > 1:
        raise place.under(f"stores.{creatable[1]}").error(
            "creatable", f"store {creatable[0]} is creatable already; new buckets go to one store"
        )
    seen: dict[str, int] = {}
    for number, bucket in enumerate(config.buckets, start=1):
        here = place.under(f"buckets[{number}]")
        if bucket.name in seen:
            raise here.error("name", f"{bucket.name} is taken by buckets[{seen[bucket.name]}]")
        seen[bucket.name] = number
        if bucket.store not in config.stores:
            known = ", ".join(sorted(config.stores)) or "none"
            raise here.error(
                "store", f"no table [stores.{bucket.store}]; stores in this file: {known}"
            )
        for other_number, other in enumerate(config.buckets[: number - 1], start=1):
            if other.store == bucket.store and _nested(other.prefix, bucket.prefix):
                raise here.error(
                    "prefix",
                    f"overlaps buckets[{other_number}] in store {bucket.store}: one object would "
                    "be cached under two names, and the two would not agree",
                )
        if bucket.store in creatable and not bucket.prefix:
            raise here.error(
                "prefix",
                f"is empty, but new buckets are made inside store {bucket.store}; "
                "give the bucket a prefix, or the new buckets another store",
            )


def _nested(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _check_paths(config: NodeConfig, place: Place) -> None:
    if config.mount is None or not config.mount.enabled:
        return
    for what, path in _directories(config):
        if _contains(path, config.mount.path) or _contains(config.mount.path, path):
            raise place.under("mount").error(
                "path",
                f"{config.mount.path} and {what} {path} contain one another: "
                "the node would wait for itself; keep them apart",
            )


def _directories(config: NodeConfig) -> Iterator[tuple[str, Path]]:
    yield "cache.state_dir", config.cache.state_dir
    for directory in config.cache.directories:
        yield "cache directory", directory.path
    for name, store in config.stores.items():
        if (path := store.directory) is not None:
            yield f"stores.{name}.path", path


def _contains(outer: Path, inner: Path) -> bool:
    # Not resolve(): it would look at the mount point, which may hang.
    return inner == outer or outer in inner.parents


def _check_auth(config: NodeConfig, place: Place) -> None:
    if config.auth.mode != "simple" or config.auth.allow_simple_remote:
        return
    if not is_loopback(config.s3.address):
        raise place.under("auth").error(
            "mode",
            f'"simple" checks no signature, and s3.address {config.s3.address} can be reached from '
            "other machines; use sigv4 (`forebay keys create`), or accept that anybody may read "
            "and write everything with allow_simple_remote = true",
        )


# -------------------------------------------------------------------- showing it


def effective(config: NodeConfig) -> dict[str, Any]:
    """The tables with every default filled in, as plain values, secrets hidden."""
    shown: dict[str, Any] = tables.plain(config)
    shown["stores"] = {name: store.as_table() for name, store in config.stores.items()}
    shown.pop("text")
    return shown


def secrets_of(config: NodeConfig) -> Iterator[str]:
    """Every secret in a configuration, for the log to blank out."""
    return tables.secrets_in(config)
