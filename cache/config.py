"""Configuration of the cache: the dataclasses, their defaults, their limits.

Every field is followed by one sentence that says what it means; `docs/configuration.md` is
generated from them. `node/config.py` reads them from the TOML file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cache.records import WriteMode

GIB = 1 << 30
MIB = 1 << 20


class ConfigError(ValueError):
    """A setting that cannot work; the message names the field and says what to do."""


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    path: Path
    """Directory that holds segment files; made if missing, mode 0700."""
    capacity_bytes: int | None = None
    """Most that the segments in it may take; unset: 80% of the file system it is on."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    state_dir: Path
    """Directory of the index, the sockets and, unless directories are given, the segments."""
    directories: tuple[CacheDirectory, ...] = ()
    """Cache directories, usually one for each NVMe disk; unset: `segments` in state_dir."""
    capacity_bytes: int | None = None
    """Capacity of the default cache directory; unset: 80% of the file system it is on."""
    segment_bytes: int | None = None
    """Size of a segment file; unset: 256 MiB, less where the capacity is small."""
    index_bytes: int = 64 * GIB
    """Most that the index may grow to (a sparse file: only what is used takes space)."""
    high_watermark: float = 0.95
    """Share of the capacity in use at which eviction starts."""
    low_watermark: float = 0.92
    """Share of the capacity in use at which eviction ends."""
    policy: str = "s3fifo"
    """What is evicted first: `s3fifo` (resists scans), `lru` or `fifo`."""
    dirty_soft_limit: float = 0.40
    """Share of the capacity in dirty bytes at which writers are slowed down."""
    dirty_hard_limit: float = 0.60
    """Share of the capacity in dirty bytes at which write-back writers are refused (SlowDown)."""
    persist_workers: int = 8
    """Names persisted to the stores at the same time."""
    persist_delay_ms: int = 1000
    """Age at which a dirty name is persisted: what is removed or written again by then never goes
    to the store. Less when dirty bytes come near their soft limit."""
    fetch_workers: int = 16
    """Ranges that readers wait for, fetched from the stores at the same time, in each process; up
    to as many again are fetched ahead of readers."""
    fetch_deadline_s: float = 30.0
    """Longest that a reader waits for one range from a store."""
    default_uid: int = 0
    """Owner of what arrives without one: objects from S3 clients or from the store."""
    default_gid: int = 0
    """Group of what arrives without one."""
    file_mode: int = 0o644
    """Permission bits of objects that arrive without any."""
    directory_mode: int = 0o755
    """Permission bits of directories that arrive without any."""
    sync: bool = True
    """Sync before acknowledging. False loses acknowledged data on a power cut: only for tests."""

    def __post_init__(self) -> None:
        if not 0 < self.low_watermark < self.high_watermark <= 1:
            raise ConfigError("low_watermark must be above 0 and below high_watermark, at most 1")
        if not 0 < self.dirty_soft_limit <= self.dirty_hard_limit < 1:
            raise ConfigError("dirty_soft_limit must be at most dirty_hard_limit, which is below 1")
        if self.policy not in ("s3fifo", "lru", "fifo"):
            raise ConfigError(f"policy is {self.policy!r}; choose s3fifo, lru or fifo")
        if self.segment_bytes is not None and self.segment_bytes < MIB:
            raise ConfigError("segment_bytes must be at least 1 MiB")
        if self.index_bytes < 16 * MIB:
            raise ConfigError("index_bytes must be at least 16 MiB")

    @property
    def index_dir(self) -> Path:
        return self.state_dir / "index"

    @property
    def run_dir(self) -> Path:
        return self.state_dir / "run"

    @property
    def change_socket(self) -> Path:
        """Where the mount process listens for what its kernel must forget."""
        return self.run_dir / "changes.sock"


@dataclass(frozen=True, slots=True)
class PrefixMode:
    prefix: str
    """Keys that begin with this have the mode; the longest matching prefix wins."""
    write_mode: WriteMode
    """As for a bucket."""


@dataclass(frozen=True, slots=True)
class BucketConfig:
    name: str
    """Name of the bucket, and of its directory at the root of the mount."""
    store: str
    """Name of the configured store that holds its objects."""
    prefix: str = ""
    """Keys in the store begin with this; empty for the whole store."""
    write_mode: WriteMode = WriteMode.WRITE_THROUGH
    """When a write is acknowledged: write_through, write_back, write_around or transient."""
    prefixes: tuple[PrefixMode, ...] = ()
    """Other write modes below some prefixes."""
    revalidate: str = "never"
    """When the store is asked for changes by others: `never`, `always`, or an age in seconds."""
    read_only: bool = False
    """Refuse every change through either door."""

    def __post_init__(self) -> None:
        self.revalidate_after_ns()

    def revalidate_after_ns(self) -> int | None:
        """Age at which knowledge of the store is stale; None: never."""
        if self.revalidate == "never":
            return None
        if self.revalidate == "always":
            return 0
        try:
            return int(float(self.revalidate) * 1e9)
        except ValueError:
            raise ConfigError(
                f"bucket {self.name}: revalidate is {self.revalidate!r}; "
                "write `never`, `always` or a number of seconds"
            ) from None


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """All that a process needs to open the volume. Stores are given as open objects."""

    cache: CacheConfig
    buckets: tuple[BucketConfig, ...] = ()
    creatable_store: str | None = None
    """Name of the store in which CreateBucket and mkdir at the root make new buckets."""
    creatable_write_mode: WriteMode = WriteMode.WRITE_THROUGH
