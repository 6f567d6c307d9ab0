"""The program that shuts a build in and runs it: install scripts and build tools are anybody's native code.

Argument: file descriptor of a socket to the server, over which lines of JSON go. The server sends a plan; this
answers what holds here (and the socket that listens inside, where there is a network of the build's own), gets
the program line and its environment, and runs it. It imports nothing of the server and is started without its
environment. Its own end, also by the server's, ends everything that it started. All that it imports is
imported here: where it came from may be closed to the account that it becomes.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

_PDEATHSIG, _DUMPABLE, _SECCOMP, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 22, 36, 38
_LANDLOCK, _LANDLOCK_RULE, _LANDLOCK_SELF = 444, 445, 446
_FILE_RIGHTS = (0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)
"""All that each version of Landlock can forbid about files."""
_READ, _OF_A_FILE = 0b1101, 0xC007
"""Execute, read a file, list a folder; and those of all rights that a file that is no folder can have."""
_CONNECT, _BIND = 2, 1
_NEW_USER, _NEW_NET, _NEW_PID, _NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x08000000
_ANY_NAMESPACE = 0x7E020000
# Numbers of system calls: x86-64, arm64.
_REFUSED = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "bpf": (321, 280), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265), "kexec_load": (246, 104),
    "init_module": (175, 105), "finit_module": (313, 273), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "pidfd_getfd": (438, 438),
}  # fmt: skip
_SOCKET, _CLONE = (41, 198), (56, 220)
_ABSENT = {"io_uring_setup": (425, 425), "clone3": (435, 435)}
"""Said not to exist, so that programs take the older way, on which arguments can be seen."""
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _EACCES, _ENOSYS = 1, 13, 38


def _system() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def become(uid: int, gid: int) -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Else /proc/self stays root's, and no namespace can be made.
    _system().prctl(_DUMPABLE, 1, 0, 0, 0)


def die_with_parent(number: int) -> None:
    """Be told when the parent ends."""
    if sys.platform.startswith("linux"):
        _system().prctl(_PDEATHSIG, number, 0, 0, 0)


def separate() -> socket.socket | None:
    """A network, processes and shared memory of its own, and a socket that listens in it; None where not allowed."""
    uid, gid = os.getuid(), os.getgid()
    if _system().unshare(_NEW_USER | _NEW_NET | _NEW_PID | _NEW_IPC) != 0:
        return None
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
            # SIOCSIFFLAGS: up and running.
            fcntl.ioctl(any_, 0x8914, struct.pack("16sH14x", b"lo", 0x41))
        listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    except OSError as error:
        # Half of it done: the network is a new one that cannot be used, so go no further.
        raise RuntimeError(f"no network of its own could be set up: {error.strerror}") from error
    return listening


def landlock_version() -> int:
    """0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, _system().syscall(_LANDLOCK, None, ctypes.c_size_t(0), 1))


