"""Pictures in other sizes and formats: what comes out is judged by its bytes, what goes in may be hostile."""

from __future__ import annotations

import asyncio
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from brolly.storage import images
from tests.storage.conftest import Place

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(kind: str = "JPEG", size: tuple[int, int] = (400, 200), mode: str = "RGB", **options: Any) -> bytes:
    """Left half red, right half blue."""
    image = Image.new(mode, size, RED if mode == "RGB" else (*RED, 0))
    image.paste(BLUE if mode == "RGB" else (*BLUE, 255), (size[0] // 2, 0, size[0], size[1]))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of few bytes that says it has 3.6 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def ask(place: Place, object_id: str, who: str = "A", **wanted: Any) -> httpx.Response:
    return await place.send(who, "GET", f"download/{object_id}", params=wanted)


async def changed(place: Place, object_id: str, **wanted: Any) -> tuple[Image.Image, dict[str, Any]]:
    answer = await ask(place, object_id, **wanted)
    assert answer.status_code == 200, answer.text
    got = await place.fetch(answer.json()["download_url"])
    assert got.status_code == 200
    assert got.headers["Content-Type"] == answer.json()["content_type"]
    assert got.headers["Content-Disposition"].startswith("inline")
    return Image.open(io.BytesIO(got.content)), answer.json()


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ({"width": 100}, (100, 50)),
        ({"height": 100}, (200, 100)),
        ({"width": 100, "height": 100}, (100, 100)),
        ({"width": 100, "height": 100, "fit": "contain"}, (100, 50)),
        ({"width": 100, "height": 100, "fit": "fill"}, (100, 100)),
        ({"width": 4000}, (400, 200)),
        ({"width": 4000, "height": 4000}, (200, 200)),
        ({"quality": 30}, (400, 200)),
    ],
)
async def test_sizes(place: Place, wanted: dict[str, Any], size: tuple[int, int]) -> None:
    object_id = await place.store("A", picture(), "a.jpg", contentType="image/jpeg")
    image, link = await changed(place, object_id, **wanted)
    assert (image.size, image.format, link["filename"]) == (size, "JPEG", "a.jpeg")
    left, right = image.convert("RGB").getpixel((2, size[1] // 2)), image.convert("RGB").getpixel((size[0] - 3, 5))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[0] > 200 > left[2]
    assert right[2] > 200 > right[0]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif"])
async def test_formats_and_what_shows_through(place: Place, kind: str) -> None:
    object_id = await place.store("A", picture("PNG", mode="RGBA"), "a.png")
    image, link = await changed(place, object_id, format=kind, width=50)
    assert (image.format, link["content_type"], link["filename"]) == (kind.upper(), f"image/{kind}", f"a.{kind}")
    corner = image.convert("RGBA").getpixel((2, 2))
    assert isinstance(corner, tuple)
    assert corner[3] == 0 or (kind == "jpeg" and min(corner[:3]) > 240)


async def test_upright_and_without_what_the_camera_wrote(place: Place) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Secret camera"
    data = picture("JPEG", exif=exif.tobytes())
    assert b"Secret camera" in data
    object_id = await place.store("A", data, "a.jpg", contentType="image/jpeg")
    answer = await ask(place, object_id, width=100)
    got = (await place.fetch(answer.json()["download_url"])).content
    assert b"Secret" not in got
    assert b"Exif" not in got
    assert Image.open(io.BytesIO(got)).size == (100, 200)


async def test_of_a_moving_picture_the_first(place: Place) -> None:
    frames = [Image.new("RGB", (40, 40), RED), Image.new("RGB", (40, 40), BLUE)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    object_id = await place.store("A", out.getvalue(), "a.gif", contentType="image/gif")
    image, link = await changed(place, object_id, width=20)
    assert (image.format, image.size, link["filename"]) == ("PNG", (20, 20), "a.png")
    assert image.convert("RGB").getpixel((5, 5)) == RED


async def test_it_is_made_once_kept_with_the_original_and_gone_with_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_KEPT", 2)
    object_id = await place.store("A", picture("PNG"), "a.png")
    first = (await ask(place, object_id, width=10)).json()["download_url"].partition("?")[0]
    before = set(place.on_disk())
    assert len(before) == 2
    assert (await ask(place, object_id, width=10)).json()["download_url"].partition("?")[0] == first
    assert set(place.on_disk()) == before
    for width in (11, 12):
        assert (await ask(place, object_id, width=width)).status_code == 200
    assert len(place.on_disk()) == 3
    assert first.rpartition("/")[2] not in place.on_disk()
    assert await place.usage() == (len(picture("PNG")), 1)
    assert (await ask(place, object_id, "B", width=10)).status_code == 404
    assert (await place.send("A", "DELETE", f"objects/{object_id}")).status_code == 204
    assert place.on_disk() == {}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bomb(), "million pixels"),
        (bomb(7000, 7000), "damaged"),
        (picture("PNG")[:300], "damaged"),
        (b"<svg onload='alert(1)'/>", "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "damaged"),
    ],
)
async def test_what_cannot_be_changed_is_refused_and_leaves_nothing(place: Place, data: bytes, said: str) -> None:
    object_id = await place.store("A", data, "a.png")
    answer = await ask(place, object_id, width=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_INPUT")
    assert said in answer.json()["error"]["message"]
    assert set(place.on_disk()) == {object_id}
    assert (await ask(place, object_id)).status_code == 200


async def test_the_process_is_held_to_memory_and_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    object_id = await place.store("A", picture("PNG", (3000, 3000)), "a.png")
    monkeypatch.setattr(images, "MEMORY", 120 * 1024 * 1024)
    answer = await ask(place, object_id, width=2000, format="webp")
    assert "memory" in answer.json()["error"]["message"], answer.text
    monkeypatch.undo()
    monkeypatch.setattr(images, "SECONDS", 0.05)
    answer = await ask(place, object_id, width=2000, format="avif")
    assert "too long" in answer.json()["error"]["message"], answer.text
    monkeypatch.undo()
    assert (await ask(place, object_id, width=2000)).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [{"width": 0}, {"width": 5000}, {"width": -1}, {"fit": "x", "width": 5}, {"format": "svg"}, {"quality": 101}],
)
async def test_what_makes_no_sense_is_refused(place: Place, wanted: dict[str, Any]) -> None:
    object_id = await place.store("A")
    assert (await ask(place, object_id, **wanted)).status_code == 400


async def test_only_pictures_are_changed(place: Place) -> None:
    for content_type in ("text/plain", "image/svg+xml", "application/pdf"):
        object_id = await place.store("A", b"hello", "a.txt", contentType=content_type)
        answer = await ask(place, object_id, width=10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_INPUT")


async def test_a_page_shows_a_small_one_by_an_address_that_stays(place: Place) -> None:
    object_id = await place.store("A", picture("PNG"), "a.png", public=True)
    answer = await place.send("nobody", "GET", object_id, params={"width": "20", "format": "webp"})
    assert answer.status_code == 302
    got = await place.fetch(answer.headers["Location"])
    assert Image.open(io.BytesIO(got.content)).size == (20, 10)


def test_a_picture_that_runs_code_reaches_no_files(tmp_path: Path) -> None:
    """As hostile code would: in the process, after it was closed."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    program = (
        "import os, runpy, sys\n"
        f"m = runpy.run_path({images.__file__.replace('images.py', 'image_process.py')!r})\n"
        "m['warm_up']('png'); m['enclose']()\n"
        "for name, attempt in (\n"
        f"    ('read', lambda: open({str(secret)!r})),\n"
        f"    ('run', lambda: os.execv('/bin/cat', ['cat', {str(secret)!r}])),\n"
        "):\n"
        "    try: attempt(); os.write(1, name.encode())\n"
        "    except OSError: os.write(1, b'.')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ran.stdout.startswith(b".")
    assert b"read" not in ran.stdout
    assert b"x" not in ran.stdout


async def test_the_same_picture_asked_for_at_once_is_made_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    async def counted(*arguments: Any) -> bytes:
        nonlocal made
        made += 1
        return await original(*arguments)

    original = images._made
    monkeypatch.setattr(images, "AT_ONCE", 1)
    monkeypatch.setattr(images._Room, "limiter", None)
    monkeypatch.setattr(images, "_made", counted)
    object_id = await place.store("A", picture("PNG"), "a.png")
    answers = await asyncio.gather(*(ask(place, object_id, width=33) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert made == 1
    images._Room.limiter = None
