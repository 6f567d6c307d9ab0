"""Other backends' MCP servers from npm, asked for their tools by the same program; and o200k, which npm has as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import platformdirs

from bench.clients import initialize_message, message
from bench.program import end

_SECONDS = 60
_FIREBASE = "core,auth,storage,messaging,functions,remoteconfig,crashlytics,apphosting,database"
_SUPABASE = "account,database,debugging,development,functions,branching,storage"


@dataclass(frozen=True)
class McpRival:
    """A server to compare with. ``words`` follow its program; ``note`` says what is left out, for want of a network."""

    name: str
    package: str
    words: Sequence[str]
    note: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


MCP_RIVALS = (
    McpRival(
        "Supabase",
        "@supabase/mcp-server-supabase",
        ("mcp-server-supabase", f"--access-token=sbp_{'0' * 40}", f"--features={_SUPABASE}"),
        "without its search of the documentation",
    ),
    McpRival("InsForge", "@insforge/mcp", ("insforge-mcp", "--api_key", "x", "--api_base_url", "BACKEND")),
    McpRival("Convex", "convex", ("convex", "mcp", "start")),
    McpRival("bknd", "bknd", ("bknd", "mcp", "--force")),
    McpRival(
        "Firebase",
        "firebase-tools",
        ("firebase", "mcp", "--only", _FIREBASE),
        "without Firestore and Data Connect, which it asks Google for",
    ),
)
_TOKENIZER = "js-tiktoken"


def _folder() -> Path:
    return Path(platformdirs.user_cache_dir("brolly-bench", appauthor=False)) / "agents"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "CI": "1"}


def install() -> Path:
    """The folder with all of them, fetched by npm once."""
    folder = _folder()
    wanted = [*(rival.package for rival in MCP_RIVALS), _TOKENIZER]
    if not all((folder / "node_modules" / name / "package.json").exists() for name in wanted):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted]
        subprocess.run(command, check=True, capture_output=True, timeout=900, env=_environment())
    return folder


def version(rival: McpRival) -> str:
    """The version that is installed."""
    return json.loads((_folder() / "node_modules" / rival.package / "package.json").read_text())["version"]


class _Backend(BaseHTTPRequestHandler):
    """What InsForge's server asks of its backend before it lists anything: which version it is."""

    def do_GET(self) -> None:
        """Say a version that has every tool."""
        body = b'{"status":"ok","version":"99.0.0"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def _backend() -> Generator[str]:
    with HTTPServer(("127.0.0.1", 0), _Backend) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def listed(rival: McpRival) -> list[dict[str, Any]]:
    """The tools that it lists over stdio."""
    with _backend() as backend:
        program, *words = (backend if word == "BACKEND" else word for word in rival.words)
        return ask([str(install() / "node_modules" / ".bin" / program), *words], _environment())


def ask(command: Sequence[str], environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The tools of the server that this command starts."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    limit = threading.Timer(_SECONDS, process.kill)
    limit.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(initialize_message() + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            answer = json.loads(line) if line.startswith(b"{") else {}
            if answer.get("id") == 0:
                process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
                process.stdin.write(message(1, "tools/list") + b"\n")
                process.stdin.flush()
            elif answer.get("id") == 1:
                return answer["result"]["tools"]
        raise RuntimeError(f"{command[0]} listed no tools")
    finally:
        limit.cancel()
        end(process)


def tokens(texts: Sequence[str]) -> list[int]:
    """How many tokens each text has in o200k."""
    # Its package is found from where the program lies.
    script = install() / "tokens.mjs"
    script.write_text((Path(__file__).parent / "tokens.mjs").read_text())
    done = subprocess.run(
        ["node", str(script)], input=json.dumps(texts), check=True, capture_output=True, text=True, env=_environment()
    )
    return json.loads(done.stdout)
