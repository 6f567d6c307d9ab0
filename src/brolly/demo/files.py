"""Carol sends a picture by a signed URL; she sees it, Dan does not, until it is public; then it is gone."""

from __future__ import annotations

import struct
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx

from brolly.demo.people import Person, ask, sign_in
from brolly.demo.stage import Demo, DemoFailed

_SECONDS = 30.0
_SIDE = 96


def picture() -> bytes:
    """A PNG: an umbrella's dome over its stick."""
    rows = b"".join(b"\0" + b"".join(_colour(x, y) for x in range(_SIDE)) for y in range(_SIDE))
    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _colour(x: int, y: int) -> bytes:
    middle = _SIDE // 2
    if (x - middle) ** 2 + (y - middle) ** 2 < (middle - 6) ** 2 and y < middle:
        return bytes((200, 40 + x, 60))
    return b"\x50\x30\x20" if abs(x - middle) < 3 and middle <= y < _SIDE - 8 else b"\xf4\xf6\xfa"


async def play(demo: Demo) -> None:
    """The whole scene."""
    async with httpx.AsyncClient(base_url=demo.server, timeout=_SECONDS, trust_env=False) as http:
        carol, dan = [await sign_in(demo, http, name) for name in ("Carol", "Dan")]
        object_id = await _send(demo, http, carol, picture())
        await _look(demo, http, carol, dan, object_id)
        await _delete(demo, http, carol, object_id)


async def _send(demo: Demo, http: httpx.AsyncClient, person: Person, data: bytes) -> str:
    files = f"/storage/{demo.app_id}"
    demo.step(f"{person.name} sends a picture", f"POST {files}/upload, PUT to the signed URL")
    wanted = {"filename": "brolly.png", "contentType": "image/png", "sizeBytes": len(data)}
    link = await ask(http, "POST", f"{files}/upload", json=wanted, headers=person.headers)
    refused = await _bare("PUT", link["uploadUrl"], content=data + b"more", headers=link["headers"])
    demo.expect(not refused.is_success, "more bytes than were reserved are refused")
    sent = await _bare("PUT", link["uploadUrl"], content=data, headers=link["headers"])
    where = urlsplit(str(link["uploadUrl"])).netloc
    demo.expect(sent.is_success, f"{len(data):,} bytes went straight to the store at {where}")
    return link["objectId"]


async def _look(demo: Demo, http: httpx.AsyncClient, owner: Person, other: Person, object_id: str) -> None:
    path = f"/storage/{demo.app_id}/download/{object_id}"
    demo.step("Who gets to see it", f"GET {path}")
    link = await ask(http, "GET", path, headers=owner.headers)
    got = await _bare("GET", link["downloadUrl"])
    same = got.content == picture() and got.headers["Content-Type"] == "image/png"
    demo.expect(same, f"{owner.name}'s link shows the very same {len(got.content):,} bytes")
    refused = await http.get(path, headers=other.headers)
    demo.expect(refused.status_code == 404, f"{other.name} gets 404, as for a file that does not exist")
    change = {"public": True}
    await ask(http, "PATCH", f"/storage/{demo.app_id}/objects/{object_id}", json=change, headers=owner.headers)
    link = await ask(http, "GET", path)
    got = await _bare("GET", link["downloadUrl"])
    demo.expect(got.content == picture(), f"made public by {owner.name}, it is there for who is not signed in")


async def _delete(demo: Demo, http: httpx.AsyncClient, owner: Person, object_id: str) -> None:
    path = f"/storage/{demo.app_id}/{object_id}"
    demo.step(f"{owner.name} deletes it", f"DELETE {path}")
    link = await ask(http, "GET", f"/storage/{demo.app_id}/download/{object_id}", headers=owner.headers)
    gone = await http.delete(path, headers=owner.headers)
    old = await _bare("GET", link["downloadUrl"])
    # Some S3 services answer 403 for what is not there.
    erased = gone.status_code == 204 and old.status_code in (403, 404)
    demo.expect(erased, "bytes and row are gone; an old link finds nothing")


async def send_bytes(url: str, data: bytes, headers: dict[str, str]) -> None:
    """The bytes go to the signed URL."""
    sent = await _bare("PUT", url, content=data, headers=headers)
    if not sent.is_success:
        raise DemoFailed(f"PUT {url.partition('?')[0]}: {sent.status_code}")


async def _bare(method: str, url: str, **more: Any) -> httpx.Response:
    """A request that knows nothing but the URL, as a browser makes it."""
    async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as browser:
        try:
            return await browser.request(method, url, **more)
        except httpx.HTTPError as error:
            raise DemoFailed(f"{method} {url.partition('?')[0]}: {error}") from error
