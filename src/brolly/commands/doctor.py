"""doctor: looks at the machine, the server, its Postgres, its engines and the clients, and says what to do."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from brolly import __version__
from brolly.commands.terminal import is_terminal, run, spinner, write, write_json
from brolly.core.errors import AppError
from brolly.core.settings import Settings, load_settings
from brolly.daemon import Running, find_server, is_held, log_path, server_lock

_LEAST_DISK = 1_000_000_000
_LEAST_MEMORY = 1_000_000_000
_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found. ``then`` says what to do, empty where there is nothing to do."""

    area: str
    state: Literal["ok", "warning", "failure"]
    text: str
    then: str = ""


def ok(area: str, text: str) -> Finding:
    """All is well there."""
    return Finding(area, "ok", text)


def warning(area: str, text: str, then: str) -> Finding:
    """It works, though not for everything or not for long."""
    return Finding(area, "warning", text, then)


def failure(area: str, text: str, then: str) -> Finding:
    """It does not work."""
    return Finding(area, "failure", text, then)


def failed(area: str, error: AppError) -> Finding:
    """As the error says."""
    return failure(area, error.message, error.remediation)


def examine(home: Path | None, as_json: bool) -> int:
    """Look at everything and print it; 1 if something does not work."""
    try:
        settings = load_settings(home=home)
    except AppError as error:
        return _show([failed("settings", error)], as_json)
    found: list[Finding] = [ok("settings", "every BROLLY_ variable is one that Brolly knows")]
    with spinner("Looking…") as say:
        for look in (_program, _machine, _folder, _server, _postgres, _engines, _builds, _clients):
            say(f"Looking at {look.__name__.strip('_')}…")
            try:
                found += look(settings)
            except AppError as error:
                found.append(failed(look.__name__.strip("_"), error))
    return _show(found, as_json)


