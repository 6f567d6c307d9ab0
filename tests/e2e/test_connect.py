"""``brolly connect``: Claude Code's and Gemini CLI's own programs say connected; the other clients' files are right."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from tests import npm
from tests.e2e.processes import COMMAND, Machine, Process, environment, owner_key

PROGRAMS = ("@anthropic-ai/claude-code@2.1.197", "@google/gemini-cli@0.61.0")


@dataclass
class Person:
    """Somebody's account on a machine: a home with the clients' files, and a server."""

    server: Process
    folder: Path
    path: str

    def connect(self, *arguments: str, where: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
        env = environment(self.server.home, **settings)
        env |= {"HOME": str(self.folder), "CLAUDE_CONFIG_DIR": str(self.folder / "claude"), "PATH": self.path}
        return subprocess.run(
            [*COMMAND, "connect", *arguments],
            env=env, cwd=where or self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip

    def told(self, *arguments: str, where: Path | None = None, **settings: str) -> Any:
        done = self.connect(*arguments, "--json", where=where, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def linked(folder: Path, modules: Path) -> Path:
    """A folder with the programs ``claude`` and ``gemini``, as the packages' installation would link them: packages
    are installed here without running their scripts."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "claude").symlink_to(next((modules / "@anthropic-ai").glob("claude-code-*/claude")))
    (programs / "gemini").symlink_to(modules / ".bin" / "gemini")
    return programs


@pytest.fixture(scope="module")
def person(shared: Machine, tmp_path_factory: pytest.TempPathFactory) -> Person:
    folder = tmp_path_factory.mktemp("person")
    (folder / "claude").mkdir()
    (folder / ".cursor").mkdir()
    return Person(shared.serve(shared.home()), folder, os.environ["PATH"])


@pytest.mark.timeout(300)
def test_the_clients_themselves_say_connected(person: Person, tmp_path: Path) -> None:
    modules = npm.packages(*PROGRAMS) / "node_modules"
    path = f"{linked(tmp_path, modules)}{os.pathsep}{npm.environment()['PATH']}"
    with_programs = Person(person.server, person.folder, path)
    for client in ("claude", "gemini"):
        by_pipe = with_programs.told(client)
        by_address = with_programs.told(client, "--http", "--name", "brolly-http", "--read-only")
        for told in (by_pipe, by_address):
            assert "Connected" in told["client_says"], told
            assert told["tools"] >= 10
        assert by_address["tools"] < by_pipe["tools"]
    written = person.read("claude/.claude.json")["mcpServers"]
    assert written["brolly"]["type"] == "stdio"
    key = written["brolly-http"]["headers"]["Authorization"].removeprefix("Bearer ")
    assert key != owner_key(person.server.home), "each client has a key of its own, to be revoked alone"
    with person.server.client(key) as http:
        assert http.post("/init", json={"name": "no"}).json()["error"]["code"] == "AUTH_FORBIDDEN"
    # Once more changes nothing, and makes no second key.
    again = with_programs.told("claude", "--http", "--name", "brolly-http", "--read-only")
    assert again["changed"] is False
    assert written == person.read("claude/.claude.json")["mcpServers"]


def test_what_else_a_file_holds_stays(person: Person) -> None:
    file = person.folder / ".cursor" / "mcp.json"
    file.write_text('{"mcpServers": {"other": {"command": "x"}}, "more": [1]}')
    file.chmod(0o640)
    told = person.told("cursor", "--tools", "schema,select_rows")
    assert (told["tools"], told["file"]) == (2, str(file))
    content = person.read(".cursor/mcp.json")
    assert (content["more"], content["mcpServers"]["other"]) == ([1], {"command": "x"})
    assert content["mcpServers"]["brolly"]["args"][-2:] == ["--tools", "manage_schema,select_rows"]
    assert file.stat().st_mode & 0o777 == 0o640
    rows = {row["client"]: row["state"] for row in person.told()}
    assert (rows["cursor"], rows["claude-desktop"]) == ("connected", "not found here")
    assert person.told("cursor", "--remove")["removed"] is True
    assert person.read(".cursor/mcp.json") == {"mcpServers": {"other": {"command": "x"}}, "more": [1]}
    assert person.told("cursor", "--remove")["removed"] is False


@pytest.mark.parametrize("content", ['{"mcpServers": {} /* mine */}', "[]", '{"mcpServers": []}', "{"])
def test_a_file_that_could_not_be_written_back_is_left_alone(person: Person, content: str) -> None:
    file = person.folder / ".cursor" / "mcp.json"
    file.write_text(content)
    done = person.connect("cursor")
    assert done.returncode == 1
    assert "nothing was written" in done.stderr
    assert "brolly connect cursor --print" in done.stderr
    assert file.read_text() == content
    file.unlink()


def test_a_shared_file_and_what_is_printed_hold_no_key(person: Person, tmp_path: Path) -> None:
    told = person.told("vscode", "--project", "--http", where=tmp_path)
    assert "BROLLY_API_KEY" in told["next"]
    written = json.loads((tmp_path / ".vscode/mcp.json").read_text())["servers"]["brolly"]
    assert written == {
        "type": "http",
        "url": f"{person.server.url}/mcp",
        "headers": {"Authorization": "Bearer ${env:BROLLY_API_KEY}"},
    }
    link = person.told("cursor", "--print", url="https://brolly.example", api_key="bb_sk_" + "0" * 40)["link"]
    query = parse_qs(urlsplit(link).query)
    config = json.loads(base64.b64decode(query["config"][0]))
    assert config["env"] == {"BROLLY_URL": "https://brolly.example", "BROLLY_API_KEY": "${env:BROLLY_API_KEY}"}
    assert (query["name"], "bb_sk_" in link) == (["brolly"], False)
    told = person.told("vscode", "--print")
    assert json.loads(unquote(told["link"].partition("?")[2])) == {
        "name": "brolly",
        **told["content"]["servers"]["brolly"],
    }


def test_a_new_file_with_a_key_is_for_its_owner_alone(person: Person) -> None:
    with person.server.client() as http:
        app = http.post("/init", json={"name": "mine"}).json()["app_id"]
    person.told("cursor", "--http", "--app", app)
    file = person.folder / ".cursor" / "mcp.json"
    assert file.stat().st_mode & 0o777 == 0o600
    entry = person.read(".cursor/mcp.json")["mcpServers"]["brolly"]
    assert entry["url"].endswith(f"/mcp?app={app}")
    with httpx.Client(base_url=person.server.url, headers=entry["headers"], trust_env=False) as http:
        assert [each["id"] for each in http.get("/apps").json()["apps"]] == [app]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cursor", "--http", "--app", "app_nothere"), "There is no app app_nothere"),
        (("cursor", "--app", "blog"), "manage_app list"),
        (("claude-desktop", "--http"), "takes no address"),
        (("claude-desktop", "--project"), "no configuration per project"),
        (("emacs",), "'claude'"),
        (("cursor", "--tools", "shema"), "Did you mean"),
    ],
)
def test_what_cannot_be_is_told_and_writes_nothing(person: Person, arguments: tuple[str, ...], words: str) -> None:
    file = person.folder / ".cursor" / "mcp.json"
    before = file.read_bytes() if file.exists() else None
    done = person.connect(*arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert (file.read_bytes() if file.exists() else None) == before


def test_a_server_that_does_not_answer_is_told(person: Person) -> None:
    done = person.connect("cursor", url="http://127.0.0.1:9", api_key="bb_sk_" + "0" * 40)
    assert done.returncode == 1
    assert "The configuration is written, but" in done.stderr
    assert "cannot be reached" in done.stderr
