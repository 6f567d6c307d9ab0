"""``python -m bench [NAME…] [--quick]``: measure, show, and write docs/benchmarks.md (a quick run writes nothing)."""

from __future__ import annotations

import argparse
import signal
import sys

import anyio
from rich.console import Console

from bench import (
    agents,
    ai,
    building,
    footprint,
    functions,
    growth,
    hosting,
    ingestion,
    install,
    layers,
    new_app,
    rag,
    read_call,
    realtime,
    realtime_trigger,
    rest,
    start,
    storage,
    tool_list,
)
from bench.machine import describe
from bench.runner import Measurement, Wishes, run_all

MEASUREMENTS = (
    Measurement("tools", "The list of tools", tool_list.measure),
    Measurement("agents", "What an agent pays", agents.measure),
    Measurement("start", "Starting and stopping", start.measure),
    Measurement("init", "Creating an app", new_app.measure),
    Measurement("call", "One row read through MCP", read_call.measure),
    Measurement("layers", "Where the time of that call goes", layers.measure),
    Measurement("rest", "Rows over HTTP", rest.measure),
    Measurement("memory", "Memory, disk and connections", footprint.measure),
    Measurement("growth", "Memory over many calls", growth.measure),
    Measurement("storage", "Files", storage.measure),
    Measurement("functions", "Functions", functions.measure),
    Measurement("recording", "Recording changes", realtime_trigger.measure),
    Measurement("hosting", "Front ends", hosting.measure),
    Measurement("ingestion", "Documents for search", ingestion.measure),
    Measurement("realtime", "Changes over WebSocket", realtime.measure),
    Measurement("retrieval", "Asking documents", rag.measure),
    Measurement("ai", "The model gateway", ai.measure),
    Measurement("building", "Front ends from source", building.measure),
    Measurement("install", "What an installation weighs", install.measure),
)


def main() -> None:
    """Run what is named, or everything."""
    names = [one.name for one in MEASUREMENTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(names)}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="small versions; writes nothing")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md even with --quick")
    parser.add_argument("--dry", action="store_true", help="full size, but leave docs/benchmarks.md as it is")
    parser.add_argument("--calm", type=float, default=0, metavar="S", help="wait up to S seconds for a quiet machine")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(names))
    if unknown:
        parser.error(f"there is no measurement {', '.join(unknown)}; choose from: {', '.join(names)}")
    chosen = [one for one in MEASUREMENTS if not given.names or one.name in given.names]
    console = Console()
    console.print(f"[dim]{describe()}[/]\n")
    wishes = Wishes(quick=given.quick, keep=given.write or not (given.quick or given.dry), calm=given.calm)
    # Ended by a supervisor as by Ctrl-C: what was started is ended, what was made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = anyio.run(run_all, chosen, wishes, console)
    if failed:
        console.print(f"[bold red]failed: {', '.join(failed)}[/]")
        sys.exit(1)


if __name__ == "__main__":
    main()
