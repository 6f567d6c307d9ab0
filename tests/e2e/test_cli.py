"""The command line, as a person and as a program use it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from brolly.core.settings import describe_settings
from tests.e2e.processes import (
    COMMAND,
    Machine,
    brolly,
    environment,
    free_port,
    owner_key,
    postmaster,
    processes_of,
    recorded,
    wait_until,
)

COMMANDS = ("serve", "up", "down", "status", "mcp", "keys", "logs", "migrate", "demo")


@pytest.fixture(scope="module")
def home(shared: Machine) -> Path:
    """A data folder that the tests of this module share; no server runs at first."""
    return shared.home()


def apps(url: str, key: str) -> int:
    """The status with which a server answers that key."""
    return httpx.get(f"{url}/apps", headers={"Authorization": f"Bearer {key}"}, trust_env=False).status_code


def test_help_lists_commands_and_settings(here: Machine) -> None:
    home = here.home()
    done = brolly(home, "--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    done = brolly(home, "serve", "--help")
    for setting in describe_settings():
        assert setting["name"] in done.stdout
    assert brolly(home, "--version").stdout.startswith("brolly ")
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["statsu"], "status"),
        (["keys", "lsit"], "list"),
        (["serve", "--prot", "1"], "--port"),
        (["migrate", "--chekc"], "--check"),
    ],
)
def test_near_misses_are_named(here: Machine, arguments: list[str], near: str) -> None:
    done = brolly(here.home(), *arguments)
    assert done.returncode == 2
    assert near in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["serve", "up", "mcp"])
def test_near_misses_of_tools_are_named(here: Machine, command: str) -> None:
    home = here.home()
    for mistyped, said in (
        (brolly(home, command, tools="manage_ap"), "BROLLY_TOOLS names manage_ap, which is not a tool. Did you mean "),
        (brolly(home, command, "--tools", "rls,shema"), "--tools names shema, which is not a tool. Did you mean "),
    ):
        assert (mistyped.returncode, mistyped.stdout) == (1, "")
        assert said + ("manage_app?" if "manage_ap," in said else "schema?") in mistyped.stderr
        assert ", manage_schema, " in mistyped.stderr, "the names to choose from"
    assert not home.exists(), "nothing was started for it"


def test_tools_may_be_named_without_manage(here: Machine) -> None:
    home = here.home()
    up = brolly(home, "up", "--tools", "schema,rls,manage_schema")
    assert up.returncode == 0, up.stderr
    found = recorded(home)
    assert found is not None
    assert found["tools"] == ["manage_schema", "manage_rls"]
    assert brolly(home, "up", tools="rls,schema").stdout == up.stdout, "the same tools, said otherwise"
    assert "with manage_schema, manage_rls tools" in brolly(home, "up", "--tools", "app").stderr


def test_up_status_and_down(home: Path) -> None:
    assert brolly(home, "status").returncode == 3
    stopped = json.loads(brolly(home, "status", "--json").stdout)
    assert (stopped["state"], stopped["url"]) == ("stopped", None)
    assert brolly(home, "down").returncode == 0
    assert not home.exists(), "asking makes nothing"

    up = brolly(home, "up")
    assert up.returncode == 0, up.stderr
    url = up.stdout.strip()
    found = recorded(home)
    assert found is not None
    assert found["url"] == url
    assert apps(url, owner_key(home)) == 200
    again = brolly(home, "up")
    assert (again.returncode, again.stdout.strip()) == (0, url)
    assert recorded(home) == found, "it is the same server"

    process = psutil.Process(found["pid"])
    assert process.terminal() is None
    assert process.cwd() == "/"
    assert os.getsid(found["pid"]) == found["pid"]
    assert stat.S_IMODE((home / "logs" / "server.log").stat().st_mode) == 0o600

    done = brolly(home, "status", "--json")
    assert done.returncode == 0
    status = json.loads(done.stdout)
    assert status["state"] == "running"
    assert status["mcp_url"] == f"{url}/mcp"
    assert (status["apps"], status["postgres"], status["pid"]) == (0, "embedded", found["pid"])
    assert status["disk_bytes"] > 1_000_000
    assert status["uptime_seconds"] >= 0
    assert url in brolly(home, "status").stdout

    down = brolly(home, "down")
    assert down.returncode == 0, down.stderr
    assert url in down.stdout
    assert brolly(home, "status").returncode == 3
    assert postmaster(home) is None
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "it has ended")


def test_up_does_not_pass_off_a_server_as_what_was_asked_for(home: Path) -> None:
    url = brolly(home, "up").stdout.strip()
    port = url.rpartition(":")[2]
    assert brolly(home, "up", "--port", port, "--no-read-only").stdout.strip() == url
    for done, unlike in (
        (brolly(home, "up", "--read-only"), "not read-only"),
        (brolly(home, "up", read_only="1"), "not read-only"),
        (brolly(home, "up", "--port", "4466"), "not on port 4466"),
        (brolly(home, "up", "--tools", "manage_app"), "with all tools"),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert f"A server runs already at {url}, {unlike}." in done.stderr
        assert "Run brolly down, then repeat." in done.stderr


def test_failures_are_in_terms_of_the_command(home: Path) -> None:
    refused = brolly(home, "keys", "create", "")
    assert refused.returncode == 1
    assert "brolly keys create --help" in refused.stderr
    assert "manage_" not in refused.stderr
    for arguments, code in ((["keys", "revoke", "x"], 1), (["keys", "list", "--acount", "x"], 2)):
        refused = brolly(home, *arguments, "--json")
        assert refused.returncode == code
        assert set(json.loads(refused.stdout)["error"]) == {"code", "message", "remediation"}
        assert refused.stderr == ""
    assert "'abc' is not a whole number" in brolly(home, "up", "--port", "abc").stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_demo_that_is_ended_leaves_nothing(here: Machine, number: signal.Signals) -> None:
    folder = here.home()
    folder.mkdir(mode=0o711)
    with subprocess.Popen(
        [*COMMAND, "demo"],
        env={**environment(folder), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        wait_until(lambda: list(folder.glob("brolly-demo-*/server.lock")), "its server starts")
        child.send_signal(number)
        _, said = child.communicate(timeout=40)
    assert child.returncode == 128 + number
    assert "Traceback" not in said
    assert not list(folder.glob("brolly-demo-*"))
    # The server gives everything back a moment before its process is gone.
    wait_until(lambda: not processes_of(folder), "nothing that it started runs on")


def test_a_demo_without_reader_and_without_utf8(here: Machine) -> None:
    folder = here.home()
    folder.mkdir(mode=0o711)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with subprocess.Popen(
        [*COMMAND, "demo"],
        env={**environment(folder), **ascii_only, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        assert child.stdout.readline().startswith(b"+ connected"), child.stderr.read().decode()
        child.stdout.close()
        child.wait(40)
        assert child.stderr.read() == b""
    assert child.returncode == 1
    assert not list(folder.glob("brolly-demo-*"))


def test_several_at_once_bring_up_one_server(home: Path) -> None:
    said: list[str] = []

    def bring_up() -> None:
        said.append(brolly(home, "up").stdout.strip())

    threads = [threading.Thread(target=bring_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(said)) == 1
    found = recorded(home)
    assert found is not None
    assert said[0] == found["url"]


def test_keys_beside_a_running_server_and_without_one(home: Path) -> None:
    url = brolly(home, "up").stdout.strip()
    made = json.loads(brolly(home, "keys", "create", "ci", "--json").stdout)
    assert apps(url, made["key"]) == 200
    reader = brolly(home, "keys", "create", "reader", "--read").stdout.strip()
    headers = {"Authorization": f"Bearer {reader}"}
    assert httpx.post(f"{url}/init", json={"name": "x"}, headers=headers, trust_env=False).status_code == 403
    other = brolly(home, "keys", "create", "bobs", "--account", "bob").stdout.strip()
    assert apps(url, other) == 200

    names = {key["name"]: key for key in json.loads(brolly(home, "keys", "list", "--json").stdout)}
    assert set(names) == {"owner", "ci", "reader"}
    assert "key" not in names["ci"]
    assert made["key"] not in json.dumps(names)
    assert "bobs" in brolly(home, "keys", "list", "--account", "bob").stdout
    unknown = brolly(home, "keys", "list", "--account", "bbo")
    assert unknown.returncode == 1
    assert "Did you mean bob" in unknown.stderr

    assert brolly(home, "keys", "revoke", made["id"]).returncode == 0
    assert apps(url, made["key"]) == 401
    again = brolly(home, "keys", "revoke", made["id"])
    assert again.returncode == 1
    assert made["id"] in again.stderr
    assert "Traceback" not in again.stderr

    brolly(home, "down")
    later = brolly(home, "keys", "create", "later", "--app", "app_doesnotexist")
    assert later.returncode == 1
    assert "app_doesnotexist" in later.stderr
    later = brolly(home, "keys", "create", "later")
    assert later.stdout.startswith("bb_sk_")
    assert postmaster(home) is None, "what the command started has ended with it"
    url = brolly(home, "up").stdout.strip()
    assert apps(url, later.stdout.strip()) == 200


def test_migrate(here: Machine, home: Path) -> None:
    new = here.home()
    pending = brolly(new, "migrate", "--check", "--json")
    assert pending.returncode == 1
    assert {step["database"] for step in json.loads(pending.stdout)} == {"control"}
    assert not new.exists(), "looking makes nothing"
    applied = brolly(new, "migrate", "--json")
    assert applied.returncode == 0, applied.stderr
    assert {step["database"] for step in json.loads(applied.stdout)} == {"control", "template"}
    done = brolly(new, "migrate", "--check")
    assert (done.returncode, done.stdout) == (0, "")
    assert brolly(home, "migrate").returncode == 0


def listens(stranger: socket.socket, port: int) -> bool:
    """Take the port; False when somebody else has it."""
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
    except OSError:
        return False
    return True


def test_a_taken_default_port_is_stepped_over(here: Machine) -> None:
    """Port 4000 is nobody's wish: the next free one is taken and recorded."""
    ours, url = False, ":4000"
    while url.endswith(":4000"):
        assert not ours, "two servers listen on one port"
        with socket.socket() as stranger:
            # Somebody else may have it, which does as well, unless they let go of it just now.
            ours = listens(stranger, 4000)
            home = here.home()
            up = brolly(home, "up")
            url = up.stdout.strip()
            assert url.startswith("http://127.0.0.1:"), up.stderr
    assert f"Port 4000 is in use; listening on {url.rpartition(':')[2]}" in up.stderr
    assert apps(url, owner_key(home)) == 200


