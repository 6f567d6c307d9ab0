"""connect: write a client's configuration, and prove that the server answers through it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from brolly.commands.clients import (
    CLIENTS,
    KEY_VARIABLE,
    Client,
    Entry,
    Way,
    client_folders,
    link_for,
    read_file,
    write_file,
)
from brolly.commands.handshake import ask_client, list_by_http, list_tools
from brolly.commands.options import settings_for
from brolly.commands.terminal import run, spinner, write, write_facts, write_json, write_table
from brolly.core.errors import AppError
from brolly.core.settings import Settings, default_home


@dataclass(frozen=True, slots=True)
class Wish:
    """What the person asked for."""

    client: Client
    name: str
    project: Path | None
    http: bool
    settings: Settings

    @property
    def file(self) -> Path:
        """The file that holds the client's servers."""
        return self.client.file(self.project, client_folders())


def connect(
    client: str | None, *, project: bool, http: bool, only_print: bool, remove: bool, name: str, as_json: bool,
    **given: Any,
) -> int:  # fmt: skip
    """Do it; the exit code."""
    settings = settings_for(given, elsewhere=True)
    if client is None:
        _show_all(name, as_json)
        return 0
    wish = Wish(CLIENTS[client], name, Path.cwd() if project else None, http, settings)
    if remove:
        return _remove(wish, as_json)
    if only_print:
        return _print(wish, as_json)
    way = _way(wish)
    entry = wish.client.entry(way, shared=project)
    content = read_file(wish.client, wish.file)
    servers = cast(Entry, content.setdefault(wish.client.section, {}))
    changed = servers.get(name) != entry
    if changed:
        servers[name] = entry
        write_file(wish.file, content)
    facts = {
        "client": wish.client.title,
        "file": str(wish.file),
        "changed": changed,
        "server": way.url or " ".join(way.command),
        **list_tools(way),
        "client_says": ask_client(wish.client, name),
        "next": wish.client.then,
    }
    if project and (way.url or KEY_VARIABLE in way.env):
        facts["next"] = f"Set {KEY_VARIABLE} where {wish.client.title} starts: the file holds no key. {facts['next']}"
    _tell(facts, as_json)
    return 0


