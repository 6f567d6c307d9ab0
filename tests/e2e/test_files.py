"""Files over a real server that is killed in the middle."""

from __future__ import annotations

import asyncio
import signal
import socket
from urllib.parse import urlsplit

import httpx

from tests.blob.s3_server import s3_service
from tests.e2e.processes import Machine
from tests.e2e.test_demo import shown_by

SIZE = 4_000_000


def test_half_an_object_is_never_served(here: Machine) -> None:
    home = here.home()
    server = here.serve(home)
    with server.client() as client:
        app = client.post("/init", json={"name": "files"}).json()["app_id"]
        wanted = {"filename": "a.bin", "contentType": "application/octet-stream", "sizeBytes": SIZE}
        link = client.post(f"/storage/{app}/upload", json=wanted).json()
    url = urlsplit(link["upload_url"])
    head = (
        f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {SIZE}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(head.encode() + bytes(SIZE * 3 // 4))
        server.end(signal.SIGKILL)

    server = here.serve(home, port=server.port)
    with server.client() as client:
        answer = client.get(f"/storage/{app}/download/{link['object_id']}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
        objects = home / "objects"
        assert not [p for p in objects.rglob("*") if p.is_file() and p.stat().st_size > 0]
        # The link is still good: the client sends the file again, and has it.
        data = bytes(range(256)) * (SIZE // 256)
        data += bytes(SIZE - len(data))
        assert httpx.put(link["upload_url"], content=data, headers=link["headers"], trust_env=False).status_code == 200
        got = client.get(f"/storage/{app}/{link['object_id']}", follow_redirects=True)
        assert got.content == data
        listed = client.get(f"/storage/{app}/objects").json()
        assert [o["status"] for o in listed["objects"]] == ["ready"]
        assert listed["_meta"]["resource_info"]["storage_used_bytes"] == SIZE
        # Acknowledged means kept.
        server.end(signal.SIGKILL)
    server = here.serve(home, port=server.port)
    with server.client() as client:
        assert client.get(f"/storage/{app}/{link['object_id']}", follow_redirects=True).content == data
        assert client.delete(f"/storage/{app}/{link['object_id']}").status_code == 204
    assert not [p for p in (home / "objects" / app).rglob("*") if p.is_file()]


async def test_the_demo_sends_its_picture_to_a_bucket_as_well(here: Machine) -> None:
    home = here.home()
    home.mkdir(mode=0o711)
    async with s3_service() as settings:
        bucket = {
            f"BROLLY_S3_{name.upper()}": getattr(settings, f"s3_{name}")
            for name in ("endpoint", "bucket", "access_key", "secret_key")
        }
        shown = await asyncio.to_thread(shown_by, home / "own", TMPDIR=str(home), **bucket)
        where = urlsplit(settings.s3_endpoint).netloc
    assert f"bytes went straight to the store at {where}" in shown
    for fact in ("Carol's link shows the very same", "Dan gets 404", "an old link finds nothing"):
        assert fact in shown
