"""What leaves a handler: an answer, or an errno. Anything else would end the whole mount.

Every handler of `Operations` is wrapped by `answered`; it notes, too, who waits for the answer.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from cache.errors import CacheError
from fuse.errors import errno_of
from fuse.interrupts import ASKER, Interrupted

log = logging.getLogger(__name__)

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def answered(
    handler: Callable[Concatenate[S, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Let nothing but FUSEError leave a handler."""

    @functools.wraps(handler)
    async def answer(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        asked = args[-1] if args else None
        ASKER.set(asked.pid if isinstance(asked, pyfuse3.RequestContext) else 0)
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Interrupted:
            raise pyfuse3.FUSEError(errno.EINTR) from None
        except CacheError as exc:
            code = errno_of(exc)
            # An errno such as ENOENT says it all to the program; of these the operator must know.
            level = logging.WARNING if code in (errno.EIO, errno.ETIMEDOUT) else logging.DEBUG
            log.log(level, "%s: %s: %s", handler.__name__, errno.errorcode[code], exc)
            raise pyfuse3.FUSEError(code) from exc
        except Exception as exc:
            log.exception("%s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from exc

    return answer
