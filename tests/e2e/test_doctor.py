"""``brolly doctor``: finds what is wrong with a machine, and says nothing of what is not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import COMMAND, Machine, environment


def doctor(home: Path, person: Path, **settings: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Its exit code, and what it found, by state."""
    env = environment(home, **settings) | {"HOME": str(person), "CLAUDE_CONFIG_DIR": str(person)}
    done = subprocess.run(
        [*COMMAND, "doctor", "--json"], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is (done.returncode == 0)
    found: dict[str, list[dict[str, Any]]] = {"ok": [], "warning": [], "failure": []}
    for each in told["findings"]:
        assert bool(each["then"]) is (each["state"] != "ok"), "whatever is wrong comes with what to do"
        found[each["state"]].append(each)
    return done.returncode, found


def test_a_machine_with_a_server_and_a_client_is_well(here: Machine, tmp_path: Path) -> None:
    server = here.serve(here.home())
    key = (server.home / "owner.key").read_text().strip()
    entries = {
        "pipe": {"command": COMMAND[0], "args": [*COMMAND[1:], "mcp", "--home", str(server.home)]},
        "address": {"type": "http", "url": f"{server.url}/mcp", "headers": {"Authorization": f"Bearer {key}"}},
        "another": {"command": "no-such-program", "args": ["mcp"]},
    }
    (tmp_path / ".claude.json").write_text(json.dumps({"mcpServers": entries}))
    code, found = doctor(server.home, tmp_path)
    assert (code, found["failure"]) == (0, [])
    texts = [each["text"] for each in found["ok"]]
    for part in (f"answers at {server.url}", "database: ok", "files: ok", "PostgreSQL", "deno", "address works"):
        assert any(part in text for text in texts), part

    (server.home / "owner.key").chmod(0o644)
    entries["address"]["headers"] = {"Authorization": "Bearer bb_sk_" + "0" * 40}
    (tmp_path / ".claude.json").write_text(json.dumps({"mcpServers": entries}))
    code, found = doctor(server.home, tmp_path)
    assert code == 1
    failures = [f"{each['text']} {each['then']}" for each in found["failure"]]
    assert len(failures) == 2
    assert "owner.key may be read by others Close it: chmod 600" in failures[0]
    assert "address does not work" in failures[1]
    assert "unknown, revoked or expired" in failures[1]
    assert failures[1].endswith("brolly connect claude")
    assert not any("no-such-program" in text for text in failures), "other people's servers are not ours to judge"


def test_what_stands_in_the_way_of_a_first_start_is_told(here: Machine, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        home = here.home()
        code, found = doctor(home, tmp_path, port=str(taken.getsockname()[1]))
    assert (code, found["failure"]) == (0, [])
    said = " ".join(each["text"] for each in found["warning"])
    assert "in use by another program" in said
    assert "no coding agent is connected" in said
    assert not home.exists(), "looking makes nothing"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"databse_url": "x"}, "BROLLY_DATABASE_URL"),
        ({"database_url": "postgres://nobody@127.0.0.1:9/x"}, "127.0.0.1:9"),
    ],
)
def test_settings_that_cannot_work_are_told(
    here: Machine, tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    code, found = doctor(here.home(), tmp_path, **settings)
    assert code == 1
    assert words in json.dumps(found["failure"])


def test_people_read_lines(here: Machine, tmp_path: Path) -> None:
    env = environment(here.home()) | {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([*COMMAND, "doctor"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("ok: settings: ")
    assert done.stdout.rstrip().endswith("warnings.") or done.stdout.rstrip().endswith("warning.")
