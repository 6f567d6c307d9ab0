"""Collections: what is made, who may, what is refused, and what goes with them."""

from __future__ import annotations

from tests.rag.conftest import Library


async def test_first(library: Library) -> None:
    made = await library.collection("faq", description="Questions")
    assert made["table"] == "rag_faq"
    told = await library.read("faq", text="# Returns\n\nYou may send it back within 30 days.", metadata={"a": 1})
    assert told["status"] == "ready", told
    print(told, await library.chunks(told["id"], "rag_faq"))
