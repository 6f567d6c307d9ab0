"""A site from the command line, and one whose server is killed while it is made."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx

from tests.e2e.processes import Machine, Process, brolly, wait_until
from tests.e2e.test_durability import admin
from tests.hosting.zips import PAGE, zipped


def page(server: Process, path: str = "/") -> httpx.Response:
    headers = {"Host": f"shop.localhost:{server.port}"}
    return httpx.get(f"{server.url}{path}", headers=headers, timeout=15, trust_env=False)


def run_out(server: Process) -> None:
    """As if the lease's minute were over."""

    async def change() -> None:
        connection = await admin(server)
        await connection.execute("update brolly.deployments set lease_until = now() where status = 'UPLOADING'")
        await connection.close()

    asyncio.run(change())


def test_a_folder_goes_live_and_a_kill_in_the_middle_harms_nothing(here: Machine, tmp_path: Path) -> None:
    home = here.home()
    server = here.serve(home).ready()
    with server.client() as client:
        app = client.post("/init", json={"name": "shop"}).json()
    (tmp_path / "index.html").write_text(PAGE.format("Before"))
    done = brolly(home, "deploy", str(tmp_path), "--app", "shop")
    assert (done.returncode, done.stdout) == (0, f"http://shop.localhost:{server.port}\n"), done.stderr
    assert "Before" in page(server).text
    (tmp_path / "index.html").unlink()
    (tmp_path / "main.html").write_text("x")
    wrong = brolly(home, "deploy", str(tmp_path), "--app", "shop")
    assert (wrong.returncode, "no index.html" in wrong.stderr, wrong.stdout) == (1, True, "")

    files: dict[str, str | bytes] = {f"p{n}.txt": os.urandom(2000).hex() for n in range(150)}
    root = f"/v1/{app['app_id']}/frontend/deployments"
    with server.client() as client:
        made = client.post(root, json={}).json()
        data = zipped({"index.html": PAGE.format("After"), **files})
        httpx.put(made["uploadUrl"], content=data, headers={"Content-Type": "application/zip"}, trust_env=False)

        def start() -> None:
            with suppress(httpx.HTTPError), server.client() as other:
                other.post(f"{root}/{made['id']}/start", json={})

        thread = threading.Thread(target=start)
        thread.start()
        wait_until(lambda: client.get(f"{root}/{made['id']}").json()["status"] != "WAITING", "the start")
        server.end(signal.SIGKILL)
        thread.join()

    server = here.serve(home, port=server.port).ready()
    with server.client() as client:
        status = client.get(f"{root}/{made['id']}").json()["status"]
        assert ("After" if status == "READY" else "Before") in page(server).text
        run_out(server)
        wait_until(lambda: client.get(f"{root}/{made['id']}").json()["live"], "the site", 40)
    assert "After" in page(server).text
    assert page(server, "/p149.txt").text == files["p149.txt"]
    server.end()
