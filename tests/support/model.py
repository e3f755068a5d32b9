"""What a volume must behave like, in dictionaries: the reference of tests/test_cache_model.py.

Both doors' verbs on one tree. A key maps to a file, which hard links share; a directory is there
because it was made (explicit) or because keys imply it. Verbs raise what the volume must raise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cache.errors import (
    IsADirectory,
    NameExists,
    NoSuchKey,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    RenameIntoItself,
)
from cache.records import Kind


@dataclass(eq=False)
class File:
    data: bytes = b""
    kind: Kind = Kind.FILE
    mode: int = 0o644
    unpublished: bytes | None = None  # written through an open handle, not flushed yet

    @property
    def seen_by_mount(self) -> bytes:
        return self.data if self.unpublished is None else self.unpublished


@dataclass(eq=False)
class Directory:
    explicit: bool
    mode: int = 0o755
    data: bytes = b""  # what S3 clients have under its key


@dataclass
class Model:
    files: dict[bytes, File] = field(default_factory=dict)
    directories: dict[bytes, Directory] = field(default_factory=dict)  # paths end in b"/"

    # ------------------------------------------------------------------ the S3 door

    def put(self, key: bytes, file: File) -> None:
        self._imply(parent_of(key))
        if key.endswith(b"/"):
            directory = self.directories.setdefault(key, Directory(explicit=True))
            directory.explicit, directory.data = True, file.data
        else:
            self.files[key] = file

    def delete(self, key: bytes) -> None:
        if key.endswith(b"/"):
            if key in self.directories:
                self.directories[key].explicit = False
                self.directories[key].data = b""
                self._prune(key)
        elif self.files.pop(key, None) is not None:
            self._prune(parent_of(key))

    def sizes(self) -> dict[bytes, int]:
        """Of all that a listing shows."""
        markers = {path: len(d.data) for path, d in self.directories.items() if d.explicit}
        return {key: len(file.data) for key, file in self.files.items()} | markers

    def s3_keys(self) -> list[bytes]:
        """What a listing shows, in order."""
        markers = [path for path, d in self.directories.items() if d.explicit]
        return sorted([*self.files, *markers])

    def get(self, key: bytes) -> bytes:
        """The bytes that S3 clients get. NoSuchKey."""
        if key not in self.s3_keys():
            raise NoSuchKey(key)
        return (self.files.get(key) or self.directories[key]).data

    def listing(self, prefix: bytes, delimiter: bytes, after: bytes) -> list[bytes]:
        """Keys and common prefixes greater than `after`."""
        return grouped_listing(self.s3_keys(), prefix, delimiter, after)

    # ------------------------------------------------------------------ the POSIX door

    def find(self, path: bytes) -> File | Directory:
        """What the mount shows; b"" is the bucket."""
        if not path:
            return Directory(explicit=True)
        above = path.rpartition(b"/")[0]
        self._require_directory(above)
        found = self.directories.get(path + b"/") or self.files.get(path)
        if found is None:
            raise NoSuchKey(path)
        return found

    def _require_directory(self, path: bytes) -> None:
        if not isinstance(self.find(path), Directory):
            raise NotADirectory(path)

    def names(self, path: bytes) -> set[bytes]:
        self._require_directory(path)
        above = path + b"/" if path else b""
        found = {key for key in self.files if parent_of(key) == above}
        found |= {key[:-1] for key in self.directories if parent_of(key) == above}
        names = {key.removeprefix(above) for key in found}
        return {n for n in names if 0 < len(n) <= 255}

    def create(self, path: bytes, new: File | Directory) -> None:
        self._require_directory(path.rpartition(b"/")[0])
        if self._exists(path):
            raise NameExists(path)
        if isinstance(new, Directory):
            self.directories[path + b"/"] = new
        else:
            self.files[path] = new

    def _exists(self, path: bytes) -> bool:
        try:
            self.find(path)
        except NoSuchKey:
            return False
        return True

    def link(self, old: bytes, new: bytes) -> None:
        source = self.find(old)
        self._require_directory(new.rpartition(b"/")[0])
        if isinstance(source, Directory):
            raise NotPermitted(old)
        if self._exists(new):
            raise NameExists(new)
        self.files[new] = source

    def unlink(self, path: bytes) -> None:
        if isinstance(self.find(path), Directory):
            raise IsADirectory(path)
        del self.files[path]
        self._keep(parent_of(path))

    def rmdir(self, path: bytes) -> None:
        if not isinstance(self.find(path), Directory):
            raise NotADirectory(path)
        self._require_empty(path + b"/")
        del self.directories[path + b"/"]
        self._keep(parent_of(path))

    def rename(self, old: bytes, new: bytes, *, exchange: bool, replace: bool) -> None:
        for path in (old, new):
            self._require_directory(path.rpartition(b"/")[0])
        source = self.find(old)
        if isinstance(source, Directory) and (new + b"/").startswith(old + b"/") and new != old:
            raise RenameIntoItself(new)
        if exchange:
            self._exchange(old, new)
            return
        if self._exists(new):
            if not replace:
                raise NameExists(new)
            target = self.find(new)
            if target is source:
                return
            self._displace(source, new)
        self._move(old, new)
        self._keep(parent_of(old))

    def _displace(self, source: File | Directory, path: bytes) -> None:
        if isinstance(self.find(path), Directory):
            if not isinstance(source, Directory):
                raise IsADirectory(path)
            self._require_empty(path + b"/")
            del self.directories[path + b"/"]
        elif isinstance(source, Directory):
            raise NotADirectory(path)
        else:
            del self.files[path]

    def _exchange(self, first: bytes, second: bytes) -> None:
        one, other = self.find(first), self.find(second)
        if one is other:
            return
        if isinstance(other, Directory) and (first + b"/").startswith(second + b"/"):
            raise RenameIntoItself(first)
        for path, comes, goes in ((first, other, one), (second, one, other)):
            # A file would come to where one hides beside the directory that goes.
            hides = isinstance(goes, Directory) and path in self.files
            if hides and not isinstance(comes, Directory):
                raise NameExists(path)
        aside = b"\0aside"
        self._move(first, aside)
        self._move(second, first)
        self._move(aside, second)

    def _move(self, old: bytes, new: bytes) -> None:
        if isinstance(self.find(old), File):
            self.files[new] = self.files.pop(old)
            return
        old += b"/"
        new += b"/"
        for table in (self.files, self.directories):
            for path in [p for p in table if p.startswith(old)]:
                table[new + path.removeprefix(old)] = table.pop(path)  # type: ignore[assignment]

    # ------------------------------------------------------------------ directories

    def _imply(self, directory: bytes) -> None:
        while directory:
            self.directories.setdefault(directory, Directory(explicit=False))
            directory = parent_of(directory)

    def _is_empty(self, directory: bytes) -> bool:
        return not any(
            p != directory and p.startswith(directory) for p in [*self.files, *self.directories]
        )

    def _require_empty(self, directory: bytes) -> None:
        if self.directories[directory].data or not self._is_empty(directory):
            raise NotEmpty(directory)

    def _prune(self, directory: bytes) -> None:
        while directory and not self.directories[directory].explicit:
            if not self._is_empty(directory):
                return
            del self.directories[directory]
            directory = parent_of(directory)

    def _keep(self, directory: bytes) -> None:
        if directory and self._is_empty(directory):
            self.directories[directory].explicit = True


def parent_of(key: bytes) -> bytes:
    """`a/b` -> `a/`, `a/b/` -> `a/`, `a` -> nothing."""
    return key[: key[:-1].rfind(b"/") + 1] if key.endswith(b"/") else key[: key.rfind(b"/") + 1]


def grouped_listing(
    keys: list[bytes], prefix: bytes, delimiter: bytes, after: bytes
) -> list[bytes]:
    """S3's rule for sorted keys: those with the prefix and behind `after`, each cut behind the
    first delimiter after the prefix; a common prefix that holds `after` is done with."""
    shown: list[bytes] = []
    for key in keys:
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = key[: cut + len(delimiter)] if cut >= 0 else key
        is_group = cut >= 0
        if entry <= after or (is_group and after.startswith(entry)):
            continue
        if entry not in shown[-1:]:
            shown.append(entry)
    return shown
