"""How pyfuse3 waits for the kernel's next request: it looks before it asks the loop.

pyfuse3 takes `trio` from its own namespace, where it can be replaced (pyfuse3.asyncio does that),
and needs little of it: a lock among the tasks that wait, and to wait until the device is readable.
By the way of the loop each request costs two rounds of it and three system calls. But a program
that was just answered asks again at once, and many programs together have asked already. So the
task that has answered looks at the device, for some microseconds if requests have been following
each other so closely, and takes the next request without the loop.

After `_IN_A_ROW` requests the loop has its turn, with whatever else waits there. While a handler
waits, another task waits for the device by the way of the loop: the one on guard. The others are
parked until it has left its post. On the loop's thread.
"""

from __future__ import annotations

import os
import select
import time
from typing import Any, Self

import pyfuse3
import trio

_IN_A_ROW = 16
"""Of about 40 microseconds each: a result that comes from a thread meanwhile waits so long."""
_LOOK_S = 40e-6
"""How long a program takes to ask again: two switches of tasks, and what it does itself."""
_SOON_S = 150e-6
"""A request that came so shortly after the last answer, by the way of the loop, makes it worth
looking the next time."""


def install() -> None:
    """Have pyfuse3 wait so; before its main() runs."""
    pyfuse3.trio = Arrivals(look_s=_LOOK_S if (os.cpu_count() or 1) > 1 else 0)  # type: ignore[attr-defined]


class Arrivals:
    """Stands in for the module trio, and for trio.lowlevel, in pyfuse3."""

    def __init__(self, look_s: float) -> None:
        """look_s: 0 where whoever looks keeps the program that is to ask from its processor."""
        self._look_s = look_s
        self._device = select.poll()
        self._fd = -1
        self._in_a_row = 0
        self._follow_closely = True
        self._guarded = False
        self._parked = trio.lowlevel.ParkingLot()
        self._closing = False
        self.lowlevel = self

    def __getattr__(self, name: str) -> Any:
        """All else is trio's."""
        return getattr(trio if hasattr(trio, name) else trio.lowlevel, name)

    class Lock:
        """None: whoever finds the device readable reads it before any other task runs."""

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    async def wait_readable(self, fd: int) -> None:
        """Return when the device can be read; the caller reads before it waits for anything.
        ClosedResourceError at the end of the session."""
        if self._fd < 0:
            self._device.register(fd, select.POLLIN)
            self._fd = fd
        if self._in_a_row < _IN_A_ROW and self._comes_now():
            self._in_a_row += 1
            return
        self._in_a_row = 0
        began = time.perf_counter()
        await self._comes(fd)
        self._follow_closely = time.perf_counter() - began < _SOON_S

    def notify_closing(self, fd: int) -> None:
        self._closing = True
        self._parked.unpark_all()
        trio.lowlevel.notify_closing(fd)

    def _comes_now(self) -> bool:
        """Whether a request is there, or comes within moments."""
        if self._device.poll(0):
            return True
        if self._follow_closely:
            until = time.perf_counter() + self._look_s
            while time.perf_counter() < until:
                if self._device.poll(0):
                    return True
        return False

    async def _comes(self, fd: int) -> None:
        """Wait, on guard or parked behind who is, until a request is there."""
        while True:
            if self._closing:
                raise trio.ClosedResourceError
            if self._guarded:
                await self._parked.park()
            else:
                self._guarded = True
                try:
                    await trio.lowlevel.wait_readable(fd)
                finally:
                    self._guarded = False
                    self._parked.unpark()
            # Somebody else may have taken it.
            if self._device.poll(0):
                return
