"""Documents and models together, through the gateway to a provider: from programs, a page in a browser, a function."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, expect

from brolly.deps import Deps
from brolly.rag.chunk import PATH_SEPARATOR
from tests.ai.conftest import MODELS, Gateway, make_gateway
from tests.api.test_auth_sessions import PASSWORD
from tests.browser import visitor
from tests.conftest import hold_open, mcp_session
from tests.rag.conftest import Library

PAGE = """<!doctype html><title>Ask</title>
<p id=said></p><p id=state></p><p id=answer></p><p id=sources></p><p id=refused></p>
<script type=module>
const show = (id, text) => { document.getElementById(id).textContent = text; };
const send = (path, body, token) => fetch(path, { method: "POST", body: JSON.stringify(body),
  headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) } });
const login = await (await send("/auth/login", { email: "a@example.com", password: "PASSWORD" })).json();
const chat = { model: "MODEL", stream: true, messages: [{ role: "user", content: "slow 0.15 one two three" }] };
const { body } = await send("/data/chat/completions", chat, login.access_token);
let said = "", rest = "", looks = 0;
for await (const piece of body.pipeThrough(new TextDecoderStream())) {
  const frames = (rest + piece).split("\\n\\n");
  rest = frames.pop();
  for (const frame of frames.map((f) => f.replace(/^data: /, ""))) {
    if (frame === "[DONE]") { show("state", `done in ${looks > 2 ? "parts" : "one"}`); continue; }
    const word = JSON.parse(frame).choices[0]?.delta?.content ?? "";
    if (word) { said += word; looks += 1; show("said", said); }
  }
}
const ask = { query: "say Until the cloth is dry [1].", synthesize: true, model: "MODEL", top_k: 1 };
const found = await (await send("/data/rag/collections/care/query", ask, login.access_token)).json();
show("answer", found.answer);
show("sources", found.citations.map((c) => `${c.number} ${c.filename} ${c.heading}`).join());
show("refused", (await send("/data/chat/completions", chat)).status + " " + (await send(
  "/data/rag/collections/care/query", ask)).status);
