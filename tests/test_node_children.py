"""One child under the supervisor: restarts, hanging, stopping, giving up.

The child is a real process with a real lifeline; only its work is made up, so that it can hang
and die on demand.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.children import Child, State
from node.config_text import ConfigText
from node.errors import ExitCode
from node.lifeline import Endpoint, Start
from node.processes import ChildProcess
from node.spares import Spares
from node.supervisor_config import SupervisorConfig

PREAMBLE = """
import faulthandler, os, signal, sys, threading, time
from node.lifeline import Beat, ChildEnd, Failed, Ready, Report, Start, Stop
faulthandler.enable()
lifeline = ChildEnd(int(sys.argv[2]))
start = lifeline.receive()
assert isinstance(start, Start)
"""
SERVES = """
lifeline.send(Ready({"port": str(start.endpoint.port)}))
assert isinstance(lifeline.receive(), Stop)
lifeline.send(Report({"names": 3}))
"""
DEADLINE_S = 60
TRIES = 5


def start_message() -> Start:
    return Start("test", ConfigText("", "none", "/", private=True), endpoint=Endpoint(4711))


def make_child(tmp_path: Path, body: str, config: SupervisorConfig | None = None) -> Child:
    script = tmp_path / "child.py"
    script.write_text(PREAMBLE + body)
    spares = Spares((sys.executable, str(script)))
    return Child(start_message(), config or SupervisorConfig(), spares=spares)


@asynccontextmanager
async def running(child: Child, grace_s: float = 30.0) -> AsyncIterator[None]:
    """grace_s: how long it may take to end; short for one that does not."""
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.keep_running)
            yield
            await child.stop(grace_s)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a process outside tells of itself by files
            await trio.sleep(0.01)


def run(function: Callable[[], object]) -> None:
    trio.run(function)  # type: ignore[arg-type]


def test_it_is_told_what_to_run_and_reports(tmp_path: Path) -> None:
    child = make_child(tmp_path, SERVES)

    async def main() -> None:
        async with running(child):
            await child.first_ready.wait()
            assert child.state is State.SERVING
            assert child.facts == {"port": "4711"}
        assert child.state is State.ENDED
        assert child.report == {"names": 3}
        assert child.pid is None

    run(main)


def test_a_killed_child_is_back_within_a_second(tmp_path: Path) -> None:
    """The best of some: other tests may have the machine busy for a while."""
    took_s: list[float] = []

    async def main() -> None:
        child = make_child(tmp_path, SERVES)
        async with running(child):
            await child.first_ready.wait()
            for restart in (1, 2):
                killed, pid = time.monotonic(), child.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await until(lambda r=restart: child.restarts == r)  # type: ignore[misc]
                await until(lambda: child.state is State.SERVING)
                took_s.append(time.monotonic() - killed)
                assert child.pid != pid
                assert child.last_end == "killed by SIGKILL"

    for _ in range(TRIES):
        run(main)
        if min(took_s) < 1:
            break
    assert min(took_s) < 1


def waiting_spare(child: Child) -> ChildProcess:
    return child._spares._waiting["test"][0]


def test_a_spare_takes_over_and_is_replaced(tmp_path: Path) -> None:
    child = make_child(tmp_path, SERVES)

    async def main() -> None:
        async with running(child):
            await child.first_ready.wait()
            child._spares.keep(["test"])
            for restart in (1, 2):
                spare = waiting_spare(child).pid
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                await until(lambda r=restart: child.restarts == r)  # type: ignore[misc]
                await until(lambda: child.state is State.SERVING)
                assert child.pid == spare
            last = waiting_spare(child)
        child._spares.close()
        assert last.has_ended

    run(main)


def test_a_spare_that_died_is_passed_over(tmp_path: Path) -> None:
    child = make_child(tmp_path, SERVES)

    async def main() -> None:
        async with running(child):
            await child.first_ready.wait()
            child._spares.keep(["test"])
            spare = waiting_spare(child)
            os.kill(spare.pid, signal.SIGKILL)
            await spare.wait_gone()
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            await until(lambda: child.restarts == 1)
            await until(lambda: child.state is State.SERVING)
        child._spares.close()

    run(main)


def test_one_that_keeps_dying_waits_longer_each_time(tmp_path: Path) -> None:
    died = tmp_path / "died"
    child = make_child(
        tmp_path,
        f"lifeline.send(Ready()); open({str(died)!r}, 'a').write('x'); sys.exit(9)",
    )

    async def main() -> None:
        async with running(child):
            await until(lambda: child.state is State.WAITING)
            assert died.read_text() == "xxx"
            assert child.last_end == "exit code 9"
            await until(lambda: died.read_text() == "xxxx")
            await until(lambda: child.state is State.WAITING)
            # stop() does not wait for the pause to end
        assert child.state is State.ENDED

    run(main)


def test_one_that_never_serves_is_given_up(tmp_path: Path) -> None:
    child = make_child(tmp_path, "sys.exit(9)")

    async def main() -> None:
        async with running(child):
            await child.first_ready.wait()
            assert "ends before it serves (exit code 9)" in str(child.failure)

    run(main)


def test_an_operators_mistake_ends_the_start_at_once(tmp_path: Path) -> None:
    child = make_child(tmp_path, "lifeline.send(Failed('no such disk', 3)); sys.exit(3)")

    async def main() -> None:
        async with running(child):
            await child.first_ready.wait()
            assert str(child.failure) == "no such disk"
            assert child.failure is not None
            assert child.failure.code is ExitCode.CONFIGURATION
        assert child.restarts == 0

    run(main)


def test_a_hanging_child_is_killed_and_shows_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    child = make_child(
        tmp_path,
        f"""
lifeline.send(Ready())
def the_place_where_it_hangs():
    while True:
        time.sleep(1)
if not os.path.exists({str(first)!r}):
    open({str(first)!r}, "w").close()
    the_place_where_it_hangs()
while True:
    lifeline.send(Beat())
    time.sleep(0.1)
""",
        SupervisorConfig(hang_timeout_s=3),
    )

    async def main() -> None:
        async with running(child, grace_s=1):
            await until(lambda: child.restarts == 1)
            assert child.last_end == "killed by SIGABRT"
            await until(lambda: child.state is State.SERVING)
            await until(lambda: child.silent_s < 1)

    run(main)
    assert "the_place_where_it_hangs" in capfd.readouterr().err


def test_one_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    child = make_child(
        tmp_path,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); lifeline.send(Ready()); time.sleep(600)",
    )

    async def main() -> None:
        async with running(child, grace_s=1):
            await child.first_ready.wait()
        assert child.last_end == "killed by SIGKILL"

    run(main)


def test_a_child_outlives_no_supervisor_that_ends_by_an_error(tmp_path: Path) -> None:
    child = make_child(tmp_path, SERVES)
    pids: list[int | None] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.keep_running)
            await child.first_ready.wait()
            pids.append(child.pid)
            nursery.cancel_scope.cancel()

    run(main)
    assert pids[0] is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
