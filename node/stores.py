"""How a table [stores.NAME] becomes the settings of a store, and which kinds there are.

The module of a kind is loaded when the configuration has such a store: botocore alone takes as long
to load as everything else that the mount process needs to be back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.records import WriteMode
from node.tables import Place, describe_type, plain, read, wrong_choice

if TYPE_CHECKING:
    from cache.stores.opening import StoreConfig as StoreSettings


def _posix() -> type[StoreSettings]:
    from cache.stores.posix import PosixStoreConfig

    return PosixStoreConfig


def _s3() -> type[StoreSettings]:
    from cache.stores.s3 import S3StoreConfig

    return S3StoreConfig


KINDS: Mapping[str, Callable[[], type[StoreSettings]]] = {"posix": _posix, "s3": _s3}
"""By the `type` of a table: what loads the dataclass of its other settings."""

COMMON_KEYS = (
    ("type", "a string", "*required*", "The kind of store."),
    (
        "creatable",
        "true or false",
        "`false`",
        (
            "Make new buckets (CreateBucket, mkdir at the root of the mount) in this store, each "
            "under a prefix of its name. At most one store."
        ),
    ),
    (
        "write_mode",
        describe_type(WriteMode),
        '`"write_through"`',
        "When a write to the buckets that were made in this store is acknowledged.",
    ),
)
"""What every table [stores.NAME] holds: key, type, default, meaning, for the reference page."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """A table [stores.NAME]: what every kind has, and the settings of its own kind."""

    type: str
    creatable: bool
    write_mode: WriteMode  # of the buckets that are made in it
    settings: StoreSettings

    @property
    def directory(self) -> Path | None:
        """Where a store of files on this machine keeps them."""
        return getattr(self.settings, "path", None)

    @property
    def location(self) -> str:
        """For people: where this store is."""
        if self.directory is not None:
            return str(self.directory)
        table = plain(self.settings)
        server = table["endpoint_url"] or f"Amazon S3 in {table['region']}"
        return f"s3://{table['bucket']}/{table['prefix']} at {server}"

    def as_table(self) -> dict[str, Any]:
        """The table as a file would hold it, secrets hidden."""
        common = {
            "type": self.type,
            "creatable": self.creatable,
            "write_mode": self.write_mode.value,
        }
        return {**common, **plain(self.settings)}


@dataclass(frozen=True, slots=True)
class _Common:
    """The keys of every table [stores.NAME] but `type`."""

    creatable: bool = False
    write_mode: WriteMode = WriteMode.WRITE_THROUGH


def read_store(table: Any, place: Place) -> StoreConfig:
    """Check one table [stores.NAME]. ConfigError when something in it is wrong."""
    if not isinstance(table, dict):
        raise place.error("(value)", "must be a table")
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise place.error("type", wrong_choice(kind, KINDS))
    common_keys = [field.name for field in dataclasses.fields(_Common)]
    common = read(_Common, {k: v for k, v in table.items() if k in common_keys}, place)
    own = {k: v for k, v in table.items() if k not in (*common_keys, "type")}
    settings = read(KINDS[kind](), own, place, also=(*common_keys, "type"))
    return StoreConfig(kind, common.creatable, common.write_mode, settings)
