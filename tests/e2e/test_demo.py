"""``brolly demo``, to its end: what it shows, and what it leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import httpx

from tests.e2e.processes import (
    COMMAND,
    Machine,
    brolly,
    environment,
    owner_key,
    postmaster,
    processes_of,
    recorded,
    wait_until,
)

READERS = ["anonymous", "Alice", "Bob", "service key"]
VIEWS = {
    "Alice: hello world": ["sees it", "sees it", "sees it", "sees it"],
    "Alice: secret draft": ["hidden", "sees it", "hidden", "sees it"],
    "Bob: first post": ["sees it", "sees it", "sees it", "sees it"],
    "Bob: unfinished draft": ["hidden", "hidden", "sees it", "sees it"],
}
PEOPLE = ["Carol", "Dan"]
FOUND = {
    "Carol: for all to read": ["finds it", "finds it"],
    "Carol: my draft": ["finds it", "hidden"],
    "Dan: for all to read": ["finds it", "finds it"],
    "Dan: my draft": ["hidden", "finds it"],
}
REFUSAL = "No INSERT policy on posts is for anonymous callers."


def shown_by(home: Path, *arguments: str, **more: str) -> str:
    """What a demo that ends well prints, on a wide screen."""
    done = subprocess.run(
        [*COMMAND, "demo", *arguments],
        env={**environment(home), "COLUMNS": "200", "PYTHONUTF8": "1", **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def check(shown: str) -> None:
    """Who sees what, the refusal, how to go on."""
    # Rich draws the head of a table with heavy lines.
    lines = [line.replace("┃", "│") for line in shown.splitlines()]
    rows = {cells[0]: cells[1:] for line in lines if len(cells := cells_of(line)) == 1 + len(READERS)}
    assert rows == {"post": READERS, **VIEWS}
    assert "refused: AUTH_RLS_POLICY_VIOLATION" in shown
    assert REFUSAL in shown
    people = {cells[0]: cells[1:] for line in lines if len(cells := cells_of(line)) == 1 + len(PEOPLE)}
    assert people == {"post": PEOPLE, **FOUND}
    for person in PEOPLE:
        assert f"{person} finds the own draft by 4 doors, the other by none" in shown
    for person in PEOPLE:
        assert f"Hello, {person}! The row that it wrote is {person}'s" in shown
    assert "a stranger: AUTH_RLS_POLICY_VIOLATION" in shown
    assert re.search(r"made due now, it ran at \S+: status 200", shown)
    for client in ("Claude Code", "Cursor", "Gemini CLI"):
        assert client in shown


def check_readme(shown: str) -> None:
    """The README's own lines, run as they stand against the app that the demo kept."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (lines,) = [block for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) if "curl" in block]
    assert len([line for line in lines.splitlines() if "curl" in line]) == 6
    address = re.search(r"API=(\S+) APP=(\S+)", shown)
    assert address is not None, shown
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", lines],
        env={**os.environ, "API": address[1], "APP": address[2], "NO_PROXY": "*"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *_, ann, ben = done.stdout.splitlines()
    assert (ann, ben) == ('[{"title":"My draft"}]', "[]"), done.stdout


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_demo_shows_who_sees_what_and_leaves_nothing(here: Machine) -> None:
    folder = here.home()
    folder.mkdir(mode=0o711)
    unused = folder / "own"
    check(shown_by(unused, TMPDIR=str(folder)))
    assert list(folder.iterdir()) == []
    # The server gives everything back a moment before its process is gone.
    wait_until(lambda: not processes_of(folder), "no process is left")


def test_a_demo_that_is_kept_leaves_a_server_that_down_ends(here: Machine) -> None:
    home = here.home()
    shown = shown_by(home, "--keep")
    check(shown)
    assert f"data folder {home}" in shown
    assert "brolly down" in shown
    found = recorded(home)
    assert found is not None
    headers = {"Authorization": f"Bearer {owner_key(home)}"}
    kept = httpx.get(f"{found['url']}/apps", headers=headers, trust_env=False)
    assert kept.status_code == 200
    assert "demo-blog-" in kept.text
    check_readme(shown)
    down = brolly(home, "down")
    assert down.returncode == 0, down.stderr
    assert found["url"] in down.stdout
    assert recorded(home) is None
    assert postmaster(home) is None
    wait_until(lambda: not processes_of(home), "no process is left")
