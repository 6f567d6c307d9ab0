"""What a build's own programs can reach and use: tried by programs that try, in both ways of shutting them in."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import psutil
import pytest

from brolly.engines.build.builder import Builder, BuildFailedError, Job, Order
from brolly.engines.build.sandbox import Allowance, Sandbox, Stopped


@pytest.fixture(scope="module")
def builder() -> Builder:
    return Builder(Path(tempfile.mkdtemp(prefix="brolly-build-test-")), Allowance(seconds=30))


@pytest.fixture
async def job(builder: Builder) -> AsyncIterator[Job]:
    async with builder.job(f"test-{os.urandom(6).hex()}") as job:
        yield job


def _sandbox(job: Job, said: list[str], namespaces: bool = True, **allowed: float) -> Sandbox:
    sandbox = Sandbox(job.folder, Allowance(**{"seconds": 20.0, **allowed}), said.append, namespaces)  # type: ignore[arg-type]
    sandbox.own(job.folder)
    return sandbox


async def _said(job: Job, script: str, namespaces: bool = True, **allowed: float) -> tuple[int, list[str]]:
    said: list[str] = []
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(job.folder)}
    status = await _sandbox(job, said, namespaces, **allowed).run(["/bin/sh", "-c", script], job.source, environment)
    return status, said


@pytest.fixture(scope="module")
def neighbour() -> Iterator[int]:
    """A service of this machine, as a database would be."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


_PROBE = """
import json, os, socket
def tried(what):
    try:
        what()
        return True
    except OSError:
        return False
def connected():
    socket.create_connection(("127.0.0.1", {port}), 2)
def unix():
    socket.socket(socket.AF_UNIX).connect({socket!r})
def seen():
    with open("/proc/{server}/environ", "rb") as file: file.read()
print(json.dumps({{
    "own folder": tried(lambda: open("made", "w")),
    "secret": tried(lambda: open({secret!r})),
    "list": tried(lambda: os.listdir({home!r})),
    "write": tried(lambda: open({home!r} + "/left", "w")),
    "environment of the server": tried(seen),
    "signal": tried(lambda: os.kill({server}, 0)),
    "neighbour": tried(connected),
    "socket of files": tried(unix),
    "root": os.getuid() == 0,
    "link": tried(lambda: os.link({secret!r}, "linked")),
}}))
"""


@pytest.mark.parametrize("namespaces", [True, False])
async def test_a_build_reaches_its_own_folder_and_nothing_else(job: Job, neighbour: int, namespaces: bool) -> None:
    home = Path(tempfile.mkdtemp(prefix="brolly-data-"))
    home.chmod(0o777)
    (home / "secret.key").write_text("secret")
    (home / "secret.key").chmod(0o666)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "socket"))
        listening.listen()
        (home / "socket").chmod(0o777)
        probe = _PROBE.format(
            port=neighbour, socket=str(home / "socket"), secret=str(home / "secret.key"), home=str(home),
            server=os.getpid(),
        )  # fmt: skip
        (job.source / "probe.py").write_text(probe)
        status, said = await _said(job, "/usr/bin/python3 probe.py", namespaces)
    assert status == 0, said
    found = json.loads(said[-1])
    assert found.pop("own folder") is True
    assert not any(found.values()), found


