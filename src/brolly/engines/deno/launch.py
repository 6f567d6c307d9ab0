"""The program that becomes Deno: it gives up rights first, since only a process itself may do so everywhere.

Arguments: the user and group to become (0: stay), whether IPv6 stays open (1 or 0), the most data in kB (0: as it is),
then the program line. It imports nothing of the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys

MOST_FILES = 1024
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# The audit architecture, the number of socket(), and from which number on calls have another form.
_MACHINES = {"x86_64": (0xC000003E, 41, 0x40000000), "aarch64": (0xC00000B7, 198, 0x40000000)}
_IO_URING = 425
_FAMILIES = (1, 2, 16)
"""AF_UNIX, AF_INET, and AF_NETLINK, by which the C library finds out what addresses there are."""


def can_close_ipv6() -> bool:
    """Whether this machine lets a process give up families of addresses."""
    return sys.platform == "linux" and platform.machine() in _MACHINES and sys.byteorder == "little"


def _program(machine: str) -> bytes:
    """What the kernel asks at each system call: sockets of other families do not exist here."""
    audit, socket, other = _MACHINES[machine]
    steps = [
        (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, other), (_RETURN, 0, 0, _KILL),
        (_EQUAL, 0, 1, _IO_URING), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        (_EQUAL, 1, 0, socket), (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 16),
        *((_EQUAL, len(_FAMILIES) - at, 0, family) for at, family in enumerate(_FAMILIES)),
        (_RETURN, 0, 0, _REFUSE | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def close_ipv6() -> None:
    """Give up all sockets but those of IPv4 and of this machine, for this process and what it starts."""
    program = _program(platform.machine())
    steps = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    system = ctypes.CDLL(None, use_errno=True)
    rules = Filter(len(program) // 8, ctypes.addressof(steps))
    none = ctypes.c_ulong(0)
    if system.prctl(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), none, none, none) or system.prctl(
        _SECCOMP, ctypes.c_ulong(_FILTER), ctypes.byref(rules), none, none
    ):
        raise OSError(ctypes.get_errno(), "the system refuses to close IPv6 for functions")


def _bound(data_kb: int) -> None:
    """Few files, no core, behind the server for the processor, and the first to end where memory is short."""
    limits = [(resource.RLIMIT_NOFILE, MOST_FILES), (resource.RLIMIT_CORE, 0)]
    if data_kb:
        limits.append((resource.RLIMIT_DATA, data_kb * 1024))
    for kind, most in limits:
        # Not every system has every limit.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):
        os.nice(5)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def main() -> None:
    """Become the program."""
    uid, gid, ipv6, data_kb = (int(word) for word in sys.argv[1:5])
    line = sys.argv[5:]
    _bound(data_kb)
    if uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if not ipv6:
        close_ipv6()
    os.execv(line[0], line)  # noqa: S606 - the program line is ours


if __name__ == "__main__":
    main()
