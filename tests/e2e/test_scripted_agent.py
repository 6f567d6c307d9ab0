"""From nothing to a live blog, by an agent that read neither our sources nor our documents."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
from mcp import Client

from tests.e2e.processes import Machine, stdio
from tests.e2e.scripted_agent import Agent

PAGE = "<!doctype html><title>Blog</title><h1>Blog</h1><script>fetch('/data/posts')</script>"
# As for another product: the key in its spelling, a type in short, a column without an object around it.
TABLES = {
    "posts": {
        "columns": {
            "id": {"type": "uuid", "primary_key": True, "default": "gen_random_uuid()"},
            "author_id": {"type": "uuid", "nullable": False},
            "title": {"type": "text", "nullable": False},
            "published": {"type": "boolean", "nullable": False, "default": "false"},
        }
    },
    "tags": {"columns": {"id": {"type": "serial", "primaryKey": True}, "label": "text"}},
}


def zipped(page: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.html", page)
    return out.getvalue()


async def scaffold(agent: Agent) -> tuple[dict[str, Any], str]:
    """The blog: tables, policies, proof, a live page. Each first try is how somebody would guess it."""
    app = await agent.want("init_app", name="blog")
    agent.known["APP"] = app["app_id"]
    await agent.want("create_table", app_id="APP", action="apply", schema={"tables": TABLES})
    await agent.want("manage_schema", appId="APP", action="apply_schema", schema={"tables": TABLES})
    await agent.want(
        "manage_rls", app_id="APP", action="create_user_isolation", table="posts", user_column="author_id",
        public_read_column="published",
    )  # fmt: skip
    await agent.want(
        "manage_rls", app_id="APP", action="create_policy", table_name="tags", policy_name="tags_read",
        command="SELECT", role="user", using_expression="auth.uid() is not null",
    )  # fmt: skip
    await agent.want("seed_database", app_id="APP", table="tags", rows=[{"label": "news"}, {"label": "food"}])
    found = await agent.want("select_rows", app_id="APP", table="tags", filters={"label": "news"})
    assert [row["label"] for row in found["rows"]] == ["news"]
    hidden = await agent.want("select_rows", app_id="APP", table="tags", as_role="anon")
    assert hidden["rows"] == []
    made = await agent.want("create_frontend_deployment", app_id="APP")
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.put(made["uploadUrl"], content=zipped(PAGE), headers={"Content-Type": "application/zip"})
    live = await agent.want("manage_frontend", app_id="APP", action="start", deployment_id=made["deployment_id"])
    return app, live["url"]


async def test_a_scripted_agent_scaffolds_a_blog_from_what_clients_are_told(here: Machine) -> None:
    home: Path = here.home()
    server = here.serve(home)
    async with Client(stdio(home)) as session:
        agent = Agent(session)
        await agent.learn()
        app, url = await scaffold(agent)
    # Wrong at first, right by the error's words: that is what it is about.
    assert len(agent.mistakes) >= 6, agent.mistakes
    host = url.removeprefix("http://").rstrip("/")
    async with httpx.AsyncClient(base_url=server.url, headers={"Host": host}, trust_env=False, timeout=15) as site:
        assert "<h1>Blog</h1>" in (await site.get("/")).text
        tokens: list[str] = []
        for name in ("ann", "ben"):
            person = {"email": f"{name}@example.com", "password": "Correct-horse-9"}
            assert (await site.post("/auth/signup", json=person)).status_code in (200, 201)
            tokens.append((await site.post("/auth/login", json=person)).json()["access_token"])
        ann, ben = ({"Authorization": f"Bearer {token}"} for token in tokens)
        for title, published in (("Hello", True), ("Draft", False)):
            post = {"title": title, "published": published}
            assert (await site.post("/data/posts", json=post, headers=ann)).status_code == 201
        seen = {who: sorted(row["title"] for row in (await site.get("/data/posts", headers=how)).json())
                for who, how in (("ann", ann), ("ben", ben), ("nobody", {}))}  # fmt: skip
    assert seen == {"ann": ["Draft", "Hello"], "ben": ["Hello"], "nobody": ["Hello"]}
    assert app["created"] is True
