"""Two people sign up over HTTP and write with their own tokens; neither finds the other's draft by any door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.table import Table

from brolly.daemon import find_server
from brolly.demo.stage import Demo, DemoFailed

_PASSWORD = "Correct-horse-9"  # noqa: S105 - of made-up people
_SECONDS = 15.0
DOORS = ("list", "embedding", "batch", "tool as the user")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account of the app."""

    name: str
    user_id: str
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Proof of who asks."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def draft(self) -> str:
        """The title of the post that nobody else may see."""
        return f"{self.name}: my draft"

    @property
    def post(self) -> str:
        """The title of the post for everybody."""
        return f"{self.name}: for all to read"


async def play(demo: Demo) -> None:
    """The whole scene."""
    running = find_server(demo.home)
    if running is None:
        raise DemoFailed("the server is gone")
    demo.server = running.url
    async with httpx.AsyncClient(base_url=running.url, timeout=_SECONDS, trust_env=False) as http:
        demo.step("Two people sign up", f"POST /auth/{demo.app_id}/signup, …/login")
        carol, dan = [await _sign_up(demo, http, name) for name in ("Carol", "Dan")]
        demo.expect(carol.user_id != dan.user_id, "each has a token of their own")
        demo.step("Each writes a post and a draft", f"POST /v1/{demo.app_id}/batch")
        for person in (carol, dan):
            await _write(demo, http, person)
        demo.step("Who finds which, by four doors", f"GET /v1/{demo.app_id}/posts, …?select=posts(title), batch, MCP")
        found = {person: await _look(demo, http, person) for person in (carol, dan)}
        _show(demo, found)


async def ask(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> Any:
    """What the server answers; raises with its words for anything but success."""
    try:
        answer = await http.request(method, path, **more)
    except httpx.HTTPError as error:
        raise DemoFailed(f"{method} {path}: {error}") from error
    body = answer.json()
    if not answer.is_success:
        raise DemoFailed(f"{method} {path}: {body['error']['message']} {body['error']['remediation']}")
    return body


def _account(name: str) -> dict[str, str]:
    return {"email": f"{name.lower()}@example.com", "password": _PASSWORD}


async def _sign_up(demo: Demo, http: httpx.AsyncClient, name: str) -> Person:
    await ask(http, "POST", f"/auth/{demo.app_id}/signup", json=_account(name))
    return await sign_in(demo, http, name)


async def sign_in(demo: Demo, http: httpx.AsyncClient, name: str) -> Person:
    """One of the people, with a token."""
    session = await ask(http, "POST", f"/auth/{demo.app_id}/login", json=_account(name))
    return Person(name, session["user"]["id"], session["access_token"])


async def _write(demo: Demo, http: httpx.AsyncClient, person: Person) -> None:
    posts = [{"title": person.post, "published": True}, {"title": person.draft}]
    steps = [
        {"op": "insert", "table": "users", "values": {"name": person.name}},
        {"op": "insert", "table": "posts", "values": posts},
    ]
    done = await ask(http, "POST", f"/v1/{demo.app_id}/batch", json={"steps": steps}, headers=person.headers)
    authors = {row["author_id"] for row in done["results"][1]["rows"]}
    demo.expect(
        authors == {person.user_id}, f"{person.name} stored {len(posts)} posts; their author comes from the token"
    )


async def _look(demo: Demo, http: httpx.AsyncClient, person: Person) -> Mapping[str, set[str]]:
    """The titles of posts that each door gives; of those that change rows, the drafts that it reached."""
    rows = f"/v1/{demo.app_id}"
    listed = await ask(http, "GET", f"{rows}/posts?select=title", headers=person.headers)
    users = await ask(http, "GET", f"{rows}/users?select=name,posts(title)", headers=person.headers)
    change = {"op": "update", "table": "posts", "values": {"published": False}, "filters": {"published": "is.false"}}
    done = await ask(http, "POST", f"{rows}/batch", json={"steps": [change]}, headers=person.headers)
    told = await demo.call("select_rows", table="posts", select="title", as_role="user", as_user=person.user_id)
    answers = (listed, [post for user in users for post in user["posts"]], done["results"][0]["rows"], told["rows"])
    return {door: {row["title"] for row in answer} for door, answer in zip(DOORS, answers, strict=True)}


def _show(demo: Demo, found: Mapping[Person, Mapping[str, set[str]]]) -> None:
    everybody = tuple(found)
    table = Table("post", *(person.name for person in everybody), title_justify="left")
    for author in everybody:
        for title in (author.post, author.draft):
            seen = [any(title in titles for titles in found[reader].values()) for reader in everybody]
            table.add_row(title, *("[green]finds it[/]" if there else "[red]hidden[/]" for there in seen))
    demo.screen.print(table)
    for reader in everybody:
        own = all(reader.draft in titles for titles in found[reader].values())
        other = [door for door, titles in found[reader].items() for p in found if p is not reader and p.draft in titles]
        demo.expect(own and not other, f"{reader.name} finds the own draft by {len(DOORS)} doors, the other by none")
