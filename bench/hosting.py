"""Front ends: files from a site beside nginx on the same folder, and from start_deployment to live."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import time
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx

from bench.clients import HttpClient, http_client
from bench.figures import milliseconds, sample, times
from bench.load import Burst, Requests, burst, http_request
from bench.program import Program, data_folder, end, free_port, serving
from bench.runner import Run
from bench.tables import Table

SMALL, LARGE = 10 * 1024, 1024 * 1024
CONNECTIONS = 16
_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; types {{ text/html html; }} default_type application/octet-stream; sendfile on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextmanager
def nginx(root: Path, folder: Path) -> Generator[int]:
    """nginx with one process over the folder; its port."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        raise RuntimeError("the program nginx is missing; install it (Debian, Ubuntu: apt install nginx-light)")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(("user root;" if os.geteuid() == 0 else "") + _NGINX.format(folder=folder, port=port, root=root))
    process = subprocess.Popen([program, "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/index.html")
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        yield port
    finally:
        end(process)


def packed(files: dict[str, bytes]) -> bytes:
    """A zip of the files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


async def _sent(client: HttpClient, app_id: str, data: bytes) -> str:
    made = await client.call("create_frontend_deployment", app_id=app_id)
    async with httpx.AsyncClient() as http:
        answer = await http.put(made["uploadUrl"], content=data, headers={"Content-Type": "application/zip"})
    answer.raise_for_status()
    return made["deployment_id"]


async def _start(client: HttpClient, app_id: str, deployment_id: str) -> str:
    done = await client.call("manage_frontend", action="start_deployment", app_id=app_id, deployment_id=deployment_id)
    if not done["live"]:
        raise RuntimeError(done["error"])
    return done["url"]


async def _requests(run: Run, program: Program, client: HttpClient, home: Path) -> Table:
    app = await client.call("init_app", name="assets")
    # Bytes that do not compress, so that both send the same.
    files = {"index.html": b"<!doctype html>", "small.bin": os.urandom(SMALL), "large.bin": os.urandom(LARGE)}
    await _start(client, app["app_id"], await _sent(client, app["app_id"], packed(files)))
    root = home / "www"
    root.mkdir(mode=0o755)
    for name, data in files.items():
        (root / name).write_bytes(data)
    rounds, seconds = run.size(5, 1), run.size(4, 1)
    run.begin("requests", rounds * 4)
    taken: dict[tuple[str, str], list[Burst]] = {}
    host = app["url"].partition("://")[2]
    with nginx(root, home) as port:
        for _ in range(rounds):
            for name in ("small.bin", "large.bin"):
                for who, at in (("Brolly", program.port), ("nginx", port)):
                    request = http_request("GET", f"/{name}", {"Host": host})
                    found = await burst(at, Requests(home, [request]), CONNECTIONS, seconds)
                    taken.setdefault((who, name), []).append(found)
                    run.step()
    rows: list[list[str]] = []
    for name, size in (("small.bin", "10 KB"), ("large.bin", "1 MB")):
        yardstick = median(one.rate for one in taken["nginx", name])
        for who in ("Brolly", "nginx"):
            bursts = taken[who, name]
            rate = median(one.rate for one in bursts)
            failed = sum(one.failed for one in bursts)
            p99 = milliseconds(median(one.p99 for one in bursts))
            rows.append([f"{size}, {who}", f"{rate:.0f}", p99, times(rate / yardstick), str(failed)])
    return Table(
        ["", "requests/s", "p99", "of nginx", "failed"],
        rows,
        [
            f"{CONNECTIONS} connections of wrk on loopback, one process each, {rounds} rounds of {seconds} s in turn, "
            "medians; the same folder. nginx writes no log and uses sendfile; Brolly logs each request, looks the site "
            "up by its host and sends from memory. wrk shares the machine's processors with both."
        ],
    )


def _pages(count: int, size: int) -> dict[str, bytes]:
    """Files like those of a build: half text, half pictures."""
    chance = random.Random(7)
    words = [f"{chance.randrange(16**6):06x}" for _ in range(4000)]
    files = {"index.html": b"<!doctype html><title>Shop</title>"}
    for n in range(count - 1):
        if n % 2:
            files[f"img/{n}.webp"] = chance.randbytes(size)
        else:
            files[f"assets/part-{n}.js"] = " ".join(chance.choices(words, k=size * 2 // 7)).encode()
    return files


async def _deployments(run: Run, client: HttpClient) -> Table:
    app_id = (await client.call("init_app", name="deployments"))["app_id"]
    count, size = run.size(500, 50), 12_600
    rounds = run.size(5, 2)
    run.begin("deployments", rounds * 3)
    first: list[float] = []
    same: list[float] = []
    one: list[float] = []
    zip_size = 0
    for n in range(rounds):
        files = {name: data + str(n).encode() for name, data in _pages(count, size).items()}
        zip_size = len(packed(files))
        for taken, changed in ((first, {}), (same, {}), (one, {"index.html": b"<!doctype html>changed" + bytes([n])})):
            deployment = await _sent(client, app_id, packed({**files, **changed}))
            began = time.perf_counter()
            await _start(client, app_id, deployment)
            taken.append(time.perf_counter() - began)
            run.step()
    names = ("all files are new", "nothing is new", "one file is new")
    return Table(
        ["", "least", "median", "largest"],
        [
            [name, milliseconds(min(taken)), milliseconds(sample(taken).median), milliseconds(max(taken))]
            for name, taken in zip(names, (first, same, one), strict=True)
        ],
        [
            f"From the call of start_deployment to its answer, when the site is live: a zip of {zip_size / 1e6:.1f} MB "
            f"with {count} files, half of them compressible, is fetched, checked, unpacked, hashed, compressed in "
            f"three ways and brought to the disk. {rounds} rounds."
        ],
    )


async def measure(run: Run) -> Sequence[Table]:
    """Requests beside nginx, then deployments."""
    with data_folder() as home, serving(home) as program:
        async with http_client(program, 8) as client:
            return [await _requests(run, program, client, home), await _deployments(run, client)]
