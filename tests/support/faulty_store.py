"""A store that does what stores should not, for the keys that a test names so.

`break_by_name` wraps the store of `mount.mounted(prepare=...)`. Calls for keys that begin with
- `broken` raise what no store may raise;
- `hung` do not return while the test holds `hanging()`;
- a name in REFUSALS fail with that error while `refusing()` is held.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cache.errors import StoreError, StoreFull, StoreOverQuota, StoreRefused, StoreUnavailable
from cache.stores.base import Store
from tests.support.waiting import wait_until

REFUSALS: dict[str, type[StoreError]] = {
    "denied": StoreRefused,
    "full": StoreFull,
    "over-quota": StoreOverQuota,
    "silent": StoreUnavailable,
}
_CALLS = ("head", "read", "begin_upload", "put", "patch", "list", "delete")


class FaultyStore:
    def __init__(self, store: Store, lock: Path) -> None:
        self._store = store
        self._lock = lock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._faulty(found) if name in _CALLS else found

    def _faulty(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(key: bytes, *args: Any, **kwargs: Any) -> Any:
            if key.startswith(b"broken"):
                raise ZeroDivisionError("injected")
            if key.startswith(b"hung"):
                self._lock.with_name("hung").touch()
                with self._lock.open("ab") as held_by_the_test:
                    fcntl.flock(held_by_the_test, fcntl.LOCK_SH)
            for name, error in REFUSALS.items():
                if key.startswith(name.encode()) and self._lock.with_name("refusing").exists():
                    raise error("injected")
            return call(key, *args, **kwargs)

        return faulty


def break_by_name(store: Store, home: Path) -> FaultyStore:
    return FaultyStore(store, home / "hang")


@contextlib.contextmanager
def hanging(home: Path) -> Iterator[None]:
    """Let calls for keys that begin with `hung` hang."""
    with (home / "hang").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def refusing(home: Path) -> Iterator[None]:
    """Let calls for keys that begin with a name in REFUSALS fail."""
    mark = home / "refusing"
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def wait_until_one_hangs(home: Path, timeout_s: float = 60) -> None:
    """Return when a call hangs in the store."""
    wait_until((home / "hung").exists, "a call for a key that hangs", timeout_s)
