"""Whether a server answers through a client's configuration: MCP spoken as the client would, and its own word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from typing import IO, Any, cast

from brolly.commands.clients import Client, Entry, Way
from brolly.commands.terminal import spinner
from brolly.core.errors import AppError
from brolly.core.settings import own_environment

_LIMIT_SECONDS = 60
_WRITTEN = "The configuration is written, but "
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_INITIALIZE: Entry = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "brolly-connect", "version": "1"},
    },
}
_INITIALIZED: Entry = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_LIST: Entry = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}


def list_tools(way: Way) -> dict[str, Any]:
    """Speak MCP through what was written: how many ``tools`` in how many ``seconds``; raises where nothing answers."""
    began = time.monotonic()
    with spinner("Asking the server for its tools…"):
        tools = list_by_http(way) if way.url else _list_by_program(way)
    return {"tools": len(tools), "seconds": round(time.monotonic() - began, 2)}


def answers(client: Client, entry: Entry) -> str:
    """Why an entry of the client's file does not work; empty when it does."""
    url = str(entry.get(client.address) or "") if client.address else ""
    try:
        if url:
            key = str(cast(Entry, entry.get("headers") or {}).get("Authorization", "")).removeprefix("Bearer ")
            list_by_http(Way(url=url, key=key))
        else:
            words = (str(entry.get("command", "")), *map(str, cast(list[Any], entry.get("args") or [])))
            _list_by_program(Way(words, cast(dict[str, str], entry.get("env") or {})))
    except AppError as error:
        return error.message.removeprefix(_WRITTEN)
    except OSError as error:
        return f"{entry.get('command')}: {error.strerror}"
    return ""


def list_by_http(way: Way) -> list[Any]:
    """The tools as the server lists them for that address and key; raises where it does not."""
    import httpx

    headers = {"Authorization": f"Bearer {way.key}", "Accept": "application/json, text/event-stream"}
    local = way.url.startswith("http://127.0.0.1")
    try:
        answer = httpx.post(way.url, json=_LIST, headers=headers, timeout=_LIMIT_SECONDS, trust_env=not local)
        body: Any = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise _silent(f"{way.url} does not answer ({error or type(error).__name__})") from error
    if "result" not in body:
        raise _silent(f"{way.url} answered {answer.status_code}: {_said(body)}")
    return body["result"]["tools"]


def _list_by_program(way: Way) -> list[Any]:
    lines = "".join(json.dumps(each) + "\n" for each in (_INITIALIZE, _INITIALIZED, _LIST))
    command = [shutil.which(way.command[0]) or way.command[0], *way.command[1:]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**own_environment(), **way.env},
    ) as child:  # fmt: skip
        timer = threading.Timer(_LIMIT_SECONDS, child.kill)
        timer.daemon = True
        timer.start()
        stdin, stdout = cast(IO[str], child.stdin), cast(IO[str], child.stdout)
        stdin.write(lines)
        stdin.flush()
        answers: dict[Any, Any] = {}
        while 2 not in answers and (line := stdout.readline()):
            body = json.loads(line)
            answers[body.get("id")] = body
        stdin.close()
        said = "" if 2 in answers else cast(IO[str], child.stderr).read()
        timer.cancel()
    answer = answers.get(2, {})
    if "result" not in answer:
        raise _silent(f"{' '.join(way.command)} gave no list of tools: {_said(answer) or said.strip()[-500:]}")
    return answer["result"]["tools"]


def _said(body: Any) -> str:
    error: Any = cast(Entry, body).get("error") if isinstance(body, dict) else None
    return str(cast(Entry, error).get("message", "")) if isinstance(error, dict) else ""


def _silent(why: str) -> AppError:
    return AppError(
        "STATE_PREREQUISITE_MISSING",
        f"{_WRITTEN}{why}.",
        remediation="See what brolly doctor finds, mend it and repeat the command.",
    )


def ask_client(client: Client, name: str) -> str:
    """The client's own word on the server, where its program is here and can list servers; empty otherwise."""
    program = shutil.which(client.program) if client.program else None
    if program is None:
        return ""
    # Gemini's program starts servers in folders alone that a person trusted; who runs this does.
    env = {**own_environment(), "GEMINI_CLI_TRUST_WORKSPACE": "true"}
    with spinner(f"Asking {client.title}…"):
        try:
            done = subprocess.run(
                [program, "mcp", "list"], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_LIMIT_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{client.program} mcp list did not end ({type(error).__name__})"
    lines = _COLOURS.sub("", done.stdout + done.stderr).splitlines()
    found = next((line.strip() for line in lines if re.search(rf"(^|\s){re.escape(name)}[:\s]", line)), "")
    return found or f"{client.program} mcp list does not name {name}"
