"""Where a gateway listens: bound sockets, and the TLS of those that serve HTTPS.

TLS 1.2 and later. The certificate is loaded anew when its file or its key's was changed, for the
connections that come then: who renews certificates needs to tell nobody. A pair that does not fit,
as in the middle of a renewal, is not taken; the one before serves on.

Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_LOOK_S = 2.0
"""Seconds between looks at the files of a certificate."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An address and a port; HTTPS if there is a certificate."""

    address: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    def socket(self) -> socket.socket:
        """A socket bound to the address, which the node's other gateways can bind, too."""
        found = socket.getaddrinfo(
            self.address, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(where)
        except BaseException:
            listening.close()
            raise
        return listening

    @contextlib.asynccontextmanager
    async def tls(self, look_s: float = _LOOK_S) -> AsyncIterator[ssl.SSLContext | None]:
        """The TLS to serve with, kept as new as its files during the body; None for plain HTTP.

        OSError, of which ssl.SSLError is one, if the files cannot be used."""
        if self.certificate is None or self.key is None:
            yield None
            return
        seen = _state(self.certificate, self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.certificate, self.key)
        renewing = asyncio.create_task(
            _keep_new(context, self.certificate, self.key, seen, look_s), name="certificate"
        )
        try:
            yield context
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])


_State = tuple[tuple[int, int, int], ...]


def _state(*files: Path) -> _State:
    """What changes when one of the files is changed or replaced."""
    stats = [file.stat() for file in files]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


async def _keep_new(
    context: ssl.SSLContext, certificate: Path, key: Path, seen: _State, look_s: float
) -> None:
    while True:
        await asyncio.sleep(look_s)
        try:
            state = _state(certificate, key)
            if state == seen:
                continue
            # Tried apart first: a certificate without its key would leave the other half loaded.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            context.load_cert_chain(certificate, key)
        except OSError as exc:
            log.warning("the certificate %s is not taken: %s", certificate, exc)
            state = seen if isinstance(exc, FileNotFoundError) else state
        else:
            log.info("took the new certificate %s", certificate)
        seen = state
