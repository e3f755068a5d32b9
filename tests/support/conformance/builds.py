"""Building the programs of foreign suites out of their checkouts, which are not written to.

What is built for a checkout is kept in .conformance/, until the checkout is another.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.conformance import LEFT

_XFSTESTS_HEADERS = (
    *("ASSERT", "DIRENT", "ERRNO", "ERR", "LIBGEN", "LINUX_FALLOC", "MALLOC", "STDLIB", "STRING"),
    *("STRINGS", "SYS_FCNTL", "SYS_IOCTL", "SYS_MMAN", "SYS_PARAM", "SYS_PRCTL", "SYS_STAT"),
    *("SYS_STATVFS", "SYS_TIME", "SYS_TYPES", "SYS_WAIT", "TIME", "UNISTD", "XFS_XFS"),
)
"""Headers that its configure would find on Debian; the rest of it looks for what is for others."""
_XFSTESTS_DEFINES = (
    *(f"HAVE_{name}_H" for name in _XFSTESTS_HEADERS),
    *("STDC_HEADERS", "FALLOCATE", "HAVE_FALLOCATE", "HAVE_COPY_FILE_RANGE", "HAVE_RENAMEAT2"),
    *("HAVE_LINUX_FIEMAP_H", "_GNU_SOURCE", "_FILE_OFFSET_BITS=64"),
)


class NoSuiteError(Exception):
    """A checkout is none of those we know, or cannot be built."""


@dataclass(frozen=True, slots=True)
class Checkout:
    name: str
    directory: Path
    commit: str


def find_out(directory: Path) -> Checkout:
    """Which suite a directory is a checkout of. NoSuiteError."""
    for name, known_by in (("pjdfstest", "pjdfstest.c"), ("xfstests", "ltp/fsx.c")):
        if (directory / known_by).exists():
            return Checkout(name, directory.resolve(), _commit(directory))
    raise NoSuiteError(f"{directory} is no checkout of pjd/pjdfstest or kdave/xfstests")


def _commit(directory: Path) -> str:
    asked = subprocess.run(
        ["git", "-C", directory, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def build(checkout: Checkout) -> Path:
    """The directory of what was built: the pjdfstest that its tests look for above themselves, or
    the programs fsx and fsstress. NoSuiteError with what the compiler said."""
    target = LEFT / checkout.name
    stamp = target / "built-from"
    origin = f"{checkout.directory} {checkout.commit}\n"
    if checkout.commit != "unknown" and stamp.exists() and stamp.read_text() == origin:
        return target
    shutil.rmtree(target, ignore_errors=True)
    if checkout.name == "pjdfstest":
        _build_pjdfstest(checkout.directory, target)
    else:
        _build_xfstests(checkout.directory, target)
    stamp.write_text(origin)
    return target


def _build_pjdfstest(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".git"))
    for command in (["autoreconf", "-ifs"], ["./configure"], ["make", "pjdfstest"]):
        _run(command, target)


def _build_xfstests(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "config.h").touch()  # which its configure would write; all is on the command line
    flags = [
        *(f"-D{name}" for name in _XFSTESTS_DEFINES),
        *("-w", "-O1", "-I", str(target), "-I", str(source / "src")),
        *("-include", "getopt.h", "-include", "time.h"),
    ]
    for name in ("fsx", "fsstress"):
        _run(["gcc", *flags, "-o", name, str(source / "ltp" / f"{name}.c"), "-lm"], target)


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSuiteError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
