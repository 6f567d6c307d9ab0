"""serve, up and down."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from brolly.commands.options import settings_for
from brolly.commands.terminal import is_terminal, note, run, run_serving, spinner, write, write_facts
from brolly.core.errors import AppError
from brolly.core.settings import Settings, is_set, load_settings

if TYPE_CHECKING:
    from brolly.daemon import Running
    from brolly.serve import Serving

_IN_THE_CLEAR = (
    "listening on %s without TLS: keys and data cross the network in the clear. Put a proxy with TLS in front "
    "and set BROLLY_PUBLIC_URL to its address"
)
_OTHER_PORT = "Port %s is in use; listening on %s: correct the url in mcp.json"


def serve_here(given: Mapping[str, Any], *, any_port: bool, announce: int | None) -> None:
    """Serve until a signal comes."""
    settings = settings_for(given)
    from brolly.listener import bind, is_loopback

    listener = bind(settings, any_port)
    from brolly.serve import configure_logging, log, serve

    configure_logging(settings.log_level)
    if not is_loopback(settings.host):
        log.warning(_IN_THE_CLEAR, settings.host)
    if settings.port not in (0, port := listener.getsockname()[1]):
        log.warning(_OTHER_PORT, settings.port, port)

    def ready(serving: Serving) -> None:
        if announce is not None:
            # Who started us may be gone.
            with suppress(OSError):
                os.write(announce, b"1")
            os.close(announce)
        elif is_terminal():
            _show(serving)

    async def work() -> None:
        await serve(settings, listener, keep_log=announce is not None, ready=ready)

    run_serving(work)
    with suppress(OSError, ValueError):
        sys.stdout.flush()


def _show(serving: Serving) -> None:
    url, settings = serving.running.url, serving.settings
    facts = [
        ("Brolly", serving.running.version + (" (read-only)" if settings.read_only else "")),
        ("URL", url),
        ("MCP", f"{url}/mcp"),
        ("Data", str(settings.home)),
        ("Postgres", serving.running.postgres),
        ("Key", str(serving.key_file) if serving.key_file else "the owner's key was revoked: brolly keys create NAME"),
    ]
    if serving.primary:
        facts.append(("Connect", "give your MCP client the command: brolly mcp"))
    else:
        facts.append(("Note", "another server of this data folder runs; brolly mcp, status and down mean that one"))
    # A terminal that is gone is no reason to stop serving.
    with suppress(OSError):
        write_facts(facts)


def bring_up(given: Mapping[str, Any]) -> None:
    """Start the server in the background, if none runs; one that runs must be as the options say."""
    settings = settings_for(given)
    from brolly.daemon import find_server
    from brolly.listener import is_loopback

    running = find_server(settings.home)
    if running is not None:
        _check_alike(running, settings, given)
        write(f"{running.url} (runs already, process {running.pid})" if is_terminal() else running.url)
        return
    with spinner("Starting the server…"):
        running = run(_ensure, settings, given)
    # Somebody else may have been quicker.
    _check_alike(running, settings, given)
    if not is_loopback(settings.host):
        note(_IN_THE_CLEAR % settings.host)
    if settings.port not in (0, port := urlsplit(running.url).port):
        note(_OTHER_PORT % (settings.port, port))
    write(running.url)


def _check_alike(running: Running, settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse to pass off a server as one with other options; what was not asked for may differ."""
    asked = {name for name in ("host", "port", "read_only", "tools") if given[name] is not None or is_set(name)}
    port = urlsplit(running.url).port
    unlike = {
        "host": f"listening on {running.host}" if running.host not in ("", settings.host) else "",
        "port": f"not on port {settings.port}" if settings.port not in (0, port) else "",
        "read_only": ("" if running.read_only else "not ") + "read-only"
        if running.read_only != settings.read_only
        else "",
        "tools": f"with {', '.join(running.tools) or 'all'} tools" if {*running.tools} != {*settings.tools} else "",
    }
    if said := [words for name, words in unlike.items() if words and name in asked]:
        raise AppError(
            "CONFIG_INVALID",
            f"A server runs already at {running.url}, {', '.join(said)}.",
            remediation="Run brolly down, then repeat.",
        )


async def _ensure(settings: Settings, given: Mapping[str, Any]) -> Running:
    from brolly.daemon import ensure_running

    options = [] if given["port"] is not None or is_set("port") else ["--any-port"]
    for name in ("host", "port"):
        if given[name] is not None:
            options += [f"--{name}", str(given[name])]
    if given["read_only"] is not None:
        options.append("--read-only" if given["read_only"] else "--no-read-only")
    if given["tools"] is not None:
        options += ["--tools", ",".join(given["tools"])]
    return await ensure_running(settings, options=options)


def bring_down(home: Path | None) -> None:
    """Stop the server in the background; none is no failure."""
    settings = load_settings(home=home)
    from brolly.daemon import stop_server

    with spinner("Ending the server…"):
        ended = run(stop_server, settings.home)
        left = run(_end_postgres, settings.home)
        more = ended is not None and _postgres_runs(settings.home)
    if ended is not None:
        write(f"Ended the server at {ended.url}.")
    elif left:
        write("No server ran; ended the Postgres that a killed one had left.")
    else:
        write("No server runs.")
    if more:
        note("Another process still uses this data folder: a second brolly serve ends with Ctrl-C where it runs.")


def _postgres_runs(home: Path) -> bool:
    if not (home / "postgres.users").exists():
        return False
    from brolly.pg.embedded.cluster import find_postmaster

    return find_postmaster((home / "postgres").resolve()) is not None


async def _end_postgres(home: Path) -> bool:
    """End the embedded Postgres if a killed server left it running; whether it did."""
    if not (home / "postgres.users").exists():
        return False
    from brolly.pg.embedded.cluster import find_postmaster

    data = (home / "postgres").resolve()
    if find_postmaster(data) is None:
        return False
    from brolly.app import read_secret
    from brolly.core.tokens import derive
    from brolly.pg.embedded import embedded_postgres

    # Whoever is last to leave ends it.
    async with embedded_postgres(home, derive(read_secret(load_settings(home=home)), "postgres-administrator")):
        pass
    return find_postmaster(data) is None
