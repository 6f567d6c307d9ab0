"""The program that changes one picture, in a process of its own: what it decodes may be made to harm it.

Arguments: width, height (0: free), fit, format (empty: as it is), quality, most pixels, most bytes of memory. The
picture comes on stdin, the result goes to stdout; failing, it ends with 3 and one word on stderr. It imports
nothing of the server but the limits, and is started without its environment.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from brolly.engines.sandbox import enclose, limit

SECONDS = 20
_KNOWN = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_SAVED: dict[str, dict[str, Any]] = {
    "jpeg": {"optimize": True, "progressive": True},
    "png": {"optimize": True},
    "webp": {"method": 4},
    "avif": {"speed": 7},
}


def _eight_bits(value: Any) -> Any:
    return value / 256


class RefusedError(Exception):
    """Why the picture is not changed, in one word."""


def change(data: bytes, width: int, height: int, fit: str, kind: str, quality: int, pixels: int) -> bytes:
    """The picture upright, in sRGB, without metadata, in the size and format asked for; the first one of several."""
    # Judged here, by the header, before anything is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(io.BytesIO(data), formats=_KNOWN)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise RefusedError("format") from None
    if image.width * image.height > pixels:
        raise RefusedError("pixels")
    kind = kind or {"JPEG": "jpeg", "WEBP": "webp", "AVIF": "avif"}.get(image.format or "", "png")
    if image.format == "JPEG" and (width or height):
        # JPEG decodes to an eighth at no cost; twice the size is left for a good reduction.
        image.draft(None, ((width or height) * 2, (height or width) * 2))
    profile = image.info.get("icc_profile")
    turned = ImageOps.exif_transpose(image) or image
    plain = _in_rgb(turned, profile, kind)
    sized = _resized(plain, width, height, fit)
    out = io.BytesIO()
    options: dict[str, Any] = dict(_SAVED[kind])
    if kind != "png":
        options["quality"] = quality
    sized.info.clear()
    sized.save(out, kind.upper(), **options)
    return out.getvalue()


def _in_rgb(image: Any, profile: bytes | None, kind: str) -> Image.Image:
    """RGB, or RGBA where something shows through and the format can."""
    clear = image.has_transparency_data
    if profile and image.mode in ("RGB", "CMYK", "L"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            colours: Any = ImageCms
            source = colours.ImageCmsProfile(io.BytesIO(profile))
            image = colours.profileToProfile(image, source, colours.createProfile("sRGB"), outputMode="RGB")
    if image.mode.startswith("I"):
        image = image.convert("I").point(_eight_bits).convert("L")
    image = image.convert("RGBA" if clear else "RGB")
    if clear and kind == "jpeg":
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image


def _resized(image: Any, width: int, height: int, fit: str) -> Image.Image:
    """In the size asked for, never enlarged."""
    if not width and not height:
        return image
    if not width or not height or fit == "contain":
        scale = min(width / image.width if width else 1, height / image.height if height else 1, 1)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)
    scale = min(image.width / width, image.height / height, 1)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if fit == "fill":
        return image.resize(size, Image.Resampling.LANCZOS)
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def warm_up(kind: str) -> None:
    """Do with pictures of one pixel what will be done, so that all it needs is loaded while files may be opened."""
    for source in (*_KNOWN, "profile"):
        out = io.BytesIO()
        colours: Any = ImageCms
        more = {"icc_profile": colours.ImageCmsProfile(colours.createProfile("sRGB")).tobytes()}
        try:
            pixel = Image.new("RGB", (2, 2))
            pixel.save(out, *(("PNG",) if source == "profile" else (source,)), **(more if source == "profile" else {}))
            change(out.getvalue(), 1, 1, "cover", kind, 80, 4)
        except (RefusedError, OSError, KeyError):
            # A decoder that this system has not; a picture for it is refused later.
            continue


def main(arguments: list[str]) -> int:
    """Change what comes on stdin."""
    width, height, fit, kind, quality, pixels, memory = arguments
    limit(int(memory), SECONDS)
    warm_up(kind)
    enclose()
    try:
        data = sys.stdin.buffer.read()
        made = change(data, int(width), int(height), fit, kind, int(quality), int(pixels))
    except RefusedError as refused:
        sys.stderr.write(str(refused))
        return 3
    except MemoryError:
        sys.stderr.write("memory")
        return 3
    except Exception:
        # A damaged file makes its decoder fail in any way there is.
        sys.stderr.write("format")
        return 3
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
