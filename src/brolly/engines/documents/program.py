"""The program that reads one document, in a process of its own: what it decodes may be made to harm it.

Arguments: kind by name, most bytes of memory, most seconds, most characters. The document comes on stdin, its text
as JSON goes to stdout; failing, it ends with 3 and one word on stderr. It is started without the server's environment.
"""

from __future__ import annotations

import codecs
import encodings.aliases
import json
import sys
from typing import Any

from brolly.engines.documents import office, pages, plain
from brolly.engines.documents.refusal import RefusedError
from brolly.engines.sandbox import enclose, limit

_PDF, _ZIP, _OLE = b"%PDF-", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def sniffed(data: bytes, named: str) -> str:
    """The family that the bytes belong to: their beginning counts, the name only among texts."""
    # A PDF may have something in front of it.
    if _PDF in data[:1024]:
        return "pdf"
    if data.startswith(_ZIP):
        return "zip"
    if data.startswith(_OLE):
        # Office files with a password are wrapped so; so are those of before 2007.
        raise RefusedError("encrypted" if b"E\0n\0c\0r\0y\0p\0t" in data[: 1 << 20] else "corrupt")
    if named in ("pdf", "docx", "xlsx", "pptx"):
        raise RefusedError("corrupt" if data.strip() else "empty")
    return named


def load(family: str) -> None:
    """Import all that reading will need, while files may be opened."""
    # Codecs are modules that are looked for when they are first used.
    for name in set(encodings.aliases.aliases.values()):
        try:
            codecs.lookup(name)
        except (LookupError, ImportError):
            continue
    if family == "pdf":
        pages.load()
    elif family == "zip":
        office.load()
    else:
        plain.load()


def read(data: bytes, family: str, most: int) -> dict[str, Any]:
    """The text with its marks."""
    if family == "pdf":
        found = pages.read_pdf(data, most)
    elif family == "zip":
        found = office.read_office(data, most)
    else:
        found = plain.read_text(data, family)
    if len(found["content"]) > most:
        raise RefusedError("long")
    if not found["content"].strip():
        raise RefusedError(found.get("without", "empty"))
    return found


def main(arguments: list[str]) -> int:
    """Read what comes on stdin."""
    named, memory, seconds, most = arguments
    limit(int(memory), int(seconds))
    try:
        # Only its first bytes are looked at before the doors are closed.
        data = sys.stdin.buffer.read()
        family = sniffed(data, named)
        load(family)
        enclose()
        found = read(data, family, int(most))
    except RefusedError as refused:
        sys.stderr.write(str(refused))
        return 3
    except (MemoryError, RecursionError):
        sys.stderr.write("memory")
        return 3
    except Exception:
        # A damaged file makes a library fail in any way there is.
        sys.stderr.write("corrupt")
        return 3
    found["content"] = found["content"].encode("utf-8", "replace").decode().replace("\0", "")
    sys.stdout.write(json.dumps({name: found[name] for name in ("content", "form", "kind", "pages")}))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
