"""The machine that measures: what it is, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from datetime import UTC, datetime

import psutil

from brolly.pg.embedded.binaries import MAJOR

CALM_SECONDS, CALM_SHARE = 4.0, 0.08


def describe() -> str:
    """``2 cores, 24 GiB, Linux, Python 3.11.7, Postgres 18``."""
    memory = round(psutil.virtual_memory().total / 2**30)
    return (
        f"{os.cpu_count()} cores, {memory} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, Postgres {MAJOR}"
    )


def _busy() -> float:
    spent = psutil.cpu_times()
    return sum(spent) - spent.idle - getattr(spent, "iowait", 0.0)


def _own() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Surroundings:
    """Started before a measurement and asked after its processes have ended: what others used of the processors."""

    def __init__(self) -> None:
        self._began, self._all, self._ours = time.monotonic(), _busy(), _own()

    def describe(self) -> str:
        """A line to stand below the figures."""
        took = time.monotonic() - self._began
        others = (_busy() - self._all) - (_own() - self._ours)
        share = max(0.0, others / (took * (os.cpu_count() or 1)))
        return (
            f"{describe()}; {datetime.now(UTC):%Y-%m-%d}; measured in {took:.0f} s, "
            f"while other programs used {share:.0%} of the processors."
        )


def wait_for_calm(limit: float) -> None:
    """Return when others leave the processors alone for a moment, at the latest after ``limit`` seconds."""
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        busy = _busy()
        time.sleep(CALM_SECONDS)
        if (_busy() - busy) / (CALM_SECONDS * (os.cpu_count() or 1)) < CALM_SHARE:
            return
