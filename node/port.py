"""An S3 port, held for the node while its gateways come and go.

Gateways share one port with SO_REUSEPORT, and so would, without a word, two nodes that were given
the same one: each would get half of the other's clients. So the supervisor first binds the port
alone, which fails if anybody has it, then holds it bound, not listening: connections go only to the
gateways, and port 0 (any free port, for tests) is the same number for all of them.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from node.errors import ExitCode, OperatorError


@contextlib.contextmanager
def reserved(address: str, port: int, setting: str = "s3.port") -> Iterator[int]:
    """Hold the port for the duration of the body; yields its number. `setting` chooses it.

    OperatorError if the address is not one of this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, where = found[0]
        with socket.socket(family, kind) as alone:
            # Connections in TIME_WAIT from before a restart are nobody's claim to the port.
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
            number: int = alone.getsockname()[1]
        held = socket.socket(family, kind)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((where[0], number, *where[2:]))
    except OSError as exc:
        raise OperatorError(
            f"cannot serve S3 on {address} port {port}: {exc.strerror}; "
            f"free it, or choose another s3.address and {setting}",
            ExitCode.CONFIGURATION,
        ) from exc
    with held:
        yield number
