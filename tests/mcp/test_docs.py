"""butterbase_docs, and the pages that people open."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.docs import site, topics
from brolly.docs.search import rank, terms
from brolly.docs.service import LISTED, SNIPPET
from brolly.slices import SLICES
from tests.conftest import ToolFailed, mcp_session


async def test_without_arguments_it_lists_topics_and_tools(deps: Deps, mcp: Any) -> None:
    text = await mcp("butterbase_docs")
    for name in (*topics.TOPICS, *deps.tools):
        assert f"\n- {name}: " in text
    assert text == await mcp("butterbase_docs", topic="all") == await mcp("butterbase_docs", query="  ")


@pytest.mark.parametrize("topic", topics.TOPICS)
async def test_a_topic_is_its_page_and_wins_over_words(mcp: Any, topic: str) -> None:
    assert await mcp("butterbase_docs", topic=topic, query="something else") == topics.pages()[topic]


@pytest.mark.parametrize("arguments", [{"query": "manage_app"}, {"query": "manage app"}, {"topic": "manage_app"}])
async def test_a_tools_name_gives_its_page(mcp: Any, arguments: dict[str, str]) -> None:
    assert (await mcp("butterbase_docs", **arguments)).startswith("# manage_app\n")


@pytest.mark.parametrize("topic", ["forecast", "payments", "weather", "../overview", "Overview"])
async def test_no_topic_promises_what_is_not_there(mcp: Any, topic: str) -> None:
    with pytest.raises(ToolFailed) as failed:
        await mcp("butterbase_docs", topic=topic)
    assert failed.value.code == "VALIDATION_INVALID_SCHEMA"
    assert "overview" in failed.value.error["details"]["allowed"]


async def test_the_enum_is_the_topics_with_all_first(mcp: Any, deps: Deps) -> None:
    schema = deps.tools["butterbase_docs"].input_schema()
    assert schema["properties"]["topic"]["enum"] == ["all", *topics.TOPICS]
    assert deps.tools["butterbase_docs"].annotations()["openWorldHint"] is False


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("cors origins browser", "rest"),
        ("delete an app for good", "manage_app"),
        ("generate service key scopes", "manage_auth_config"),
        ("public_read_column", "manage_rls"),
        ("suggestion severity", "submit_suggestion"),
        ("audit log filters", "query_audit_logs"),
        ("environment variable settings", "cli"),
    ],
)
async def test_the_best_section_is_found(deps: Deps, query: str, page: str) -> None:
    assert page in [section.page for section in await rank(deps.local_model, query, 2)]


async def test_a_search_lists_a_few_and_gives_the_best_in_full(deps: Deps, mcp: Any) -> None:
    text = await mcp("butterbase_docs", query="anonymous callers see nothing")
    found = await rank(deps.local_model, "anonymous callers see nothing", LISTED)
    listed = [line for line in text.splitlines() if re.match(r"\d\. ", line)]
    assert 1 < len(listed) <= LISTED
    for number, line in enumerate(listed, 1):
        section = found[number - 1]
        head = f"{number}. {section.page} > {section.heading}: "
        assert line.startswith(head)
        assert len(line) <= len(head) + SNIPPET + 2
    best = found[0]
    assert f"# {best.page} > {best.heading}\n\n{best.text}" in text


async def test_words_that_occur_nowhere_give_the_topics(mcp: Any) -> None:
    text = await mcp("butterbase_docs", query="zeppelin")
    assert text.startswith("Nothing fits 'zeppelin'.")
    assert text.endswith(await mcp("butterbase_docs"))


@pytest.mark.parametrize("query", ["the of and", "!!! ???", "é", "'; drop table x --", "x" * 500, "\x00"])
async def test_any_words_may_be_asked(mcp: Any, query: str) -> None:
    assert await mcp("butterbase_docs", query=query)


async def test_a_query_has_a_limit(mcp: Any) -> None:
    with pytest.raises(ToolFailed) as failed:
        await mcp("butterbase_docs", query="x" * 501)
    assert failed.value.code == "VALIDATION_INVALID_SCHEMA"


def test_forms_of_a_word_meet() -> None:
    for one, other in (("policies", "policy"), ("keys", "key"), ("deleted", "delete"), ("pausing", "pause")):
        assert terms(one) == terms(other)
    assert terms("row_level") == ["row_level", "row", "level"]
    assert terms("class") == ["class"]


def test_headings_inside_code_cut_nothing() -> None:
    for section in topics.sections():
        assert section.text.count("```") % 2 == 0, section.heading
    assert {section.page for section in topics.sections()} == set(topics.pages())


async def test_nothing_is_fetched(deps: Deps, owner: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mcp_session(deps, owner) as mcp:
        await mcp("list_regions")
        real, host = socket.socket.connect, deps.databases.server.host

        def connect(self: socket.socket, address: Any) -> None:
            assert isinstance(address, str), f"connects to {address}"
            assert address.startswith(host), f"connects to {address}"
            real(self, address)

        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail(f"resolves {a}"))
        assert await mcp("butterbase_docs", query="cors")


class Collected(HTMLParser):
    """Tags, ids and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name in ("src", "style", "srcset", "action") or name.startswith("on"):
                self.loads.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("path", ["", "/errors", *(f"/{name}" for name in topics.pages())])