def test_a_start_that_fails_shows_the_logs_last_words(here: Machine) -> None:
    done = brolly(here.home(), "up", database_url="postgresql://nobody:pass-word@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "127.0.0.1:1 cannot be used" in done.stderr
    assert "pass-word" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stale_record_fools_nobody(here: Machine) -> None:
    home = here.home()
    home.mkdir(mode=0o700)
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record = {
            "pid": bystander.pid,
            "url": "http://127.0.0.1:9",
            "version": "0",
            "started_at": "2020-01-01T00:00:00+00:00",
        }
        (home / "server.json").write_text(json.dumps({**record, "postgres": "embedded"}))
        (home / "server.lock").touch()
        assert brolly(home, "status").returncode == 3
        assert "No server runs" in brolly(home, "down").stdout
        url = brolly(home, "up").stdout.strip()
        assert apps(url, owner_key(home)) == 200
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_on_a_terminal_it_speaks_to_a_person(here: Machine) -> None:
    home = here.home()
    master, slave = pty.openpty()
    with (home.parent / "stderr").open("w") as stderr:
        child = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(free_port())],
            env={**environment(home), "TERM": "xterm", "COLUMNS": "200"},
            stdin=slave,
            stdout=slave,
            stderr=stderr,
            start_new_session=True,
        )
    os.close(slave)
    try:
        shown = ""
        while "brolly mcp" not in shown:
            try:
                shown += os.read(master, 4096).decode()
            except OSError:
                pytest.fail((home.parent / "stderr").read_text())
        assert "\x1b[" in shown
        assert "/mcp" in shown
        assert str(home / "owner.key") in shown
        # The terminal is closed.
        os.close(master)
        os.kill(child.pid, signal.SIGHUP)
        assert child.wait(15) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert recorded(home) is None
    assert postmaster(home) is None


def test_status_and_help_stay_light(home: Path) -> None:
    code = (
        "import sys; from brolly.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    for arguments in (["--help"], ["status"], ["up"]):
        done = subprocess.run(
            [COMMAND[0], "-c", code, *arguments], env=environment(home), capture_output=True, text=True, check=True
        )
        for heavy in ("mcp", "pydantic", "asyncpg", "starlette", "uvicorn"):
            assert f"'{heavy}'" not in done.stderr, (arguments, heavy)
