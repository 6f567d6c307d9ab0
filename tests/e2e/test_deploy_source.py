"""``brolly deploy --source``: what is sent, what is shown, how it ends."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from brolly.commands.deploy_source import lockfile_hash, printable, source_files
from tests.e2e.processes import Machine, brolly


def _project(folder: Path, build: str) -> Path:
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"name": "x", "scripts": {"build": build}}))
    (folder / ".gitignore").write_text("secret.txt\ndist/\n# no\n")
    for name in ("secret.txt", ".env.local", "node_modules/a.js", "src/a.js", "dist/old.html", ".npmrc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "way-out").symlink_to("/etc")
    (folder / "passwd").symlink_to("/etc/passwd")
    return folder


@pytest.mark.parametrize("with_git", [True, False])
def test_what_is_ignored_is_not_sent(tmp_path: Path, with_git: bool) -> None:
    folder = _project(tmp_path / "project", "true")
    if with_git:
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        (folder / ".gitignore").write_text("secret.txt\ndist/\n*.local\n")
    sent = [path.as_posix() for path in source_files(folder)]
    assert sent == [".gitignore", ".npmrc", "package.json", "src/a.js"]
    assert lockfile_hash(folder) is None
    (folder / "package-lock.json").write_text("{}")
    assert lockfile_hash(folder) == "44136fa355b3678a1146ad16f7e8649e"
    assert printable("a\x1b[2Jb") == "a�[2Jb"


def test_source_becomes_a_site_and_a_failure_says_why(shared: Machine, tmp_path: Path) -> None:
    server = shared.serve(shared.home())
    with server.client() as http:
        app = http.post("/init", json={"name": "shop"}).json()
    source = _project(tmp_path / "good", "mkdir -p dist && cp src/a.js dist/index.html && ls -A")
    done = brolly(server.home, "deploy", "--source", str(source), "--app", "shop", limit=90)
    assert done.returncode == 0, done.stderr
    (url,) = done.stdout.split()
    assert url.startswith(f"http://{app['subdomain']}.localhost:")
    # What it printed came by, and among it no secret of the folder.
    assert ".npmrc" in done.stderr
    assert "secret.txt" not in done.stderr
    site = httpx.get(server.url, headers={"Host": url.removeprefix("http://")}, trust_env=False)
    assert site.text == "src/a.js"

    bad = _project(tmp_path / "bad", "echo before && exit 3")
    done = brolly(server.home, "deploy", "--source", str(bad), "--app", "shop", "--json", limit=90)
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"]) == (1, "ERROR")
    assert "failed with status 3" in told["error"]
    assert "before" in told["error"]
    assert "with --source" in brolly(server.home, "deploy", str(bad), "--output-dir", "web").stderr
    assert httpx.get(server.url, headers={"Host": url.removeprefix("http://")}, trust_env=False).text == "src/a.js"