async def test_each_page_is_public_and_loads_nothing(anon_http: httpx.AsyncClient, path: str) -> None:
    answer = await anon_http.get(f"/docs{path}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    page = Collected(answer.text)
    assert not page.loads
    assert {"script", "link", "img", "iframe", "form", "object"}.isdisjoint(page.tags)
    assert page.tags.count("h1") == 1
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        target, _, anchor = link.partition("#")
        assert target == "" or target.startswith(("/docs", "https://")), link
        if target.startswith("/docs"):
            assert (await anon_http.get(target)).status_code == 200, link
        if not target:
            assert anchor in page.ids


async def test_the_policy_allows_the_pages_own_style_alone(anon_http: httpx.AsyncClient) -> None:
    answer = await anon_http.get("/docs/errors")
    style = answer.text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for words in ("prefers-color-scheme: dark", "color-scheme: light dark"):
        assert words in style
    assert "url(" not in style
    assert "@import" not in style


async def test_a_page_that_is_not_there_is_an_error_with_a_way_on(anon_http: httpx.AsyncClient) -> None:
    answer = await anon_http.get("/docs/overvew")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
    assert "Did you mean overview?" in answer.json()["error"]["message"]
    for path in ("/docs/..%2Foverview", "/docs/pages%2Foverview.md", "/docs/%3Cscript%3E"):
        assert (await anon_http.get(path)).status_code == 404


def test_markup_in_a_page_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = (
        "# <script>alert(1)</script>\n\n<img src=x onerror=alert(1)> ![i](https://x.example/i.png) "
        "[a](javascript:alert(1)) [b](data:text/html,x) `<b>`\n\n```html\n<script>\n```\n"
    )
    monkeypatch.setattr(site, "pages", lambda: {"hostile": hostile})
    page = Collected(site.page_html.__wrapped__("hostile"))
    assert {"script", "img"}.isdisjoint(page.tags)
    assert not page.loads
    assert not [link for link in page.links if link.startswith(("javascript:", "data:"))]


def test_the_page_about_http_names_every_route_and_no_other() -> None:
    def form(path: str) -> str:
        return re.sub(r"\{[^}]*\}", "{}", path.split("?")[0])

    said = re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`]*)`", topics.pages()["rest"])
    there = {
        (method, form(route.path))
        for part in SLICES
        for route in (*part.routes, *part.last_routes)
        # A socket is opened by GET.
        for method in getattr(route, "methods", {"GET"}) - {"HEAD", "OPTIONS"}
    }
    health = {("GET", "/health"), ("GET", "/health/ready")}
    assert {(method, form(path)) for method, path in said} == {r for r in there if "/docs" not in r[1]} | health


async def test_the_resource_and_the_tool_give_the_same_page(deps: Deps, owner: Caller, mcp: Any) -> None:
    from mcp import Client

    from brolly.mcp_server import BrollyServer

    async with Client(BrollyServer(deps, owner)) as session:
        result = await session.read_resource("brolly://tools/manage_app")
    assert result.contents[0].text == await mcp("butterbase_docs", query="manage_app")  # type: ignore[union-attr]