def fence(read: Sequence[str], write: Sequence[str], port: int | None) -> None:
    """By Landlock: nothing of the file system but these, no connections but to that port (None: any), no signals."""
    system, version = _system(), landlock_version()
    rights = _FILE_RIGHTS[min(version, len(_FILE_RIGHTS)) - 1]
    words = [rights]
    if version >= 4:
        words.append(0 if port is None else _CONNECT | _BIND)
    if version >= 6:
        words.append(3)
    rules = (ctypes.c_uint64 * len(words))(*words)
    handle: int = system.syscall(_LANDLOCK, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if handle < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    for paths, allowed in ((read, rights & _READ), (write, rights)):
        for path in paths:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            mine = allowed if os.path.isdir(path) else allowed & _OF_A_FILE
            rule = struct.pack("<Qi", mine, fd)
            if system.syscall(_LANDLOCK_RULE, handle, 1, rule, 0) != 0:
                raise OSError(ctypes.get_errno(), f"Landlock: {path}")
            os.close(fd)
    if port is not None and version >= 4 and system.syscall(
        _LANDLOCK_RULE, handle, 2, struct.pack("<QQ", _CONNECT, port), 0
    ) != 0:  # fmt: skip
        raise OSError(ctypes.get_errno(), "Landlock: port")
    if system.syscall(_LANDLOCK_SELF, handle, 0) != 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    os.close(handle)


def filter_of(machine: str, *, streams_only: bool) -> bytes:
    """The program that the kernel asks about each system call."""
    column, arch = _MACHINES[machine]

    def step(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, k)

    load, equal, at_least, any_bit, mask, end = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    refuse = _ERRNO | _EPERM
    steps = [step(load, 4), step(equal, arch, 1, 0), step(end, _KILL), step(load, 0)]
    # The third set of numbers that an x86-64 kernel may understand.
    steps += [step(at_least, 0x40000000, 0, 1), step(end, _ERRNO | _ENOSYS)]
    for numbers in _REFUSED.values():
        steps += [step(equal, numbers[column], 0, 1), step(end, refuse)]
    for numbers in _ABSENT.values():
        steps += [step(equal, numbers[column], 0, 1), step(end, _ERRNO | _ENOSYS)]
    steps += [step(equal, _CLONE[column], 0, 3), step(load, 16), step(any_bit, _ANY_NAMESPACE, 0, 1)]
    steps += [step(end, refuse), step(load, 0)]
    # Sockets: of the internet, and the kernel's own telling of addresses. None of files: a database listens on one.
    sockets = [step(load, 16), step(equal, socket.AF_INET, 2, 0), step(equal, socket.AF_INET6, 1, 0)]
    sockets += [step(equal, 16, 5, 4)]
    sockets += [step(load, 24), step(mask, 0xF)]
    sockets += [step(equal, socket.SOCK_STREAM, 2, 0), step(equal, 99 if streams_only else socket.SOCK_DGRAM, 1, 0)]
    sockets += [step(end, _ERRNO | _EACCES)]
    steps += [step(equal, _SOCKET[column], 0, len(sockets)), *sockets, step(end, _ALLOW)]
    return b"".join(steps)


def sieve(streams_only: bool) -> None:
    """By seccomp: no system calls that a build has no use for."""
    program = filter_of(platform.machine(), streams_only=streams_only)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if _system().prctl(_SECCOMP, 2, fprog, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def limit(limits: dict[str, int]) -> None:
    """The system's own limits, by their names in the module resource."""
    for name, most in limits.items():
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(getattr(resource, name))[1]
            now = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(getattr(resource, name), (now, now))


def _descendants() -> list[int]:
    """Processes below this one, from /proc."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{entry}/stat") as file:
                parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
    mine: set[int] = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sorted(mine - {os.getpid()})


def end_all() -> None:
    """End whatever was started, also what has moved away from its parent: as a subreaper all of it is ours."""
    for _ in range(200):
        if sys.platform.startswith("linux"):
            for pid in _descendants():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _wait_for(child: int) -> int:
    """Its exit status, as a shell tells it; others that end meanwhile are taken note of."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _run(plan: dict[str, Any], order: dict[str, Any], alone: bool) -> int:
    """In the first process of the new processes' world, or in the launcher where there is none."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with_parent(signal.SIGKILL)
            limit(plan["limits"])
            if plan["confined"]:
                _system().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
                fence(plan["read"], plan["write"], None if alone else order["port"])
                sieve(not alone)
            os.chdir(order["folder"])
            os.execve(order["command"][0], order["command"], order["environment"])  # noqa: S606
        except BaseException as error:
            os.write(2, f"The build could not be started: {error}\n".encode())
            os._exit(126)
    return _wait_for(child)


def _first_of_its_world(plan: dict[str, Any], order: dict[str, Any]) -> int:
    """Fork the process after which the kernel ends all others of its world, and wait for it."""
    init = os.fork()
    if init == 0:
        code = 126
        try:
            die_with_parent(signal.SIGKILL)
            code = _run(plan, order, True)
        finally:
            os._exit(code)
    return _wait_for(init)


def _send(line: socket.socket, told: dict[str, Any], fd: int | None = None) -> None:
    data = json.dumps(told).encode() + b"\n"
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    line.sendmsg([data], rights)


def _what_is_missing(alone: bool) -> str:
    """Why a build cannot be shut in here; empty when it can."""
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        return "This system has no Landlock."
    version = landlock_version()
    if version < 1:
        return "The kernel has no Landlock, or a container forbids it."
    if not alone and version < 4:
        return "Neither network namespaces nor a Landlock that knows of connections (Linux 6.7) can be used."
    return ""


def main(arguments: list[str]) -> int:
    """Do it."""
    line = socket.socket(fileno=int(arguments[0]))
    words = line.makefile("rb")
    plan = json.loads(words.readline())
    os.nice(10)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if plan["uid"]:
        become(plan["uid"], plan["gid"])
    die_with_parent(signal.SIGTERM)
    if sys.platform.startswith("linux"):
        _system().prctl(_SUBREAPER, 1, 0, 0, 0)
    listening = separate() if plan["confined"] and plan["namespaces"] else None
    missing = _what_is_missing(listening is not None) if plan["confined"] else ""
    told: dict[str, Any] = {"missing": missing, "alone": listening is not None}
    if listening is not None:
        told["port"] = listening.getsockname()[1]
    _send(line, told, None if listening is None else listening.fileno())
    answer = words.readline()
    if missing or not answer:
        return 125
    if listening is not None:
        listening.close()
    line.close()

    def stop(_signal: int, _frame: Any) -> None:
        # Each thread of a parent that ends tells so: what is being done about the first word must not be broken off.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, stop)
    try:
        order = json.loads(answer)
        return _first_of_its_world(plan, order) if listening is not None else _run(plan, order, False)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
