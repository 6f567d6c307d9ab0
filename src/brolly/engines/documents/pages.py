"""PDF. Runs in the process that reads one document."""

from __future__ import annotations

import io
import logging
from typing import Any

from brolly.engines.documents.refusal import RefusedError


def load() -> None:
    """Import what reading needs, with what is imported on the way."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    # The cipher's library is imported when it is first needed.
    writer.encrypt("", "owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    reader = pypdf.PdfReader(io.BytesIO(out.getvalue()))
    reader.decrypt("")
    reader.pages[0].extract_text()


def read_pdf(data: bytes, most: int) -> dict[str, Any]:
    """The text page by page."""
    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise RefusedError("encrypted")
        total = len(reader.pages)
    except (FileNotDecryptedError, DependencyError):
        raise RefusedError("encrypted") from None
    parts: list[str] = []
    marks: list[tuple[int, int]] = []
    length, pictures = 0, False
    for number in range(total):
        page = reader.pages[number]
        text = _joined(page.extract_text() or "")
        if not text.strip():
            pictures = pictures or _has_pictures(page)
            continue
        marks.append((length, number + 1))
        parts.append(text + "\n\n")
        length += len(parts[-1])
        if length > most:
            raise RefusedError("long")
    return {
        "content": "".join(parts),
        "form": "plain",
        "kind": "pdf",
        "pages": marks,
        "without": "scanned" if pictures else "empty",
    }


def _joined(text: str) -> str:
    """Without the ends of lines that are the page's alone: words cut in two are one again."""
    lines = [line.strip() for line in text.replace("\0", "").split("\n")]
    joined: list[str] = []
    for line in lines:
        if joined and line and joined[-1].endswith("-") and joined[-1][-2:-1].isalpha() and line[0].islower():
            joined[-1] = joined[-1][:-1] + line
        elif joined and line and joined[-1] and joined[-1][-1] not in ".!?:;" and line[0].islower():
            joined[-1] += " " + line
        else:
            joined.append(line)
    return "\n".join(joined).strip()


def _has_pictures(page: Any) -> bool:
    try:
        objects = page["/Resources"]["/XObject"].get_object()
        return any(objects[name].get_object().get("/Subtype") == "/Image" for name in objects)
    except Exception:
        return False
