"""``mcp.json.example``: both of its entries reach a server, as they stand but for names of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.e2e.processes import environment, free_port, machine, owner_key, recorded

EXAMPLE = Path(__file__).parents[2] / "mcp.json.example"


async def used(transport: Any) -> tuple[list[str], dict[str, Any]]:
    """The names of the tools offered, and what init_app answered."""
    async with Client(transport) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        result = await client.call_tool("init_app", {"name": "example"})
        text = result.content[0].text  # type: ignore[union-attr]
        assert not result.is_error, text
        return names, json.loads(text)


async def test_both_entries_of_the_example_work() -> None:
    entries = json.loads(EXAMPLE.read_text("utf-8"))["mcpServers"]
    assert set(entries) == {"brolly", "brolly-http"}
    command, http = entries["brolly"], entries["brolly-http"]
    assert set(command) == {"command", "args"}
    assert command["command"] == "brolly"
    assert http["type"] == "http"
    with machine() as here:
        home, port = here.home(), free_port()
        stdio = StdioServerParameters(
            command=sys.executable,
            args=["-m", "brolly", *command["args"]],
            env=environment(home, port=str(port)),
        )
        tools, made = await used(stdio)
        assert "init_app" in tools
        assert made["created"] is True

        found = recorded(home)
        assert found is not None
        assert urlsplit(found["url"]).port == port
        headers = {name: text.replace("${BROLLY_API_KEY}", owner_key(home)) for name, text in http["headers"].items()}
        assert headers != http["headers"], "the key is a variable, not a value"
        address = urlsplit(http["url"])
        assert address.port == 4000, "the port that is taken when none is set"
        url = address._replace(netloc=f"{address.hostname}:{port}").geturl()
        async with httpx2.AsyncClient(headers=headers, timeout=20, trust_env=False) as carrier:
            same_tools, again = await used(streamable_http_client(url, http_client=carrier))
        assert same_tools == tools
        assert (again["app_id"], again["created"]) == (made["app_id"], False)
