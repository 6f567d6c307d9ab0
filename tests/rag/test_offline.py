"""The whole way of a document, as the demo shows it, with every address of a network forbidden."""

from __future__ import annotations

import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from brolly.demo.knowledge import CARE, PAGES, PRICES, QUESTIONS, pdf
from tests.rag.conftest import Library

_tried: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells of each connection before it is made, whichever library makes it."""
    if _tried is None or event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        return
    if event == "socket.getaddrinfo" or arguments[0].family != socket.AF_UNIX:
        _tried.append(f"{event} {arguments[-1] if event != 'socket.getaddrinfo' else arguments[0]}")
        raise OSError("no network")


sys.addaudithook(_watch)


@contextmanager
def no_network() -> Generator[list[str]]:
    """What was tried nevertheless."""
    global _tried  # noqa: PLW0603 - the hook stays for as long as the process
    _tried = tried = []
    try:
        yield tried
    finally:
        _tried = None


async def test_three_documents_answer_three_questions_without_a_network(library: Library) -> None:
    with no_network() as tried:
        with pytest.raises(OSError, match="no network"):
            socket.create_connection(("127.0.0.1", 9), timeout=1)
        tried.clear()
        assert (await library.collection("manual", access_mode="shared"))["embedding_model"].startswith("local/")
        assert (await library.read("manual", text=CARE, filename="care.md"))["status"] == "ready"
        for name, kind, data in (("prices.csv", "text/csv", PRICES), ("terms.pdf", "application/pdf", pdf(PAGES))):
            stored = await library.store(data if isinstance(data, bytes) else data.encode(), name, kind=kind)
            assert (await library.read("manual", storage_object_id=stored))["status"] == "ready"
        for question, filename, words in QUESTIONS:
            body = {"query": question}
            answer = await library.send("ann", "POST", "collections/manual/query", json=body)
            first = answer.json()["chunks"][0]
            assert first["document"]["filename"] == filename
            assert words in first["text"]
            assert (first["number"], first["page"]) == (1, 1 if filename == "terms.pdf" else None)
        # Where no chat model is configured, the usual ports of this machine are asked for one, and nothing else.
        body = {"query": QUESTIONS[0][0], "synthesize": True}
        refused = await library.send("ann", "POST", "collections/manual/query", json=body)
        assert refused.json()["error"]["code"] == "STATE_PREREQUISITE_MISSING"
        assert all("127.0.0.1" in each for each in tried), tried
