"""The MCP clients that ``brolly connect`` knows: where each keeps its servers, and how it writes one down."""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from brolly.core.errors import AppError
from brolly.core.settings import client_variables

Entry = dict[str, Any]
KEY_VARIABLE = "BROLLY_API_KEY"


@dataclass(frozen=True, slots=True)
class Client:
    """One client. Facts are those of its own documentation of November 2026, tried where it runs without a login.

    ``section`` is the key of the servers in its file, ``address`` the name that it gives to a server's URL (empty:
    it takes programs only), ``typed`` whether an entry names its transport, ``variable`` how its file refers to an
    environment variable, ``program`` its command line, if that can list servers.
    """

    name: str
    title: str
    section: str
    user_file: str
    project_file: str = ""
    address: str = "url"
    typed: bool = False
    variable: str = "${{{name}}}"
    program: str = ""
    then: str = "Restart it."

    def file(self, project: Path | None, folders: Mapping[str, Path]) -> Path:
        """Its file: of the project, else of the user. ``folders`` are HOME, CONFIG and CLAUDE."""
        if project is None:
            return Path(self.user_file.format(**folders))
        if not self.project_file:
            raise AppError(
                "CONFIG_INVALID",
                f"{self.title} has no configuration per project.",
                remediation="Repeat brolly connect without --project; --app holds the client to one app all the same.",
            )
        return project / self.project_file

    def entry(self, way: Way, *, shared: bool) -> Entry:
        """The server as the client writes it; ``shared`` files hold no secret, they refer to a variable."""
        if not way.url:
            program: Entry = {"command": way.command[0], "args": list(way.command[1:])}
            env = dict(way.env)
            if shared and KEY_VARIABLE in env:
                env[KEY_VARIABLE] = self.variable.format(name=KEY_VARIABLE)
            return ({"type": "stdio"} if self.typed else {}) | program | ({"env": env} if env else {})
        if not self.address:
            raise AppError(
                "CONFIG_INVALID",
                f"{self.title} starts programs and takes no address in its configuration.",
                remediation="Leave --http out: brolly mcp then carries its messages to the server.",
            )
        key = self.variable.format(name=KEY_VARIABLE) if shared else way.key
        kind: Entry = {"type": "http"} if self.typed else {}
        return {**kind, self.address: way.url, "headers": {"Authorization": f"Bearer {key}"}}


@dataclass(frozen=True, slots=True)
class Way:
    """How the server is reached: a program to start, or an address with a key."""

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    url: str = ""
    key: str = field(default="", repr=False)


CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            "claude", "Claude Code", "mcpServers", "{CLAUDE}/.claude.json", ".mcp.json",
            typed=True, program="claude", then="Start it anew, or type /mcp in it.",
        ),
        Client("claude-desktop", "Claude Desktop", "mcpServers", "{DESKTOP}/claude_desktop_config.json", address=""),
        Client(
            "cursor", "Cursor", "mcpServers", "{HOME}/.cursor/mcp.json", ".cursor/mcp.json",
            variable="${{env:{name}}}", then="Switch it on under Settings, MCP.",
        ),
        Client(
            "gemini", "Gemini CLI", "mcpServers", "{HOME}/.gemini/settings.json", ".gemini/settings.json",
            address="httpUrl", program="gemini", then="Start it anew; /mcp lists its tools.",
        ),
        Client(
            "vscode", "VS Code", "servers", "{CODE}/mcp.json", ".vscode/mcp.json",
            typed=True, variable="${{env:{name}}}", then="Start it with MCP: List Servers.",
        ),
    )
}  # fmt: skip


def client_folders() -> dict[str, Path]:
    """Where this machine's clients keep their files."""
    home, given = Path.home(), client_variables()
    config = given["XDG_CONFIG_HOME"] or home / ".config"
    settings = home / "Library/Application Support" if sys.platform == "darwin" else config
    return {
        "HOME": home,
        "CLAUDE": given["CLAUDE_CONFIG_DIR"] or home,
        "DESKTOP": settings / "Claude",
        "CODE": settings / "Code/User",
    }


def read_file(client: Client, path: Path) -> dict[str, Any]:
    """What the file holds; raises ``CONFIG_INVALID`` where it could not be written back as it is."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(client, path, f"cannot be read ({error})") from error
    if not text.strip():
        return {}
    try:
        found: Any = json.loads(text)
    except ValueError:
        # With comments it would come back without them, and what is broken is not ours to mend.
        raise _unusable(client, path, "has comments in it, or is no JSON") from None
    if not isinstance(found, dict) or not isinstance(cast(Entry, found).get(client.section, {}), dict):
        raise _unusable(client, path, f"has no object under {client.section}")
    return cast(Entry, found)


def _unusable(client: Client, path: Path, why: str) -> AppError:
    return AppError(
        "CONFIG_INVALID",
        f"{path} {why}, so nothing was written.",
        remediation=f"Add the server by hand: brolly connect {client.name} --print shows what belongs there.",
    )


def write_file(path: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step, so that a client never reads half of it; it may hold a key, so only for its
    owner where it is new."""
    # A link leads to where somebody keeps all such files.
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as fresh:
            json.dump(content, fresh, indent=2, ensure_ascii=False)
            fresh.write("\n")
            fresh.flush()
            os.fsync(fresh.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def link_for(client: Client, name: str, entry: Entry) -> str:
    """An address that installs the server when it is opened; empty where the client has none."""
    if client.name == "cursor":
        config = base64.b64encode(json.dumps(entry).encode()).decode()
        return f"cursor://anysphere.cursor-deeplink/mcp/install?name={quote(name)}&config={quote(config)}"
    if client.name == "vscode":
        return "vscode:mcp/install?" + quote(json.dumps({"name": name, **entry}))
    return ""
