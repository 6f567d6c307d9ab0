"""Word, Excel and PowerPoint files. Runs in the process that reads one document."""

from __future__ import annotations

import importlib
import io
import zipfile
from typing import Any

from brolly.engines.documents.plain import markdown_of, markdown_table
from brolly.engines.documents.refusal import RefusedError

_MOST_UNPACKED = 400 * 1024 * 1024
_MOST_RATIO = 200
_SMALL = 20 * 1024 * 1024
"""What may unpack to any multiple: white space packs well."""
_MOST_ROWS = 200_000


def load() -> None:
    """Import what reading needs, and use it once: each library opens files of its own on the way."""
    import bs4
    import markdownify
    import pptx

    # Looked for by the standard library when a Word file is first parsed.
    importlib.import_module("xml.dom.expatbuilder")
    markdownify.markdownify(str(bs4.BeautifulSoup("<p>a</p>", "html.parser")))
    # The library's own empty presentation goes through the parser once.
    pptx.Presentation()
    _mammoth()
    importlib.import_module("openpyxl")


def _mammoth() -> Any:
    # It has no types.
    return importlib.import_module("mammoth")


def read_office(data: bytes, most: int) -> dict[str, Any]:
    """The text of whichever of the three it is."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise RefusedError("corrupt") from None
    _judge(archive)
    if "word/document.xml" in names:
        return _word(data)
    if "xl/workbook.xml" in names:
        return _excel(data, most)
    if "ppt/presentation.xml" in names:
        return _powerpoint(data)
    raise RefusedError("corrupt")


def _judge(archive: zipfile.ZipFile) -> None:
    """Raise for what would unpack to far more than it is; a member cannot unpack to more than it declares."""
    entries = archive.infolist()
    if any(entry.flag_bits & 1 for entry in entries):
        raise RefusedError("encrypted")
    unpacked = sum(entry.file_size for entry in entries)
    packed = max(1, sum(entry.compress_size for entry in entries))
    if unpacked > _MOST_UNPACKED or (unpacked > _SMALL and unpacked / packed > _MOST_RATIO) or len(entries) > 20_000:
        raise RefusedError("bomb")


def _word(data: bytes) -> dict[str, Any]:
    mammoth = _mammoth()

    def no_picture(_image: Any) -> dict[str, str]:
        return {}

    found: Any = mammoth.convert_to_html(
        io.BytesIO(data), convert_image=mammoth.images.img_element(no_picture), external_file_access=False
    )
    return {"content": markdown_of(found.value), "form": "markdown", "kind": "docx", "pages": []}


def _excel(data: bytes, most: int) -> dict[str, Any]:
    """Each sheet as a table under its name."""
    import openpyxl

    book: Any = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    parts: list[str] = []
    total = length = 0
    for sheet in book.worksheets:
        rows: list[list[str]] = []
        for values in sheet.iter_rows(values_only=True):
            cells = ["" if value is None else str(value) for value in values]
            while cells and not cells[-1].strip():
                cells.pop()
            if not cells:
                continue
            rows.append(cells)
            total, length = total + 1, length + sum(map(len, cells))
            if total > _MOST_ROWS or length > most:
                raise RefusedError("long")
        if rows:
            parts.append(f"## {sheet.title}\n\n{markdown_table(rows)}\n")
    book.close()
    return {"content": "".join(parts), "form": "markdown", "kind": "xlsx", "pages": []}


def _powerpoint(data: bytes) -> dict[str, Any]:
    """Each slide as a page under its title, with the notes of who speaks."""
    import pptx

    slides: Any = pptx.Presentation(io.BytesIO(data)).slides
    parts: list[str] = []
    marks: list[tuple[int, int]] = []
    length, pictures = 0, False
    for number, slide in enumerate(slides, 1):
        title = slide.shapes.title.text_frame.text.strip() if slide.shapes.title is not None else ""
        said = [text for shape in slide.shapes if shape != slide.shapes.title for text in _shape(shape)]
        notes = slide.notes_slide.notes_text_frame.text.strip() if slide.has_notes_slide else ""
        pictures = pictures or any(shape.shape_type == 13 for shape in slide.shapes)
        if not (title or said or notes):
            continue
        text = f"## {' '.join(title.split()) or f'Slide {number}'}\n\n" + "\n\n".join([*said, notes] if notes else said)
        marks.append((length, number))
        parts.append(text.rstrip() + "\n\n")
        length += len(parts[-1])
    without = "scanned" if pictures else "empty"
    return {"content": "".join(parts), "form": "markdown", "kind": "pptx", "pages": marks, "without": without}


def _shape(shape: Any) -> list[str]:
    if shape.shape_type == 6:
        return [text for inner in shape.shapes for text in _shape(inner)]
    if shape.has_text_frame and shape.text_frame.text.strip():
        return [shape.text_frame.text.replace("\x0b", "\n").strip()]
    if getattr(shape, "has_table", False) and shape.has_table:
        return [markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])]
    return []
