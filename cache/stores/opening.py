"""Opens the store that a configuration describes."""

from __future__ import annotations

from cache.stores.base import Store
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.stores.s3 import S3Store, S3StoreConfig

StoreConfig = PosixStoreConfig | S3StoreConfig


def open_store(config: StoreConfig) -> Store:
    """The opened store; the caller closes it. A directory must be there (StoreUnavailable), a
    bucket is not asked for before it is used."""
    match config:
        case PosixStoreConfig():
            return PosixStore(config)
        case S3StoreConfig():
            return S3Store(config)
