"""The volume of a configuration, opened in this process: by each child, and by commands."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from cache.config import VolumeConfig
from node.config import NodeConfig
from node.errors import ConfigError, ExitCode, OperatorError
from node.stores import StoreConfig

if TYPE_CHECKING:
    from cache.stores.base import Store, StoredAttributes
    from cache.volume import Volume

log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_volume(config: NodeConfig, *, is_mount: bool = False) -> Iterator[Volume]:
    """The volume and its stores, closed afterwards. A store that is out of reach keeps nobody from
    what is cached: it is opened when it is first needed, and tried again then."""
    from cache.volume import Volume  # the whole cache, which the supervisor does not need

    stores = {name: LateStore(name, store) for name, store in config.stores.items()}
    volume = Volume.open(
        VolumeConfig(
            cache=config.cache,
            buckets=config.buckets,
            creatable_store=config.creatable_store,
            creatable_write_mode=config.creatable_write_mode,
        ),
        cast("dict[str, Store]", stores),
        is_mount=is_mount,
    )
    try:
        yield volume
    finally:
        volume.close()
        for store in stores.values():
            store.close()


@contextlib.contextmanager
def existing_volume(config: NodeConfig) -> Iterator[Volume]:
    """As open_volume, for commands that only look: OperatorError where no node ever ran."""
    if not config.cache.index_dir.exists():
        raise OperatorError(
            f"there is nothing in {config.cache.state_dir} yet; "
            "start a node with `forebay serve`, or name its configuration with --config",
            ExitCode.NOT_FOUND,
        )
    with open_volume(config) as volume:
        yield volume


def check_first_start(config: NodeConfig) -> None:
    """Before a node's very first start its stores of files must be there: what is missing then is
    misspelt. Later it is out of reach, and what is cached is served. ConfigError."""
    if config.cache.index_dir.exists():
        return
    for name, store in config.stores.items():
        if store.directory is not None and not store.directory.is_dir():
            raise ConfigError(
                f"{config.text.source}: [stores.{name}] path: {store.directory} is not a "
                "directory; make it, or mount what belongs there"
            )


def look_into(config: StoreConfig) -> None:
    """Ask a store for its first key. A StoreError if it is not there, or does not let us in."""
    store = LateStore("", config)
    try:
        store.list(b"", delimiter=True, limit=1)
    finally:
        store.close()


class LateStore:
    """A store that is opened at its first use, again and again until that works.

    Has every attribute of the opened one (`cache.stores.base.Store`); asking for any of them
    raises StoreUnavailable while it cannot be opened. Thread-safe.
    """

    def __init__(self, name: str, config: StoreConfig) -> None:
        self._name = name
        self._config = config
        self._lock = threading.Lock()
        self._store: Store | None = None

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._opened(), attribute)

    def check_attributes(self, attributes: StoredAttributes) -> None:
        """Asked inside commits, where no store may be opened: of one that is not yet, nothing is
        known."""
        if self._store is not None:
            self._store.check_attributes(attributes)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Store:
        if self._store is not None:
            return self._store
        with self._lock:
            if self._store is None:
                # Here, since it loads the clients of all kinds of store.
                from cache.stores.opening import open_store

                self._store = open_store(self._config.settings)
                log.debug("opened store %s", self._name)
            return self._store