</script>"""
FUNCTION = """
export async function handler(request: Request, ctx: any) {
  const { op, collection, query, said, stream, model, sql, ...rest } = await request.json();
  try {
    if (op === "query") return Response.json(await ctx.rag.query(collection, query, { model, ...rest }));
    if (op === "ingest") return Response.json(await ctx.rag.ingest(collection, { filename: "noted.md", ...rest }));
    if (op === "sql") return Response.json(await ctx.db.query(sql));
    if (op === "embed") return Response.json((await ctx.ai.embed("x", { model: "local" })).data[0].embedding.length);
    const answer = await ctx.ai.chat({ messages: [{ role: "user", content: said }], model, stream });
    return stream ? answer : Response.json(answer.choices[0].message);
  } catch (error) {
    return Response.json({ code: error.code });
  }
}
"""
COPY = (
    "insert into rag_notes (document_id, user_id, position, content, start_offset, end_offset, tokens, embedding) "
    "select document_id, user_id, 99, 'Obey me.', 0, 0, 0, embedding from rag_notes limit 1"
)
CARE = "# Care\n\n## After rain\n\nLeave it open until the cloth is dry."
STORM = "# Storms\n\nClose the umbrella in a storm."


@pytest.fixture(scope="module")
async def shop(deps: Deps, reading: None) -> AsyncIterator[tuple[Gateway, Library]]:
    """An app with a provider and two documents that everybody who is signed in may search."""
    gateway, close = await hold_open(make_gateway(deps))
    clients = {**gateway.clients, "owner": gateway.clients["service"]}
    library = Library(gateway.deps, gateway.app, gateway.owner, clients, gateway.ids)
    await library.collection("care", access_mode="shared", embedding_model="local")
    for name, text in (("care.md", CARE), ("storm.md", STORM)):
        assert (await library.read("care", text=text, filename=name))["status"] == "ready"
    await library.collection("notes", embedding_model="local")
    yield gateway, library
    await close()


@pytest.fixture
async def asked(shop: tuple[Gateway, Library]) -> Any:
    """Ask the documents; the provider does what the question says."""
    gateway, library = shop
    await gateway.reset()

    async def ask(query: str, who: str = "A", **more: Any) -> httpx.Response:
        body = {"query": query, "model": MODELS["openai"], **more}
        return await library.send(who, "POST", "collections/care/query", json=body)

    return ask


@pytest.mark.parametrize("protocol", MODELS)
async def test_an_answer_comes_from_each_kind_of_provider(
    shop: tuple[Gateway, Library], asked: Any, protocol: str
) -> None:
    query = f"say Until the cloth is dry [1], by {protocol}."
    answer = (await asked(query, synthesize=True, model=MODELS[protocol])).json()
    assert answer["answer"] == query.removeprefix("say ")
    assert [source["number"] for source in answer["citations"]] == [1]
    assert answer["model"] == MODELS[protocol]
    (call,) = await shop[0].provider.seen(query)
    assert CARE.rsplit("\n", 1)[1] in str(call["body"])
    used = (await shop[0].usage())["byUser"][shop[0].ids["A"]]
    assert (used["requests"], used["tokens"]) == (1, answer["usage"]["total_tokens"])


async def test_a_second_look_by_a_provider(asked: Any) -> None:
    usual = [chunk["id"] for chunk in (await asked('say {"order":[2,1]}')).json()["chunks"]]
    again = (await asked('say {"order":[2,1]}', rerank=True)).json()
    assert again["reranked"] is True
    assert [chunk["id"] for chunk in again["chunks"]] == usual[::-1]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("status 429 60 9 umbrella cloth", 429, "QUOTA_RATE_LIMIT"),
        ("status 501 - 9 umbrella cloth", 503, "MODEL_UNAVAILABLE"),
        ("html umbrella cloth", 502, "MODEL_BROKEN_ANSWER"),
        ("wrongtype umbrella cloth", 502, "MODEL_BROKEN_ANSWER"),
        ("cut in the middle umbrella cloth", 502, "MODEL_BROKEN_ANSWER"),
        ("silent umbrella cloth", 504, "MODEL_TIMEOUT"),
    ],
)
async def test_a_provider_that_fails_fails_the_answer_and_leaves_the_search(
    asked: Any, query: str, status: int, code: str
) -> None:
    refused = await asked(query, synthesize=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), refused.text
    if query.startswith("silent"):
        # It costs its two seconds each time.
        return
    looked = (await asked(query, rerank=True)).json()
    assert looked["reranked"] is False
    assert code in looked["warnings"][0]
    assert len(looked["chunks"]) == 2


async def test_half_an_answer_says_that_it_is_half(asked: Any) -> None:
    answer = (await asked("long and [1]", synthesize=True)).json()
    assert (answer["answer"], answer["finish_reason"]) == ("and [1]", "length")


async def test_a_cap_that_is_reached_refuses_answers_and_not_the_search(
    shop: tuple[Gateway, Library], asked: Any
) -> None:
    await shop[0].configure(spendingCapUsd=0.0000001)
    refused = await asked("say umbrella cloth", synthesize=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "INSUFFICIENT_CREDITS")
    looked = (await asked("say umbrella cloth", rerank=True)).json()
    assert "INSUFFICIENT_CREDITS" in looked["warnings"][0]
    assert looked["chunks"]
    assert await shop[0].provider.seen("Question: say umbrella cloth") == []


async def test_who_asks_too_often_waits(shop: tuple[Gateway, Library], asked: Any) -> None:
    await shop[0].configure(userRequestsPerMinute=1)
    assert (await asked("say one [1]", synthesize=True)).status_code == 200
    refused = await asked("say two [1]", synthesize=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "QUOTA_RATE_LIMIT")
    assert (await asked("say two [1]")).status_code == 200
    assert (await asked("say two [1]", "B", synthesize=True)).status_code == 200


async def test_a_page_streams_a_chat_and_shows_an_answer_with_its_source(
    shop: tuple[Gateway, Library], asked: Any, browser: Browser
) -> None:
    gateway, app = shop[0], shop[0].app
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.html", PAGE.replace("MODEL", MODELS["anthropic"]).replace("PASSWORD", PASSWORD))
    async with mcp_session(gateway.deps, gateway.owner) as mcp, httpx.AsyncClient() as http:
        made = await mcp("create_frontend_deployment", app_id=app.id)
        url = made["uploadUrl"].replace(gateway.deps.settings.base_url, gateway.url)
        await http.put(url, content=packed.getvalue(), headers={"Content-Type": "application/zip"})
        done = await mcp(
            "manage_frontend", action="start_deployment", app_id=app.id, deployment_id=made["deployment_id"]
        )
        assert done["status"] == "READY", done
    async with visitor(browser) as person:
        await person.page.goto(f"http://{app.subdomain}.localhost:{gateway.url.rsplit(':', 1)[1]}/")
        await expect(person.page.locator("#said")).to_have_text("0.15 one two three")
        await expect(person.page.locator("#state")).to_have_text("done in parts")
        await expect(person.page.locator("#answer")).to_have_text("Until the cloth is dry [1].")
        await expect(person.page.locator("#sources")).to_have_text(f"1 care.md Care{PATH_SEPARATOR}After rain")
        await expect(person.page.locator("#refused")).to_have_text("401 401")
    # The chat and the answer; what was refused cost nothing.
    assert (await gateway.usage())["byUser"][gateway.ids["A"]]["requests"] == 2


@pytest.fixture(scope="module")
async def deployed(shop: tuple[Gateway, Library]) -> Gateway:
    """The app with the function, which is open to everybody and acts for whoever calls."""
    gateway = shop[0]
    async with mcp_session(gateway.deps, gateway.owner) as mcp:
        trigger = {"type": "http", "config": {"auth": "none"}}
        await mcp("deploy_function", app_id=gateway.app.id, name="ask", code=FUNCTION, trigger=trigger)
    return gateway


@pytest.fixture
async def function(deployed: Gateway) -> Any:
    """Call the function."""
    await deployed.reset()

    async def call(who: str, op: str, **body: Any) -> httpx.Response:
        return await deployed.clients[who].post(f"/v1/{deployed.app.id}/fn/ask", json={"op": op, **body})

    return call


async def test_a_function_asks_and_adds_as_its_caller(shop: tuple[Gateway, Library], function: Any) -> None:
    gateway, library = shop
    question = {"collection": "care", "query": "say Until it is dry [1].", "model": MODELS["google"]}
    answer = (await function("A", "query", **question, synthesize=True)).json()
    assert answer["answer"] == "Until it is dry [1]."
    assert answer["citations"][0]["filename"] == "care.md"
    assert (await gateway.usage())["byUser"][gateway.ids["A"]]["requests"] == 1
    # What it adds is its caller's, and nobody else's to find.
    noted = (await function("A", "ingest", collection="notes", text="Umbrella number seven is mine.")).json()
    assert (await library.settled("notes", noted["document_id"], "A"))["status"] == "ready"
    number = {"collection": "notes", "query": "umbrella number seven"}
    assert (await function("A", "query", **number)).json()["chunks"][0]["text"] == "Umbrella number seven is mine."
    assert (await function("B", "query", **number)).json()["chunks"] == []
    as_b = {"as_role": "user", "as_user": gateway.ids["B"]}
    assert (await function("service", "query", **number, **as_b)).json()["chunks"] == []
    assert len((await function("service", "query", **number)).json()["chunks"]) == 1
    for refused, code in (
        (await function("B", "ingest", collection="care", text="Believe me."), "AUTH_FORBIDDEN"),
        (await function("A", "query", **number, **as_b), "AUTH_IMPERSONATION_FORBIDDEN"),
        (await function("nobody", "query", **number), "AUTH_REQUIRED"),
        (await function("nobody", "ingest", collection="notes", text="a"), "AUTH_REQUIRED"),
        (await function("nobody", "chat", said="say nothing"), "AUTH_REQUIRED"),
    ):
        assert refused.json() == {"code": code}


async def test_a_function_reads_chunks_as_its_caller_may(shop: tuple[Gateway, Library], function: Any) -> None:
    """The chunks are rows of the app: ctx.db, whose logins are others than the door's, shows them by the same rules."""
    library = shop[1]
    for who in ("A", "B", "owner"):
        await library.read("notes", who, text=f"Written by {who}.")
    for who, seen in (("A", {"A"}), ("B", {"B"}), ("service", {"A", "B", "owner"}), ("nobody", set[str]())):
        answer = await function(who, "sql", sql="select content from rag_notes where content like 'Written by%'")
        rows = {row["content"] for row in answer.json().get("rows", [])}
        assert rows == {f"Written by {name}." for name in seen}, (who, answer.text)
    for who in ("A", "nobody"):
        for change in ("update rag_notes set content = 'Obey me.'", "delete from rag_notes", COPY):
            answer = await function(who, "sql", sql=change)
            assert answer.json() in ({"code": "AUTH_RLS_POLICY_VIOLATION"}, {"code": "AUTH_FORBIDDEN"}), answer.text
    for table in ("rag.collections", "rag.documents", "rag.staged_chunks", "rag.reembeds"):
        for who in ("A", "service"):
            assert "rows" not in (await function(who, "sql", sql=f"select * from {table}")).json()


async def test_a_function_chats_whole_and_streaming_as_its_caller(shop: tuple[Gateway, Library], function: Any) -> None:
    """Its own network is closed to the gateway, so it asks through the server's socket."""

    async def chat(said: str, stream: bool = False) -> httpx.Response:
        return await function("A", "chat", said=said, stream=stream, model=MODELS["anthropic"])

    assert (await chat("say from a function")).json()["content"] == "from a function "
    assert (await function("A", "embed")).json() == 256
    streamed = await chat("say word by word", stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.count('"content":"') >= 3
    assert streamed.text.endswith("data: [DONE]\n\n")
    broken = await chat("cut a b c d", stream=True)
    assert "MODEL_BROKEN_ANSWER" in broken.text
    assert (await shop[0].usage())["byUser"][shop[0].ids["A"]]["requests"] == 4
