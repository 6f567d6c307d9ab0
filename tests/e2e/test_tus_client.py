"""tus-js-client, which browsers' Uppy uses, against a real server that is killed in the middle and started again.

The client comes from the npm registry and runs under the Node of the development dependencies.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
from pathlib import Path

import httpx

from tests import npm
from tests.e2e.processes import Machine

CLIENT = "tus-js-client@4.3.1"
SIZE = 48 * 1024 * 1024
SCRIPT = """
const fs = require("node:fs")
const tus = require("tus-js-client")
const [endpoint, key, path] = process.argv.slice(2)
let failures = 0
const upload = new tus.Upload(fs.createReadStream(path), {
  endpoint,
  uploadSize: fs.statSync(path).size,
  chunkSize: 5 * 1024 * 1024,
  retryDelays: Array(100).fill(300),
  headers: { Authorization: `Bearer ${key}` },
  metadata: { filename: "film.mp4", filetype: "video/mp4" },
  onChunkComplete: (_size, accepted) => console.log(`accepted ${accepted}`),
  onShouldRetry: () => { failures += 1; return true },
  onError: (error) => { console.log(`error ${error.message}`); process.exit(1) },
  onSuccess: () => { console.log(`done ${failures} ${upload.url}`); process.exit(0) },
})
upload.start()
"""


def test_an_upload_goes_on_after_the_server_was_killed(tmp_path: Path, here: Machine) -> None:
    (tmp_path / "node_modules").symlink_to(npm.packages(CLIENT) / "node_modules")
    (tmp_path / "send.js").write_text(SCRIPT)
    data = hashlib.sha256(b"film").digest() * (SIZE // 32)
    film = tmp_path / "film.mp4"
    film.write_bytes(data)
    home = here.home()
    server = here.serve(home)
    with server.client() as http:
        made = http.post("/init", json={"name": "films"})
        assert made.status_code in (200, 201), made.text
        app_id = made.json()["app_id"]
        assert http.patch(f"/v1/{app_id}/config/storage", json={"maxFileSizeMb": 100}).status_code == 200
        key = http.headers["Authorization"].removeprefix("Bearer ")
    sender = subprocess.Popen(
        [npm.program("node"), "send.js", f"{server.url}/storage/{app_id}/tus", key, str(film)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert sender.stdout is not None
        assert sender.stdout.readline().startswith("accepted ")
        server.end(signal.SIGKILL)
        again = here.serve(home, port=server.port)
        said, _ = sender.communicate(timeout=60)
    finally:
        sender.kill()
        sender.wait()
    last = said.splitlines()[-1].split()
    assert last[0] == "done", said
    assert int(last[1]) >= 1, "the server was not killed in the middle"
    object_id = last[2].rpartition("/")[2]
    with again.client() as http:
        link = http.get(f"/storage/{app_id}/download/{object_id}").json()
        assert (link["filename"], link["size_bytes"]) == ("film.mp4", SIZE)
        assert httpx.get(link["download_url"], trust_env=False).content == data
    assert [p.name for p in (home / "objects" / app_id).rglob("*") if p.is_file()] == [object_id]
