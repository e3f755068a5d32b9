"""Object lock: for how long a version may not be removed.

Pure. A lock is one text among a version's own attributes (StoredAttributes.own), so that it is in
the store with the version: `MODE UNTIL HOLD`, where MODE is GOVERNANCE, COMPLIANCE or `-`, UNTIL
seconds since 1970, HOLD `ON`, `OFF` or `-`. A text that is none of these locks for ever: nobody
knows what it said.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import msgspec

from cache.errors import ObjectLocked
from cache.records import ObjectAttributes

GOVERNANCE = "GOVERNANCE"
COMPLIANCE = "COMPLIANCE"

_LOCK = re.compile(r"(GOVERNANCE|COMPLIANCE|-) (\d{1,12}) (ON|OFF|-)", re.ASCII)
_FOR_EVER_S = 10**12 - 1


@dataclass(frozen=True, slots=True)
class Lock:
    """What is said of one version."""

    mode: str = ""  # GOVERNANCE, COMPLIANCE, or empty without retention
    until_s: int = 0  # seconds since 1970
    hold: str = ""  # legal hold: ON, OFF, or empty where nobody ever said

    def retains(self, now_s: float) -> bool:
        """Whether the retention is still running."""
        return bool(self.mode) and now_s < self.until_s


def lock_of(attributes: ObjectAttributes) -> Lock:
    text = attributes.own.get("lock")
    if text is None:
        return Lock()
    match = _LOCK.fullmatch(text)
    if match is None:
        return Lock(COMPLIANCE, _FOR_EVER_S)
    return Lock(match[1].strip("-"), int(match[2]), match[3].strip("-"))


def with_lock(attributes: ObjectAttributes, lock: Lock) -> ObjectAttributes:
    """The attributes with this lock in place of theirs."""
    own = {name: value for name, value in attributes.own.items() if name != "lock"}
    if lock != Lock():
        own["lock"] = f"{lock.mode or '-'} {lock.until_s} {lock.hold or '-'}"
    return msgspec.structs.replace(attributes, own=own)


def check_removable(attributes: ObjectAttributes, *, bypass: bool) -> None:
    """ObjectLocked while the version may not be removed. bypass: by somebody who may, and says
    that he wants to, remove what GOVERNANCE protects."""
    if "lock" not in attributes.own:
        return
    lock = lock_of(attributes)
    if lock.hold == "ON":
        raise ObjectLocked("the version is under legal hold")
    if lock.retains(time.time()) and not (lock.mode == GOVERNANCE and bypass):
        raise ObjectLocked(f"the version is retained ({lock.mode}) until {lock.until_s}")