def _show(found: list[Finding], as_json: bool) -> int:
    worst = {finding.state for finding in found}
    if as_json:
        write_json({"ok": "failure" not in worst, "findings": [asdict(finding) for finding in found]})
    elif is_terminal():
        _show_on_terminal(found)
    else:
        for finding in found:
            write(f"{finding.state}: {finding.area}: {finding.text}" + (f" {finding.then}" if finding.then else ""))
    if not as_json:
        faults = sum(finding.state == "failure" for finding in found)
        doubts = sum(finding.state == "warning" for finding in found)
        write(f"{_count(faults, 'failure')}, {_count(doubts, 'warning')}.")
    return 1 if "failure" in worst else 0


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _show_on_terminal(found: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in found:
        sign, colour = _SIGNS[finding.state]
        said = Text(finding.text)
        if finding.then:
            said.append("\n" + finding.then, style="bold" if finding.state == "failure" else "dim")
        table.add_row(Text(sign, style=colour), Text(finding.area, style="dim"), said)
    Console().print(table)


def _program(_settings: Settings) -> Iterator[Finding]:
    yield ok("program", f"brolly {__version__}, Python {platform.python_version()}, {platform.system()}")
    mine = Path(sys.executable).with_name("brolly")
    on_path = shutil.which("brolly")
    if on_path is not None and mine.exists() and Path(on_path).resolve() != mine.resolve():
        said = _first_line([on_path, "--version"])
        yield warning(
            "program",
            f"the brolly that your shell finds is another one, {on_path} ({said or 'it does not run'})",
            "Remove one of the two; clients that brolly connect set up start the one that set them up.",
        )


def _machine(settings: Settings) -> Iterator[Finding]:
    import psutil

    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < _LEAST_DISK:
        yield warning("machine", f"{free / 1e9:.1f} GB are free where {settings.home} lies", "Make room: a full disk "
                      "stops every write.")  # fmt: skip
    else:
        yield ok("machine", f"{free / 1e9:.0f} GB free where {settings.home} lies")
    memory = psutil.virtual_memory().available
    if memory < _LEAST_MEMORY:
        yield warning(
            "machine", f"{memory / 1e9:.1f} GB of memory are available", "Expect slow functions and builds; end what "
            "is not needed.",
        )  # fmt: skip


def _folder(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.exists():
        yield ok("data folder", f"{home} will be made by the first start")
        return
    if home.stat().st_mode & 0o022:
        yield failure("data folder", f"{home} may be written by others", f"Close it: chmod go-w {home}")
    for name in ("owner.key", "secret.key"):
        path = home / name
        if path.exists() and path.stat().st_mode & 0o077:
            yield failure("data folder", f"{path} may be read by others", f"Close it: chmod 600 {path}")
    if not (home / "secret.key").exists() and not settings.secret and (home / "postgres").exists():
        yield failure(
            "data folder", f"{home} has a database and no secret.key", "Restore secret.key from a backup: keys and "
            "variables are encrypted by it.",
        )  # fmt: skip
    yield ok("data folder", str(home))


def _server(settings: Settings) -> Iterator[Finding]:
    running = find_server(settings.home)
    if running is None:
        yield from _no_server(settings)
        return
    if running.version != __version__:
        yield warning(
            "server",
            f"version {running.version} runs at {running.url}, this is {__version__}",
            "Restart it: brolly down, then brolly up.",
        )
    yield from _ready(running)


def _no_server(settings: Settings) -> Iterator[Finding]:
    if is_held(server_lock(settings.home)):
        yield warning("server", "it is starting or ending", f"Wait a little; its log is {log_path(settings.home)}.")
        return
    with socket.socket() as probe:
        probe.settimeout(2)
        taken = probe.connect_ex((settings.host, settings.port)) == 0
    if taken:
        yield warning(
            "server",
            f"it does not run, and port {settings.port} is in use by another program",
            "brolly mcp takes another port by itself; for brolly up set BROLLY_PORT.",
        )
    else:
        yield ok("server", "it does not run; brolly mcp starts it when an agent needs it")


def _ready(running: Running) -> Iterator[Finding]:
    import httpx

    try:
        answer = httpx.get(f"{running.url}/health/ready", timeout=10, trust_env=False)
        body: Any = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        yield failure(
            "server",
            f"{running.url} does not answer ({type(error).__name__})",
            "Restart it with brolly down and brolly up.",
        )
        return
    if answer.status_code != 200:
        said = cast(dict[str, Any], body).get("error", {}).get("message", f"status {answer.status_code}")
        yield failure(
            "server", f"{running.url} is not ready: {said}", "See its log in the data folder, logs/server.log."
        )
        return
    yield ok("server", f"version {running.version} answers at {running.url}")
    for name, state in cast(dict[str, str], body.get("checks", {})).items():
        if state == "ok":
            yield ok("server", f"{name}: ok")
        else:
            yield failure("server", f"{name}: {state}", "Mend it where it runs; the server needs no restart.")


def _postgres(settings: Settings) -> Iterator[Finding]:
    if settings.database_url:
        from brolly.pg.external import check_external, parse_dsn

        server = parse_dsn(settings.database_url)
        run(check_external, server)
        yield ok("postgres", f"the external one at {server.host}:{server.port} can be used")
        return
    from brolly.pg.embedded.binaries import find_binaries

    said = _first_line([str(find_binaries().postgres), "--version"])
    if said:
        yield ok("postgres", f"embedded, {said}")
    else:
        yield failure(
            "postgres", "the embedded one does not start on this machine", "Set BROLLY_DATABASE_URL to a Postgres of "
            "your own (15 or later, with pgvector).",
        )  # fmt: skip


def _engines(_settings: Settings) -> Iterator[Finding]:
    from brolly.engines.deno.place import find_deno

    said = _first_line([find_deno(), "--version"])
    if said:
        yield ok("functions", said)
    else:
        yield failure("functions", "Deno does not start on this machine", "Install the package deno for this platform "
                      "into Brolly's environment.")  # fmt: skip


def _builds(_settings: Settings) -> Iterator[Finding]:
    from brolly.engines.build.confine import landlock_version

    if landlock_version():
        yield ok("builds", f"can be shut in (Landlock {landlock_version()})")
    else:
        yield warning(
            "builds",
            "front ends cannot be built from source here: the system has no Landlock to shut a build in with",
            "Build elsewhere and deploy the output folder, which works everywhere.",
        )


def _clients(_settings: Settings) -> Iterator[Finding]:
    from brolly.commands.clients import CLIENTS, client_folders, read_file
    from brolly.commands.handshake import answers

    connected = False
    for client in CLIENTS.values():
        path = client.file(None, client_folders())
        if not path.exists():
            continue
        try:
            entries: dict[str, Any] = read_file(client, path).get(client.section, {})
        except AppError:
            # With comments in it: not ours to read.
            continue
        for name, entry in entries.items():
            if not _is_ours(entry):
                continue
            connected = True
            wrong = answers(client, entry)
            if wrong:
                then = f"Write it anew: brolly connect {client.name}"
                yield failure("clients", f"{client.title}: {name} does not work: {wrong}", then)
            else:
                yield ok("clients", f"{client.title}: {name} works")
    if not connected:
        yield warning("clients", "no coding agent is connected", "Connect one: brolly connect claude (or cursor, "
                      "gemini, vscode, claude-desktop).")  # fmt: skip


def _is_ours(entry: Any) -> bool:
    """Whether the entry starts ``brolly mcp``, by whatever path, or names a Brolly's address."""
    if not isinstance(entry, dict):
        return False
    found = cast(dict[str, Any], entry)
    words = [str(found.get("command", "")), *map(str, cast(list[Any], found.get("args") or []))]
    starts = "mcp" in words and any(Path(word).name == "brolly" for word in words)
    url = str(found.get("url") or found.get("httpUrl") or "")
    return starts or ("Bearer bb_sk_" in str(found.get("headers")) and "/mcp" in url)


def _first_line(command: list[str]) -> str:
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip().splitlines()[0]
    return ""