def _tell(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(facts)
        return
    says = facts["client_says"]
    write_facts(
        [
            ("Client", facts["client"]),
            ("File", f"{facts['file']}{'' if facts['changed'] else ' (as it was)'}"),
            ("Server", facts["server"]),
            ("Answers", f"yes, with {facts['tools']} tools in {facts['seconds']:.1f} s"),
            *([("It says", says)] if says else []),
            ("Next", facts["next"]),
        ]
    )


def _way(wish: Wish) -> Way:
    """How this client is to reach the server; for --http with a key, made if the file has none that works."""
    settings = wish.settings
    if not wish.http:
        env = {"BROLLY_URL": settings.url, KEY_VARIABLE: settings.api_key} if settings.url else {}
        return Way((*_program(wish.project is not None), *_arguments(settings)), {k: v for k, v in env.items() if v})
    base = settings.url.rstrip("/").removesuffix("/mcp") or _local_address(settings)
    way = Way(url=f"{base}/mcp{_query(settings)}", key=settings.api_key)
    return way if way.key else replace(way, key=_kept_key(wish, way.url) or _new_key(wish, base))


def _program(shared: bool) -> tuple[str, ...]:
    """The command as an editor can start it: it may have another PATH than this terminal, and a colleague's machine
    other folders."""
    if shared and shutil.which("brolly"):
        return ("brolly",)
    beside = Path(sys.executable).with_name("brolly")
    return (str(beside),) if beside.exists() else (sys.executable, "-m", "brolly")


def _arguments(settings: Settings) -> list[str]:
    words = ["mcp"]
    if settings.home != default_home():
        words += ["--home", str(settings.home)]
    if settings.app:
        words += ["--app", settings.app]
    if settings.tools:
        words += ["--tools", ",".join(settings.tools)]
    return [*words, "--read-only"] if settings.read_only else words


def _query(settings: Settings) -> str:
    wanted = {"app": settings.app, "tools": ",".join(settings.tools), "read_only": "true" if settings.read_only else ""}
    given = {name: value for name, value in wanted.items() if value}
    return f"?{urlencode(given, safe=',')}" if given else ""


def _local_address(settings: Settings) -> str:
    from brolly.daemon import ensure_running

    with spinner("Starting the server…"):
        # What narrows this client must not narrow the server, which others share.
        return run(_started, ensure_running, settings)


async def _started(ensure: Any, settings: Settings) -> str:
    return (await ensure(settings, options=["--no-read-only", "--tools", ""])).url


def _kept_key(wish: Wish, url: str) -> str:
    """The key that the file has for this very address already, which says what the key may do, if it still works."""
    entry: Any = read_file(wish.client, wish.file).get(wish.client.section, {}).get(wish.name)
    try:
        if entry[wish.client.address] != url:
            return ""
        key = str(entry["headers"]["Authorization"]).removeprefix("Bearer ")
    except (KeyError, TypeError):
        return ""
    try:
        list_by_http(Way(url=url, key=key))
    except AppError:
        return ""
    return key


def _new_key(wish: Wish, base: str) -> str:
    import httpx

    settings = wish.settings
    try:
        owner = (settings.home / "owner.key").read_text().strip() if not settings.url else ""
    except OSError:
        owner = ""
    if wish.project is not None:
        # The file will refer to a variable; the owner's key is for the check alone.
        return owner
    body: dict[str, Any] = {"name": f"connect-{wish.client.name}", "additional_scopes": _scopes(settings)}
    if settings.app:
        body["app_id"] = settings.app
    if owner:
        answer = httpx.post(
            f"{base}/api-keys", json=body, headers={"Authorization": f"Bearer {owner}"}, timeout=30, trust_env=False
        )
        if answer.status_code == 201:
            return str(answer.json()["key"])
        if answer.status_code == 404:
            raise AppError(
                "RESOURCE_NOT_FOUND",
                f"There is no app {settings.app}.",
                remediation="Correct --app; manage_app list shows the apps.",
            )
    raise AppError(
        "AUTH_REQUIRED",
        f"No service key is set for {base}.",
        remediation=f"Set {KEY_VARIABLE} to a key that was made there with brolly keys create NAME, and repeat.",
    )


def _scopes(settings: Settings) -> list[str]:
    return ["read"] if settings.read_only else []


def _print(wish: Wish, as_json: bool) -> int:
    """Show what would be written; a key is never shown."""
    settings = wish.settings
    if wish.http:
        base = settings.url.rstrip("/").removesuffix("/mcp") or f"http://{settings.host}:{settings.port}"
        way = Way(url=f"{base}/mcp{_query(settings)}")
    else:
        way = _way(wish)
    entry = wish.client.entry(way, shared=True)
    link = link_for(wish.client, wish.name, entry)
    shown = {wish.client.section: {wish.name: entry}}
    if as_json:
        write_json({"file": str(wish.file), "content": shown, "link": link or None})
        return 0
    write_json(shown)
    write_facts([("File", str(wish.file)), *([("Link", link)] if link else [])])
    return 0


def _remove(wish: Wish, as_json: bool) -> int:
    content = read_file(wish.client, wish.file)
    removed = content.get(wish.client.section, {}).pop(wish.name, None) is not None
    if removed:
        write_file(wish.file, content)
    if as_json:
        write_json({"file": str(wish.file), "removed": removed})
    else:
        write(f"{'Removed' if removed else 'There was no'} {wish.name} in {wish.file}.")
    return 0


def _show_all(name: str, as_json: bool) -> None:
    """Which clients have the server, of those that this machine seems to have."""
    rows: list[dict[str, Any]] = []
    for client in CLIENTS.values():
        path = client.file(None, client_folders())
        try:
            entry: Any = read_file(client, path).get(client.section, {}).get(name)
            state = "connected" if entry is not None else "not connected"
        except AppError as error:
            state = error.message
        here = path.exists() or path.parent.exists() or bool(client.program and shutil.which(client.program))
        rows.append({"client": client.name, "state": state if here else "not found here", "file": str(path)})
    if as_json:
        write_json(rows)
        return
    write_table(["client", "state", "file"], [[row["client"], row["state"], row["file"]] for row in rows])
