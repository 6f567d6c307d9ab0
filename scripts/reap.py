"""Run a command, then end whatever it left running, and fail when there was something.

Usage: reap.py COMMAND…  On Linux orphans of the command come to this program instead of to init, so that
a daemon cannot hide; elsewhere only the exit code is passed on.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 5  # seconds for what is just going
NOTICE = 20  # seconds to end in order


def descendants() -> dict[int, str]:
    """Process id and name of everything that lives below this process."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text("utf-8", "replace").split(" (", 1)
        except OSError:
            continue  # gone meanwhile
        name, fields = rest.rsplit(") ", 1)
        state, parent = fields.split()[:2]
        if state != "Z":
            parents[int(pid)], names[int(pid)] = int(parent), name
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return {pid: names[pid] for pid in found[1:]}


def gone_within(seconds: float) -> bool:
    """Wait until nothing is left, at most so long."""
    end = time.monotonic() + seconds
    while descendants():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def end(number: signal.Signals) -> None:
    """Send a signal to all that is left."""
    for pid in descendants():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def stop(number: int, _frame: FrameType | None) -> None:
    """Leave through the clean-up when the run itself is ended."""
    sys.exit(128 + number)


def main() -> None:
    """Run, look, clean up, tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    left: dict[int, str] = {}
    try:
        status = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
    finally:
        if not gone_within(PATIENCE):
            left = descendants()
            end(signal.SIGTERM)
            if not gone_within(NOTICE):
                end(signal.SIGKILL)
                gone_within(NOTICE)
            print("Left running by the checks, now ended:", left, flush=True)
    sys.exit(status or bool(left))


if __name__ == "__main__":
    main()
