"""The control socket: how `forebay status` and `flush` reach the running supervisor.

A Unix socket at state_dir/run/control.sock, mode 0600 in a directory of mode 0700: who can open
it may ask. One JSON object a line: {"ask": "status"} is answered by one line. The supervisor's end
runs on its trio loop; ask() is the blocking client for commands.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from node.errors import ExitCode, OperatorError

log = logging.getLogger(__name__)

_MAX_QUESTION_BYTES = 4096
_QUESTION_TIMEOUT_S = 5.0

Answer = Callable[[], dict[str, Any]]


def socket_path(run_dir: Path) -> Path:
    return run_dir / "control.sock"


@contextlib.asynccontextmanager
async def listening(run_dir: Path, answers: Mapping[str, Answer]) -> AsyncIterator[None]:
    """Answer questions while the body runs. The caller holds the supervisor's lock, so a socket
    that is already there was left by a killed one."""
    path = socket_path(run_dir)
    path.unlink(missing_ok=True)
    server = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _address(path) as address:
        await server.bind(address)
    path.chmod(0o600)
    server.listen(16)

    async def serve(stream: trio.SocketStream) -> None:
        with trio.move_on_after(_QUESTION_TIMEOUT_S):
            await _answer(stream, answers)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(server)])
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for a socket's path of any length: unix(7) allows 107 bytes, and a descriptor of
    the directory stands for the rest."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def _answer(stream: trio.SocketStream, answers: Mapping[str, Answer]) -> None:
    """One question, one answer. A client that goes away, or talks nonsense, is only its own
    problem."""
    async with stream:
        question = b""
        try:
            while not question.endswith(b"\n") and len(question) < _MAX_QUESTION_BYTES:
                chunk = await stream.receive_some()
                if not chunk:
                    return
                question += chunk
            await stream.send_all(json.dumps(_reply(question, answers)).encode() + b"\n")
        except trio.BrokenResourceError:
            log.debug("a control client went away")


def _reply(question: bytes, answers: Mapping[str, Answer]) -> dict[str, Any]:
    try:
        asked = json.loads(question)["ask"]
        answer = answers[asked]
    except (ValueError, KeyError, TypeError):
        return {"error": f"not a question; ask one of {', '.join(sorted(answers))}"}
    return answer()


def ask(run_dir: Path, question: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """The running supervisor's answer. OperatorError (NOT_RUNNING) when there is none."""
    path = socket_path(run_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _address(path) as address:
                connection.connect(address)
            connection.sendall(json.dumps({"ask": question}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise OperatorError(
                f"no node is running on {run_dir.parent}; start it with `forebay serve`",
                ExitCode.NOT_RUNNING,
            ) from exc
        except OSError as exc:
            raise OperatorError(
                f"the node on {run_dir.parent} does not answer: {exc}", ExitCode.NOT_RUNNING
            ) from exc
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError as exc:
        raise OperatorError(
            f"the node on {run_dir.parent} ended while it was asked", ExitCode.NOT_RUNNING
        ) from exc
    if "error" in answer:
        raise OperatorError(str(answer["error"]))
    return answer
