"""What a process that decodes files from outside takes from itself, before it sees the first byte of them.

Used by programs of their own, started without the server's environment.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

_NO_NEW_PRIVILEGES, _LANDLOCK, _LANDLOCK_SELF = 38, 444, 446
_FILE_RIGHTS = (0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)
"""All that each version of Landlock can forbid."""
_WORDS = (1, 1, 1, 2, 2, 3)


def limit(memory: int, seconds: int) -> None:
    """Bound what this process may use, before it sees the first byte."""
    import resource

    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        # Not every system has every limit; the server's own time limit holds on all.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    os.nice(5)


def enclose() -> None:
    """Keep what follows from files, sockets and other processes, as far as the system can: a decoder's fault may let
    a file run code, and this process has the rights of the server's user.
    """
    import resource

    if sys.platform.startswith("linux"):
        _forbid()
    # No more open files, also none of a program that takes this one's place.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _forbid() -> None:
    """Take every right that Landlock knows of; a kernel without it leaves them."""
    import ctypes

    system: Any = ctypes.CDLL(None, use_errno=True)
    system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    version: int = system.syscall(_LANDLOCK, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    # Rights on files, then to bind and connect, then signals and sockets of others: later versions know more words.
    words = (_FILE_RIGHTS[min(version, len(_FILE_RIGHTS)) - 1], 3, 3)[: _WORDS[min(version, len(_WORDS)) - 1]]
    rules = (ctypes.c_uint64 * len(words))(*words)
    handle: int = system.syscall(_LANDLOCK, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if handle >= 0:
        system.syscall(_LANDLOCK_SELF, handle, 0)
        os.close(handle)
