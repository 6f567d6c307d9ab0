"""status: whether the server runs, where, and how much it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brolly.commands.terminal import write_facts, write_json
from brolly.core.settings import Settings, load_settings
from brolly.daemon import Running, find_server, is_held, server_lock

NOT_RUNNING = 3


def show_status(home: Path | None, as_json: bool) -> int:
    """Print it; the exit code."""
    settings = load_settings(home=home)
    running = find_server(settings.home)
    if running is not None:
        state, apps, files = _ask(running, _owner_key(settings))
    else:
        files = None
        state, apps = ("starting or ending" if is_held(server_lock(settings.home)) else "stopped"), None
    facts: dict[str, Any] = {
        "state": state,
        "url": running.url if running else None,
        "mcp_url": f"{running.url}/mcp" if running else None,
        "pid": running.pid if running else None,
        "version": running.version if running else None,
        "started_at": running.started_at if running else None,
        "uptime_seconds": _uptime(running) if running else None,
        "postgres": running.postgres if running else ("external" if settings.database_url else "embedded"),
        "files": files,
        "apps": apps,
        "apps_of": "the account of BROLLY_API_KEY" if settings.api_key else "owner",
        "home": str(settings.home),
        "disk_bytes": disk_use(settings.home),
    }
    if as_json:
        write_json(facts)
    else:
        write_facts(_in_words(facts))
    return 0 if running is not None else NOT_RUNNING


def _owner_key(settings: Settings) -> str:
    if settings.api_key:
        return settings.api_key
    with suppress(OSError):
        return (settings.home / "owner.key").read_text().strip()
    return ""


def _ask(running: Running, key: str) -> tuple[str, int | None, str | None]:
    """Whether it is ready to work, how many apps the owner has, and how its object store is (None: it does not say)."""
    import httpx

    with httpx.Client(base_url=running.url, timeout=5, trust_env=False) as client:
        try:
            ready = client.get("/health/ready")
            if ready.status_code != 200:
                return "running, but its database does not answer", None, None
            files = ready.json()["checks"].get("files")
        except (httpx.HTTPError, ValueError):
            return "running, but does not answer", None, None
        apps = 0
        with suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
            while True:
                page: Any = client.get(
                    "/apps", params={"limit": 1000, "offset": apps}, headers={"Authorization": f"Bearer {key}"}
                ).json()
                apps += len(page["apps"])
                if "next_offset" not in page:
                    return "running", apps, files
    return "running", None, files


def _uptime(running: Running) -> int:
    return max(0, int((datetime.now(UTC) - datetime.fromisoformat(running.started_at)).total_seconds()))


def _in_words(facts: dict[str, Any]) -> list[tuple[str, str]]:
    words = [("Server", str(facts["state"]))]
    if facts["url"]:
        words += [
            ("URL", facts["url"]),
            ("MCP", facts["mcp_url"]),
            ("Version", facts["version"]),
            ("Up for", _duration(facts["uptime_seconds"])),
            ("Process", str(facts["pid"])),
        ]
    words.append(("Postgres", facts["postgres"]))
    if facts["files"] is not None:
        words.append(("Files", facts["files"]))
    if facts["apps"] is not None:
        words.append(("Apps", f"{facts['apps']} ({facts['apps_of']})"))
    return [*words, ("Data", facts["home"]), ("On disk", _size(facts["disk_bytes"]))]


def _duration(seconds: int) -> str:
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def disk_use(home: Path) -> int:
    """Bytes on disk of the data folder, and of the cluster that it may link to."""
    cluster = home / "postgres"
    folders = [home] + ([cluster.resolve()] if cluster.is_symlink() else [])
    return sum(size for folder in folders for size in _sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    """Of each file below; what vanishes meanwhile or may not be read counts nothing."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path))
            else:
                yield entry.stat(follow_symlinks=False).st_blocks * 512
