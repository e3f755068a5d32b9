"""A mount in the place of a dead one, with nothing to be seen between the two.

Taking a dead mount away before the next one is made shows for some milliseconds the directory
below: empty, which a mirror job that comes just then takes for the truth. So the new mount is put
beneath the dead one (MOVE_MOUNT_BENEATH of move_mount(2), Linux 6.5; as root), and then the dead
one is taken away. libfuse mounts on top only: the mount is made here, by the calls of fsopen(2),
and libfuse is given the descriptor of its /dev/fuse.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from fuse.config import MountConfig

_libc = ctypes.CDLL(None, use_errno=True)

# The same on every architecture (linux/unistd.h, linux/mount.h).
_SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 429, 430, 431, 432
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # FSCONFIG_*
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME = 0x1, 0x2, 0x4, 0x8, 0x10  # MOUNT_ATTR_*
_EMPTY_PATH, _BENEATH = 0x4, 0x200  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_BENEATH
_AT_FDCWD = -100
_DIRECTORY = b"40000"  # S_IFDIR, as the kernel reads `rootmode`


def mount_beneath(path: Path, config: MountConfig) -> str:
    """Mount beneath what is mounted on the path; what libfuse is to be told as its mount point.

    OSError where it cannot be: another user than root, an older kernel."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mount = _new_mount(device, config)
        try:
            _call(
                _SYS_MOVE_MOUNT,
                ctypes.c_int(mount),
                ctypes.c_char_p(b""),
                ctypes.c_int(_AT_FDCWD),
                ctypes.c_char_p(os.fsencode(path)),
                ctypes.c_uint(_EMPTY_PATH | _BENEATH),
            )
        finally:
            os.close(mount)
    except BaseException:
        os.close(device)
        raise
    return f"/dev/fd/{device}"


def _new_mount(device: int, config: MountConfig) -> int:
    """A mount that is nowhere yet, with the options that mount.py gives to libfuse."""
    context = _call(_SYS_FSOPEN, ctypes.c_char_p(b"fuse"), ctypes.c_uint(_CLOEXEC))
    try:
        for name, value in (
            (b"source", config.fsname.encode()),
            (b"subtype", b"forebay"),
            (b"fd", str(device).encode()),
            (b"rootmode", _DIRECTORY),
            (b"user_id", str(os.getuid()).encode()),
            (b"group_id", str(os.getgid()).encode()),
        ):
            _configure(context, _SET_STRING, name, value)
        _configure(context, _SET_FLAG, b"default_permissions")
        if config.allow_other:
            _configure(context, _SET_FLAG, b"allow_other")
        _configure(context, _CREATE)
        attributes = (
            _RDONLY * config.read_only
            | _NOSUID * (not config.suid)
            | _NODEV * (not config.dev)
            | _NOEXEC * config.noexec
            | _NOATIME * (not config.relatime)
        )
        return _call(
            _SYS_FSMOUNT,
            ctypes.c_int(context),
            ctypes.c_uint(_CLOEXEC),
            ctypes.c_uint(attributes),
        )
    finally:
        os.close(context)


def _configure(
    context: int, command: int, name: bytes | None = None, value: bytes | None = None
) -> None:
    _call(
        _SYS_FSCONFIG,
        ctypes.c_int(context),
        ctypes.c_uint(command),
        ctypes.c_char_p(name),
        ctypes.c_char_p(value),
        ctypes.c_int(0),
    )


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
