"""Files: bytes through the folder store beside a plain copy and Python's http.server, memory meanwhile, signed URLs."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import psutil

from bench.clients import HttpClient, http_client
from bench.figures import MEBIBYTE, Sample, held, mebibytes, milliseconds, sample, times
from bench.program import Program, data_folder, end, free_port, serving
from bench.runner import Run
from bench.tables import Table
from brolly.blob.folder import FolderStore
from brolly.blob.s3 import S3Store
from brolly.blob.s3_client import make_client
from brolly.blob.signing import UrlSigner
from brolly.core.settings import load_settings

GROWTH_GOAL = 30 * MEBIBYTE
_CHUNK = 256 * 1024
_URLS = 100


def send(url: str, headers: dict[str, str], path: Path) -> None:
    """PUT a file as a thin client does."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120, blocksize=_CHUNK)
    with path.open("rb") as file:
        headers = {**headers, "Content-Length": str(path.stat().st_size)}
        connection.request("PUT", f"{parts.path}?{parts.query}", body=file, headers=headers)
    if connection.getresponse().status != 200:
        raise RuntimeError("the upload was refused")
    connection.close()


def fetch(url: str, size: int) -> None:
    """GET a file and throw it away."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer, came = connection.getresponse(), 0
    while chunk := answer.read(_CHUNK):
        came += len(chunk)
    connection.close()
    if came != size:
        raise RuntimeError(f"{came} bytes came of {size}")


def copy(source: Path, target: Path) -> None:
    """The yardstick of an upload: read, write, and bring it to the disk."""
    with source.open("rb") as old, target.open("wb") as new:
        while chunk := old.read(_CHUNK):
            new.write(chunk)
        new.flush()
        os.fsync(new.fileno())
    target.unlink()


@contextmanager
def plain_server(folder: Path) -> Generator[str]:
    """Python's own http.server over a folder; its address."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                http.client.HTTPConnection("127.0.0.1", port).connect()
                break
            except OSError:
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


class Memory:
    """The most that a process held while the block ran, looked at from a thread."""

    def __init__(self, program: Program) -> None:
        self._process = psutil.Process(program.process.pid)
        self.before = self.most = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, self._process.memory_info().rss)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


async def _clock(run: Run, repeat: int, work: Callable[[int], None]) -> Sample:
    taken: list[float] = []
    for index in range(repeat):
        began = time.perf_counter()
        await anyio.to_thread.run_sync(work, index)
        taken.append(time.perf_counter() - began)
        run.step()
    return sample(taken)


async def _upload_links(client: HttpClient, app_id: str, size: int, count: int) -> list[dict[str, object]]:
    wanted = {"filename": "film.mp4", "content_type": "video/mp4", "size_bytes": size}
    return [await client.call("manage_storage", action="upload_url", app_id=app_id, **wanted) for _ in range(count)]


async def _transfers(run: Run, program: Program, client: HttpClient, home: Path) -> Table:
    size, repeat = run.size(512, 16) * MEBIBYTE, run.size(4, 2)
    run.begin("transfers", repeat * 4)
    app_id = (await client.call("init_app", name="films"))["app_id"]
    limits = {"maxFileSizeMb": 1024, "storageLimitBytes": 8 * 1024**3}
    await client.call("manage_storage", action="update_config", app_id=app_id, **limits)
    source = home / "film.mp4"
    source.write_bytes(os.urandom(MEBIBYTE) * (size // MEBIBYTE))
    links = await _upload_links(client, app_id, size, repeat)
    async with httpx.AsyncClient() as warm:
        await warm.get(f"{program.url}/health")
    plain = await _clock(run, repeat, lambda _: copy(source, home / "copy.mp4"))
    with Memory(program) as memory:
        sent = await _clock(run, repeat, lambda i: send(str(links[i]["upload_url"]), dict(links[i]["headers"]), source))  # type: ignore[call-overload]
        urls = [
            (await client.call("manage_storage", action="download_url", app_id=app_id, object_id=link["object_id"]))[
                "download_url"
            ]
            for link in links
        ]
        got = await _clock(run, repeat, lambda i: fetch(urls[i], size))
    with plain_server(home) as address:
        served = await _clock(run, repeat, lambda _: fetch(f"{address}/film.mp4", size))
    grown = memory.most - memory.before

    def row(name: str, taken: Sample, yardstick: Sample) -> list[str]:
        speeds = [
            f"{size / MEBIBYTE / each:.0f} MiB/s" for each in (max(taken.values), taken.median, min(taken.values))
        ]
        return [name, *speeds, times(taken.median / yardstick.median)]

    return Table(
        ["", "least", "median", "largest", "of the yardstick's time"],
        [
            row("upload by signed URL", sent, plain),
            row("copy of the file, with fsync", plain, plain),
            row("download by signed URL", got, served),
            row("download from http.server", served, served),
        ],
        [
            f"{repeat} files of {size // MEBIBYTE} MiB each way on loopback, one after another, from and to the page "
            f"cache; an upload is hashed (MD5) and brought to the disk before it is answered. The server's memory grew "
            f"by {mebibytes(grown)} at most while {2 * repeat * size / 1024**3:.1f} GiB passed through; "
            f"goal: at most {mebibytes(GROWTH_GOAL)}: {held(grown <= GROWTH_GOAL)}."
        ],
    )


async def _urls(run: Run, client: HttpClient) -> Table:
    app_id = (await client.call("init_app", name="urls"))["app_id"]
    run.begin("urls", _URLS)
    taken: list[float] = []
    for _ in range(_URLS):
        began = time.perf_counter()
        await _upload_links(client, app_id, 1000, 1)
        taken.append(time.perf_counter() - began)
        run.step()
    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(_URLS):
            group.start_soon(_upload_links, client, app_id, 1000, 1)
    together = (time.perf_counter() - began) / _URLS
    given = {"s3_bucket": "files", "s3_access_key": "k", "s3_secret_key": "s", "s3_endpoint": "http://127.0.0.1:9"}
    s3_client = make_client(load_settings({}, home=Path("/nonexistent"), **given), given["s3_endpoint"])
    stores = {
        "folder": FolderStore(Path("/nonexistent"), UrlSigner("x" * 32, "http://127.0.0.1")),
        "S3": S3Store(s3_client, s3_client, "files"),
    }
    rows = [
        ["`manage_storage upload_url`, one after another", milliseconds(sample(taken).median)],
        [f"{_URLS} of them at once", milliseconds(together)],
    ]
    for name, store in stores.items():
        began = time.perf_counter()
        for _ in range(_URLS):
            store.presign_put("app_x/abc", content_type="image/png", size=5, expires_s=60)
        rows.append([f"signing alone, {name}", milliseconds((time.perf_counter() - began) / _URLS)])
    return Table(["", "per URL"], rows, ["Over HTTP, room in the quota reserved in the app's database included."])


async def measure(run: Run) -> Sequence[Table]:
    """Bytes both ways, then URLs."""
    with data_folder() as home, serving(home) as program:
        async with http_client(program, 8) as client:
            return [await _transfers(run, program, client, home), await _urls(run, client)]
