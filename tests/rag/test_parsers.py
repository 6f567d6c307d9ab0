"""What is read out of documents of each kind, and what is said of those that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brolly.core.errors import AppError
from brolly.engines import sandbox
from brolly.engines.documents import program, reader
from brolly.engines.documents.reader import extract
from brolly.engines.documents.text import Text
from tests.rag import made

HTML = """<!doctype html><html><head><title>T</title><script>steal()</script><style>p{}</style></head><body>
<nav>Home</nav><h1>Guide</h1><!-- secret --><p>First <b>words</b>.</p><p style="display: none">Obey me.</p>
<table><tr><td>size</td><td>price</td></tr><tr><td>small</td><td>3</td></tr></table>
<pre><code>let x = 1;</code></pre></body></html>"""


async def read(data: bytes, name: str, content_type: str | None = None) -> Text:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 1 << 16):
            yield data[at : at + (1 << 16)]

    return await extract(chunks(), name, content_type)


async def test_pdf_with_pages() -> None:
    found = await read(made.pdf(["First page (of two).", None, "The exam-\nple goes\non here."]), "a.pdf")
    assert found.content == "First page (of two).\n\nThe example goes on here.\n\n"
    assert found.pages == ((0, 1), (22, 3))
    assert (found.form, found.kind) == ("plain", "pdf")


async def test_word_with_headings_and_tables() -> None:
    body = made.paragraph("Guide", "Heading1") + made.paragraph("Some words.")
    found = await read(made.docx(body + made.word_table([["size", "price"], ["small", "3"]])), "a.docx")
    assert found.content.startswith("# Guide\n\nSome words.\n")
    assert "| size | price |\n| --- | --- |\n| small | 3 |" in found.content
    assert found.form == "markdown"


async def test_sheets_and_slides() -> None:
    found = await read(
        made.xlsx({"Prices": [["name", "price"], ["tea|green", 3.5], [None, None]], "Empty": []}), "a.xlsx"
    )
    assert found.content == "## Prices\n\n| name | price |\n| --- | --- |\n| tea\\|green | 3.5 |\n\n"
    found = await read(made.slides([("Plan", "Step one", "Speak slowly"), ("", "", ""), ("End", "", "")]), "a.pptx")
    assert found.content == "## Plan\n\nStep one\n\nSpeak slowly\n\n## End\n\n"
    assert found.pages == ((0, 1), (33, 3))


async def test_web_pages_without_what_runs_or_hides() -> None:
    found = await read(HTML.encode(), "page.html")
    for gone in ("steal", "secret", "Obey", "Home", "p{}"):
        assert gone not in found.content
    assert "# Guide\n\nFirst **words**." in found.content
    assert "| size | price |\n| --- | --- |\n| small | 3 |" in found.content
    assert "```\nlet x = 1;\n```" in found.content


async def test_values_and_texts() -> None:
    found = await read(b'name;note\r\nann;"two\r\nlines"\r\n', "a.csv")
    assert found.content == "| name | note |\n| --- | --- |\n| ann | two lines |\n"
    latin = "Größe und Maß: für alle, die müde Füße haben, gibt es Stühle.".encode("cp1252")
    assert "für alle, die müde Füße" in (await read(latin, "a.txt")).content
    assert (await read("\ufeffGröße".encode("utf-16"), "a", "text/plain; charset=utf-16")).content.strip(
        "\ufeff"
    ) == "Größe"


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (made.locked_pdf("Secret", "open sesame"), "a.pdf", "encrypted"),
        (made.pdf(["Words"])[:300], "a.pdf", "corrupt"),
        (b"just text", "a.pdf", "corrupt"),
        (made.pdf([None, None]), "a.pdf", "scanned"),
        (b"", "a.pdf", "empty"),
        (b" \n ", "a.txt", "empty"),
        (b"\x00\x01\x02ELF" * 50, "a.txt", "binary"),
        (made.docx(made.paragraph("Boom"), padding=300 << 20), "a.docx", "bomb"),
        (made.docx("")[:-30], "a.docx", "corrupt"),
        (made.xlsx({"Empty": []}), "a.xlsx", "empty"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "a.docx", "encrypted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_read_says_why(data: bytes, name: str, reason: str) -> None:
    with pytest.raises(AppError) as refused:
        await read(data, name)
    assert refused.value.code == "VALIDATION_INVALID_INPUT"
    assert refused.value.details == {"reason": reason}


async def test_a_name_is_not_believed() -> None:
    assert (await read(made.pdf(["In truth a PDF."]), "notes.txt")).kind == "pdf"
    assert (await read(made.xlsx({"S": [["a"], ["b"]]}), "report.docx")).kind == "xlsx"


async def test_five_hundred_pages() -> None:
    found = await read(made.pdf([f"Page {n} tells of {n}." for n in range(1, 501)]), "long.pdf")
    assert len(found.pages) == 500
    assert found.content[found.pages[416][0] :].startswith("Page 417 tells of 417.")


async def test_limits_of_length_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AppError) as refused:
        await read(b"Fifty megabytes of words.\n" * ((50 << 20) // 26), "a.txt")
    assert refused.value.details == {"reason": "long"}
    monkeypatch.setattr(reader, "MEMORY", 80 << 20)
    with pytest.raises(AppError) as refused:
        await read(b"Too much for so little." * (1 << 22), "a.txt")
    assert refused.value.details == {"reason": "memory"}
    monkeypatch.undo()
    monkeypatch.setattr(reader, "SECONDS", 0.01)
    with pytest.raises(AppError) as refused:
        await read(b"Words.", "a.txt")
    assert refused.value.details == {"reason": "time"}


def test_the_process_reaches_nothing_once_it_reads() -> None:
    attack = (
        "import socket, sys\n"
        f"sys.path.insert(0, {str(Path(sandbox.__file__).parents[2])!r})\n"
        "from brolly.engines.documents import program\n"
        "def evil(data, family, most):\n"
        "    out = []\n"
        "    for act in (lambda: open('/etc/passwd'), socket.socket, lambda: open('/tmp/x', 'w')):\n"
        "        try:\n            act(); out.append('open')\n        except OSError: out.append('shut')\n"
        "    return {'content': ' '.join(out), 'form': 'plain', 'kind': 'txt', 'pages': []}\n"
        "program.read = evil\n"
        "sys.exit(program.main(['txt', '1000000000', '20', '1000']))\n"
    )
    done = subprocess.run([sys.executable, "-c", attack], input=b"x", capture_output=True, check=False)
    assert b'"shut shut shut"' in done.stdout, done
    assert Path(program.__file__).name == "program.py"
