"""The log of a function while it happens: server-sent events from a real server, and ``brolly logs``."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from brolly.commands.logs import described
from tests.e2e.processes import COMMAND, Machine, Process, brolly, environment

CODE = """
export async function handler(request: Request) {
  const said = await request.text();
  console.log("heard", said + "\\u001b[2J");
  if (said === "fail") throw new Error("no luck");
  return new Response("ok");
}
"""


@dataclass
class Scene:
    """A server with an app ``shop`` and its function ``hear``."""

    server: Process
    app: str

    def say(self, text: str) -> None:
        httpx.post(f"{self.server.url}/v1/{self.app}/fn/hear", content=text, timeout=20, trust_env=False)

    def logs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return brolly(self.server.home, "logs", "shop", "hear", *arguments)

    @contextmanager
    def following(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        child = subprocess.Popen(
            [*COMMAND, "logs", self.app, "hear", "-f", *arguments],
            env=environment(self.server.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield child
        finally:
            child.kill()
            child.communicate()


@pytest.fixture(scope="module")
def scene(shared: Machine) -> Scene:
    server = shared.serve(shared.home())
    with server.client() as http:
        app = http.post("/init", json={"name": "shop"}).json()["app_id"]
        trigger = {"type": "http", "config": {"auth": "none"}}
        made = http.post(f"/v1/{app}/functions", json={"name": "hear", "code": CODE, "trigger": trigger}, timeout=60)
        assert made.status_code == 200, made.text
    made_scene = Scene(server, app)
    made_scene.say("first")
    made_scene.say("fail")
    return made_scene


def read(
    http: httpx.Client, path: str, count: int, last: str = "", now: Callable[[], None] = lambda: None
) -> tuple[list[str], str]:
    """What was said in the next events, and the number of the first. ``now`` is done once the server follows."""
    found: list[tuple[str, str]] = []
    number = ""
    with http.stream("GET", path, headers={"Last-Event-ID": last} if last else {}) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        lines = answer.iter_lines()
        assert next(lines) == ": following"
        now()
        while len(found) < count:
            line = next(lines)
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                message = json.loads(line[6:])["consoleLogs"][0]["message"]
                found.append((number, message.split()[1].partition("\x1b")[0]))
    return [said for _, said in found], found[0][0]


def test_the_stream_gives_each_call_once_and_goes_on_where_it_ended(scene: Scene) -> None:
    path = f"/v1/{scene.app}/functions/hear/logs/stream"

    def speak() -> None:
        scene.say("second")
        scene.say("third")

    with scene.server.client() as http:
        assert read(http, path + "?limit=2", 2)[0] == ["first", "fail"]
        assert read(http, path + "?limit=1&level=error", 1)[0] == ["fail"]
        assert read(http, path + "?since=2020-01-01T00:00:00Z", 2)[0] == ["first", "fail"]
        said, number = read(http, path, 2, now=speak)
        assert said == ["second", "third"]
        # Who comes again says what it had; the earlier entries that it first wished for are not repeated.
        assert read(http, path + "?limit=9", 1, number)[0] == ["third"]
        assert http.get(f"/v1/{scene.app}/functions/nowhere/logs/stream").status_code == 404
        assert http.get(path + "?limit=x").status_code == 400
    assert httpx.get(scene.server.url + path, trust_env=False).status_code in (401, 404)


def test_logs_shows_what_happened(scene: Scene) -> None:
    done = scene.logs("--since", "1h")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "  200  POST /  " in lines[0]
    assert lines[0].endswith("http, anonymous")
    assert lines[1] == "  info  heard first\N{REPLACEMENT CHARACTER}[2J"
    assert "Error: no luck" in done.stdout
    assert "hear.ts:5:" in done.stdout
    failed = scene.logs("--errors", "--json", "--limit", "1")
    [entry] = [json.loads(line) for line in failed.stdout.splitlines()]
    assert (entry["statusCode"], entry["error"]) == (500, "Error: no luck")
    assert scene.logs("--since", "2999-01-01").stdout == ""
    for arguments, code in (
        (("shop", "nowhere"), "RESOURCE_NOT_FOUND"),
        (("nowhere", "hear"), "RESOURCE_NOT_FOUND"),
        ((scene.app, "hear", "--since", "soon"), "VALIDATION_INVALID_SCHEMA"),
    ):
        refused = brolly(scene.server.home, "logs", *arguments, "--json")
        assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (1, code)


def test_nothing_that_was_printed_reaches_the_terminal_as_an_order() -> None:
    evil = "\x1b]0;x\x07\x9b2J\r\b\u202e\u2066\u200f\x7f\ud800[red]"
    line = {"level": evil, "message": evil + "\n" + evil, "timestamp": evil}
    text = ("trigger", "caller", "method", "path", "error", "stack")
    entry = {name: evil for name in text} | {"statusCode": 500, "duration": 1.0, "consoleLogs": [line]}
    shown = described({**entry, "timestamp": "2026-01-31T08:00:00+00:00"}).plain
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    # Nor is it markup.
    assert shown.count("[red]") == 8


def test_following_ends_with_ctrl_c_and_with_the_server(scene: Scene) -> None:
    with scene.following("--json", "--limit", "1") as child:
        assert child.stdout is not None
        child.stdout.readline()
        scene.say("live")
        assert "heard live" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        assert (child.returncode, out, err.strip()) == (130, "", "")
    with scene.following("--limit", "1") as child:
        assert child.stdout is not None
        child.stdout.readline()
        scene.server.end()
        _, err = child.communicate(timeout=30)
        assert child.returncode == 1
        assert "brolly up" in err
    stopped = scene.logs("--json")
    assert (stopped.returncode, json.loads(stopped.stdout)["error"]["code"]) == (1, "STATE_PREREQUISITE_MISSING")
