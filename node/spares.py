"""A process of each role in waiting, its modules loaded, to take the place of one that dies.

Starting Python and loading modules is nearly all of the time that a restart takes (half a second
on an idle machine, several on a busy one), and the promise is a second. A spare has opened nothing
and holds no lock; it waits on its lifeline for its Start message. On the supervisor's thread.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from node.processes import PROGRAM, ChildProcess

log = logging.getLogger(__name__)


class Spares:
    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self._waiting: defaultdict[str, list[ChildProcess]] = defaultdict(list)
        self._wanted: set[str] = set()

    @property
    def pids(self) -> dict[str, int]:
        """The spares that wait, by role."""
        return {role: waiting[0].pid for role, waiting in self._waiting.items() if waiting}

    def prepare(self, roles: Iterable[str]) -> None:
        """Start one for each, to be taken soon: at the start of the node they load side by side,
        all its gateways, too."""
        for role in roles:
            self._waiting[role].append(ChildProcess(role, self._program))

    def keep(self, roles: Iterable[str]) -> None:
        """From now on have a spare of each of these roles."""
        self._wanted |= set(roles)
        for role in self._wanted:
            self.refill(role)

    def take(self, role: str) -> ChildProcess:
        """A process for the role: its spare, else one that is started now."""
        if self._waiting[role]:
            spare = self._waiting[role].pop()
            if not spare.has_ended:
                return spare
            log.warning("the spare %s had ended (%s)", role, spare.how_it_ended())
            spare.close()
        return ChildProcess(role, self._program)

    def refill(self, role: str) -> None:
        """Have a new spare where one is wanted and was taken. Does not wait for it to load."""
        if role in self._wanted and not self._waiting[role]:
            self._waiting[role].append(ChildProcess(role, self._program))

    def close(self) -> None:
        """End them all, and want no more."""
        self._wanted.clear()
        for waiting in self._waiting.values():
            while waiting:
                waiting.pop().close()
