"""Settings of the supervisor and of what it does to its children; the table [node].

A module of its own, so that a child reads its configuration without loading the supervisor.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    gateways: int | None = None
    """Processes that serve S3, sharing one port; unset: one for each core."""

    drain_timeout_s: float = 30.0
    """Longest time that a stop takes: requests under way end, the mount goes, the write-back queue
    is persisted. What is left then stays in the queue, on disk, for the next start."""

    hang_timeout_s: float = 30.0
    """A process whose main loop has not run for this long is killed and started again."""

    start_timeout_s: float = 60.0
    """A process that does not serve after this long is killed and started again."""

    spares: bool = True
    """Keep a loaded process of each kind waiting to take the place of one that dies, which is then
    back at once also on a busy machine. Each takes about 60 MB of memory."""

    def __post_init__(self) -> None:
        if self.gateways is not None and not 1 <= self.gateways <= 256:
            raise ValueError(f"gateways must be from 1 to 256, not {self.gateways}")
        if not 0 <= self.drain_timeout_s <= 86400:
            raise ValueError("drain_timeout_s must be from 0 to 86400")
        if self.hang_timeout_s < 3:
            raise ValueError(
                "hang_timeout_s must be at least 3: a live process beats once a second"
            )
        if self.start_timeout_s < 1:
            raise ValueError("start_timeout_s must be at least 1")
