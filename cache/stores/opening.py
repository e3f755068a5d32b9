"""Opens the store that a configuration describes, and loads the client of its kind only: that of S3
takes 15 MB and a tenth of a second in each process."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from cache.stores.base import Store
from cache.stores.posix import PosixStore, PosixStoreConfig

if TYPE_CHECKING:
    from cache.stores.s3 import S3StoreConfig

StoreConfig: TypeAlias = "PosixStoreConfig | S3StoreConfig"


def open_store(config: StoreConfig) -> Store:
    """The opened store; the caller closes it. A directory must be there (StoreUnavailable), a
    bucket is not asked for before it is used."""
    if isinstance(config, PosixStoreConfig):
        return PosixStore(config)

    from cache.stores.s3 import S3Store

    return S3Store(config)