async def test_the_server_s_environment_does_not_come_along(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROLLY_SECRET", "s" * 40)
    _, said = await _said(job, "env")
    names = {line.split("=")[0] for line in said}
    assert "NPM_CONFIG_REGISTRY" in names
    assert not any(name.startswith("BROLLY") for name in names)


@pytest.mark.parametrize("namespaces", [True, False])
async def test_what_a_build_leaves_running_ends_with_it(job: Job, namespaces: bool) -> None:
    # Away from its parent, its session and its output.
    status, _ = await _said(job, "(setsid sleep 4242 >/dev/null 2>&1 &) ; exit 7", namespaces)
    assert status == 7
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4242"]]


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize(
    ("script", "allowed", "why"),
    [
        ("sleep 4343", {"seconds": 1}, "more than 1 seconds"),
        ("yes", {"printed": 100_000}, "printed more"),
        (
            "/usr/bin/python3 -c 'import time; a = bytes([1]) * 300_000_000; time.sleep(20)'",
            {"memory_mb": 100},
            "100 MB of memory",
        ),
    ],
    ids=["hangs", "prints for ever", "memory"],
)
async def test_a_build_that_uses_too_much_is_ended(
    job: Job, script: str, allowed: dict[str, float], why: str, namespaces: bool
) -> None:
    with pytest.raises(Stopped, match=why):
        await _said(job, script, namespaces, **allowed)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4343"]]


async def test_the_mirror_and_the_proxy_give_packages_and_public_addresses_only(job: Job, neighbour: int) -> None:
    script = f"""
    code() {{ curl -s -o /dev/null -w '%{{http_code}} ' "$@"; }}
    code --noproxy '*' "${{NPM_CONFIG_REGISTRY}}../../etc/passwd"
    code --noproxy '*' "${{NPM_CONFIG_REGISTRY}}-/whoami"
    code --noproxy '*' -X PUT -d x "${{NPM_CONFIG_REGISTRY}}react"
    code --noproxy '*' "http://${{NPM_CONFIG_REGISTRY#*//}}" >/dev/null
    curl -s -o /dev/null -w '%{{http_connect}} ' --noproxy '' https://127.0.0.1:{neighbour}/
    curl -s -o /dev/null -w '%{{http_connect}} ' --noproxy '' https://localhost:{neighbour}/
    curl -s -o /dev/null -w '%{{http_connect}} ' https://169.254.169.254/
    curl -s -o /dev/null -w '%{{http_connect}} ' 'https://[::ffff:10.0.0.1]/'
    unset HTTPS_PROXY; curl -s -o /dev/null -w '%{{http_connect}} ' -x "http://${{HTTP_PROXY#*@}}" https://example.com/
    echo
    """
    _, said = await _said(job, script)
    assert "".join(said).split() == ["404", "404", "405", *["403"] * 4, "407"]


async def _build(builder: Builder, files: dict[str, str], **order: str) -> tuple[list[str], list[str]]:
    """The names in the site, and what was said."""
    said: list[str] = []
    async with builder.job(f"test-{os.urandom(6).hex()}") as job:
        for name, text in files.items():
            (job.source / name).parent.mkdir(parents=True, exist_ok=True)
            (job.source / name).write_text(text)
        with anyio.fail_after(60):
            built = await builder.build(job, Order("app_x", **order), said.append)  # type: ignore[arg-type]
        return sorted(path.name for path in built.folder.iterdir()), said


def _package(build: str = "", **more: object) -> str:
    return json.dumps({"name": "x", "scripts": {"build": build} if build else {}, **more})


async def test_a_script_makes_the_site(builder: Builder) -> None:
    script = "mkdir -p out && echo $VITE_GREETING > out/index.html"
    names, _ = await _build(builder, {"package.json": _package(script)})
    assert names == ["index.html"]
    names, said = await _build(builder, {"index.html": "<h1>Hi</h1>", "a.css": ""})
    assert (names, said) == (["a.css", "index.html"], ["Found plain HTML."])


@pytest.mark.parametrize(
    ("files", "order", "why"),
    [
        ({"package.json": "{"}, {}, "package.json cannot be read"),
        ({"package.json": '{"dependencies": []}'}, {}, "its dependencies are no object"),
        ({"readme.md": ""}, {}, "neither a package.json nor an index.html"),
        ({"package.json": _package()}, {}, "no script named build"),
        ({"package.json": _package("exit 3")}, {}, "failed with status 3"),
        ({"package.json": _package("echo done")}, {}, "left no folder with an index.html"),
        ({"package.json": _package("mkdir -p a/b; echo > a/b/index.html")}, {"output": "dist"}, "set output_dir to it"),
        ({"package.json": _package("ln -s /etc dist")}, {"output": "dist"}, "no index.html in dist"),
        ({"package.json": _package("echo")}, {"output": "../../.."}, "no index.html in"),
        ({"package.json": _package("ls", dependencies={"no-such-package-here-4711": "1"})}, {}, "Installing"),
    ],
)  # fmt: skip
async def test_what_cannot_be_built_says_why(
    builder: Builder, files: dict[str, str], order: dict[str, str], why: str
) -> None:
    with pytest.raises(BuildFailedError, match=why):
        await _build(builder, files, **order)


_SERVER = """
import sys
from pathlib import Path
import anyio
from brolly.engines.build.sandbox import Allowance, Sandbox
async def main():
    sandbox = Sandbox(Path(sys.argv[1]), Allowance(seconds=60), print, sys.argv[2] == "True")
    await sandbox.run(["/bin/sh", "-c", "setsid sleep 4848 & sleep 4848"], Path(sys.argv[1]), {"PATH": "/usr/bin:/bin"})
anyio.run(main)
"""


@pytest.mark.parametrize("namespaces", [True, False])
async def test_the_sudden_end_of_the_server_ends_its_builds(job: Job, namespaces: bool) -> None:
    def left() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4848"]]

    Sandbox(job.folder, Allowance(), print).own(job.folder)
    command = [sys.executable, "-c", _SERVER, str(job.folder), str(namespaces)]
    server = await anyio.open_process(command, stdout=-3, stderr=-3)
    try:
        with anyio.fail_after(30):
            while len(left()) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.05)
            server.kill()
            await server.wait()
            while left():  # noqa: ASYNC110
                await anyio.sleep(0.05)
    finally:
        await server.aclose()
