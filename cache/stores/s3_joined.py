"""Which ETag an object has that was made of parts, as far as the answer that joined them tells.

Amazon answers CompleteMultipartUpload with the ETag that the object shows from then on: the MD5 of
its parts' MD5s and their number. rclone serve s3 answers with the same, and then shows the MD5 of
the whole, which it first has to read everything for. So what a server does is looked at (HEAD)
until it was seen once, of a large upload or of the probe beside it (`s3_probe`), and believed from
then on; where the answer is not made of the MD5s of what was sent, it proves nothing, and is looked
at each time.

Once for each store. Any thread may call.
"""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Sequence

from cache.etags import multipart_etag

_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Shows(enum.Enum):
    """What a server shows as the ETag of an object that was made of parts."""

    UNKNOWN = enum.auto()
    ANSWERED = enum.auto()
    MD5_OF_ALL = enum.auto()


class JoinedEtags:
    def __init__(self, *, etag_is_md5: bool, shows: Shows = Shows.UNKNOWN) -> None:
        self._etag_is_md5 = etag_is_md5
        self._shows = shows
        self._lock = threading.Lock()
        self._is_probed = False

    def wants_probe(self) -> bool:
        """Whether the caller is to find out what the server does: true at most once."""
        if self._shows != Shows.UNKNOWN or not self._etag_is_md5:
            return False
        with self._lock:
            was_probed, self._is_probed = self._is_probed, True
        return not was_probed

    def told(self, answered: str, tags: Sequence[str], md5_of_all: str | None) -> str | None:
        """The object's ETag, if the answer proves that it holds the parts of these ETags, which are
        known to be the MD5s of what was sent. None: ask."""
        if not self._etag_is_md5 or answered != joined_etag(tags):
            return None
        if self._shows == Shows.ANSWERED:
            return answered
        return md5_of_all if self._shows == Shows.MD5_OF_ALL else None

    def learn(self, answered: str, tags: Sequence[str], md5_of_all: str | None, shown: str) -> None:
        """What the server showed after an answer."""
        if answered != joined_etag(tags):
            return
        if shown == answered:
            self._shows = Shows.ANSWERED
        elif shown == md5_of_all:
            self._shows = Shows.MD5_OF_ALL
        else:
            self._shows = Shows.UNKNOWN


def joined_etag(tags: Sequence[str]) -> str | None:
    """As Amazon makes it of the ETags of the parts; None if these are no MD5s."""
    return multipart_etag(tags) if all(_MD5.fullmatch(tag) for tag in tags) else None


def is_md5_of_all(shown: str, answered: str) -> bool:
    """Whether the ETag can be the MD5 of what was joined under the other."""
    return "-" in answered and _MD5.fullmatch(shown) is not None
