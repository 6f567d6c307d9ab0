"""Runs the program that reads one document, feeds it the bytes, and takes what it says."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from anyio.abc import Process

from brolly.core.errors import AppError
from brolly.engines.documents.kinds import kind_by_name
from brolly.engines.documents.text import Text

log = logging.getLogger("brolly.documents")

MEMORY = 1536 * 1024 * 1024
SECONDS = 150
MOST_CHARACTERS = 10_000_000
_MOST_ANSWERED = MOST_CHARACTERS * 6
_PROGRAM = Path(__file__).with_name("program.py")
_AGAIN = "Correct the file, then give it to manage_rag_content ingest_document again with this document_id."
_SPLIT = "Split it, and give each part to manage_rag_content ingest_document."
_WHY = {
    "encrypted": ("It is encrypted with a password.", "Save it without a password. " + _AGAIN),
    "corrupt": ("It is damaged, or not what its name says.", _AGAIN),
    "binary": ("Its name says that it is text, but its bytes are not.", _AGAIN),
    "encoding": ("Its characters are in no encoding that can be told; save it as UTF-8.", _AGAIN),
    "empty": ("There is no text in it.", _AGAIN),
    "scanned": (
        "There is no text in it: its pages are pictures, as of a scanner.",
        "Have the text recognised (OCR) first. " + _AGAIN,
    ),
    "bomb": ("What is packed in it is out of all proportion to its size.", _AGAIN),
    "long": (f"It has more than {MOST_CHARACTERS:,} characters of text.", _SPLIT),
    "memory": ("It needs more memory than a document may.", _SPLIT),
    "time": ("Reading it takes too long.", _SPLIT),
}


async def extract(source: AsyncIterator[bytes], filename: str, content_type: str | None) -> Text:
    """The document's text. Raises ``VALIDATION_INVALID_INPUT`` that says what is wrong with the document."""
    named = kind_by_name(filename, content_type) or "txt"
    command = [sys.executable, "-I", str(_PROGRAM), named, str(MEMORY), str(SECONDS), str(MOST_CHARACTERS)]
    process = await anyio.open_process(command, env={}, cwd="/")
    answer, said = bytearray(), bytearray()
    try:
        with anyio.move_on_after(SECONDS) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_feed, process, source)
                group.start_soon(_collect, process.stderr, said)
                await _collect(process.stdout, answer)
            await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()
    if scope.cancelled_caught:
        raise _refused(filename, "time")
    if process.returncode == 0 and len(answer) <= _MOST_ANSWERED:
        return _text(bytes(answer))
    words = said.decode("ascii", "replace").strip()
    # Ended by the system: by the limit of processor time, or by a library's fault.
    word = words if words in _WHY else "time" if (process.returncode or 0) < 0 else "memory"
    log.info("a document was not read: %s, %s", process.returncode, words[-300:])
    raise _refused(filename, word)


def _text(answer: bytes) -> Text:
    found = json.loads(answer)
    pages = tuple((offset, number) for offset, number in found["pages"])
    return Text(found["content"], found["form"], found["kind"], pages)


def _refused(filename: str, word: str) -> AppError:
    why, remedy = _WHY[word]
    return AppError(
        "VALIDATION_INVALID_INPUT", f"{filename[:100]} cannot be read. {why}", remediation=remedy,
        details={"reason": word},
    )  # fmt: skip


async def _feed(process: Process, source: AsyncIterator[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101
    try:
        async for chunk in source:
            await process.stdin.send(chunk)
        await process.stdin.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        # It ended without reading all; its status says why.
        return


async def _collect(stream: AsyncIterator[bytes] | None, into: bytearray) -> None:
    assert stream is not None  # noqa: S101
    async for chunk in stream:
        if len(into) <= _MOST_ANSWERED:
            into += chunk
