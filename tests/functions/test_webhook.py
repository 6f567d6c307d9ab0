"""Webhooks: let in by their signature alone, each delivery once."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from brolly.functions.store import functions_of
from brolly.rate_limit import RateLimits
from tests.conftest import web_of
from tests.functions.conftest import Stage

SECRET = "whsec_of-the-test"
BODY = b'{"id": "evt_1",  "amount": 5}'
TAKE = """
export async function handler(request: Request, ctx: any) {
  const body = await request.text();
  await ctx.db.query("insert into notes (body) values ($1)", [body]);
  const status = Number(request.headers.get("x-answer") ?? 200);
  return Response.json({ body, provider: request.headers.get("x-webhook-provider"), trigger: ctx.trigger.type,
    authorization: request.headers.get("authorization"), caller: ctx.caller.type }, { status });
}
"""


def mac(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def stripe(body: bytes = BODY, age: float = 0, secret: str = SECRET, more: str = "") -> dict[str, str]:
    moment = str(int(time.time() - age))
    return {"stripe-signature": f"t={moment},{more}v1={mac(moment.encode() + b'.' + body, secret)}"}


@pytest.fixture(scope="module")
async def plain(stage: Stage) -> None:
    """A function ``plain`` whose sender signs in the simplest way."""
    await deploy(stage, "plain")


async def deploy(stage: Stage, name: str, **config: Any) -> None:
    await stage.deploy(name, TAKE, triggers=[{"type": "webhook", "config": {"secret": SECRET, **config}}])


async def send(stage: Stage, name: str, headers: Mapping[str, str], body: bytes = BODY) -> httpx.Response:
    return await stage.http.post(f"/v1/{stage.app.id}/webhook/{name}", content=body, headers=dict(headers))


async def runs(stage: Stage) -> int:
    """How often the functions ran since this was last asked."""
    return (await stage.sql("delete from notes", who="owner"))["rowCount"]


async def test_stripe(stage: Stage) -> None:
    await deploy(stage, "stripe", provider="stripe", tolerance_seconds=60)
    # The sender's own credentials are between it and the function.
    answer = await send(stage, "stripe", {**stripe(), "Authorization": "Basic c2VuZGVyOnNlY3JldA=="})
    assert answer.status_code == 200
    assert answer.json() == {
        "body": BODY.decode(), "provider": "stripe", "trigger": "webhook", "caller": "service_key",
        "authorization": "Basic c2VuZGVyOnNlY3JldA==",
    }  # fmt: skip
    assert (await send(stage, "stripe", stripe(more="v0=00,v1=" + "0" * 64 + ","))).status_code == 200
    assert await runs(stage) == 2
    refused = [
        await send(stage, "stripe", stripe(), BODY + b" "),
        await send(stage, "stripe", stripe(age=61)),
        await send(stage, "stripe", stripe(age=-61)),
        await send(stage, "stripe", stripe(secret="another")),
        await send(stage, "stripe", {}),
        await send(stage, "stripe", {"stripe-signature": "t=,v1="}),
        await send(stage, "stripe", {"stripe-signature": "v1=" + mac(BODY)}),
        await send(stage, "stripe", {"stripe-signature": f"t={int(time.time())},v0=" + mac(BODY)}),
    ]
    assert [r.status_code for r in refused] == [401] * 8
    assert refused[0].json() == {"error": "signature verification failed"}
    assert await runs(stage) == 0


@pytest.mark.usefixtures("plain")
async def test_github_and_custom(stage: Stage) -> None:
    await deploy(stage, "github", provider="github")
    await deploy(stage, "own", signature_header="X-Hub-Sig")
    raw = bytes(range(256))
    assert (await send(stage, "github", {"x-hub-signature-256": f"sha256={mac(BODY)}"})).status_code == 200
    assert (await send(stage, "plain", {"X-Signature": mac(BODY).upper()})).status_code == 200
    # The bytes are signed, whatever they are.
    assert (await send(stage, "own", {"x-hub-sig": mac(raw)}, raw)).status_code == 500
    assert (await stage.logs("own"))[0]["error"].startswith("BrollyError")
    await runs(stage)
    for name, headers in (
        ("github", {"x-hub-signature-256": f"sha256={mac(BODY, 'another')}"}),
        ("github", {"x-hub-signature": mac(BODY)}),
        ("plain", {"x-signature": "x" * 64}),
        ("own", {"x-signature": mac(BODY)}),
    ):
        assert (await send(stage, name, headers)).status_code == 401
    assert await runs(stage) == 0
    for name in ("sql", "nowhere"):
        answer = await send(stage, name, {"x-signature": mac(BODY)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
    large = b"x" * (stage.deps.settings.body_limit + 1)
    assert (await send(stage, "plain", {"x-signature": mac(large)}, large)).status_code == 413


async def test_a_delivery_runs_once_and_again_if_it_failed(stage: Stage) -> None:
    await deploy(stage, "once", idempotency_key_header="X-Delivery")
    signed = {"x-signature": mac(BODY)}
    # Who cannot sign cannot use up a delivery either.
    assert (await send(stage, "once", {"x-delivery": "d1", "x-signature": "no"})).status_code == 401
    for status in (503, 400):
        failed = await send(stage, "once", {**signed, "x-delivery": "d1", "x-answer": str(status)})
        assert failed.status_code == status
    assert (await send(stage, "once", {**signed, "x-delivery": "d1"})).status_code == 200
    assert await runs(stage) == 3
    again = await send(stage, "once", {**signed, "x-delivery": "d1"})
    assert (again.status_code, again.json(), again.headers["x-butterbase-duplicate"]) == (
        200, {"ok": True, "duplicate": True}, "true"
    )  # fmt: skip
    assert await runs(stage) == 0
    assert (await send(stage, "once", {**signed, "x-delivery": "d2"})).status_code == 200
    for _ in range(2):
        assert (await send(stage, "once", signed)).status_code == 200
    assert await runs(stage) == 3
    async with functions_of(stage.deps, stage.app) as connection:
        kept = await connection.fetchval("select min(expires_at) > now() + interval '23 hours' from functions.claims")
        assert kept
        # As if a server had ended during the run: it is taken again once its time is over.
        await connection.execute("update functions.claims set expires_at = now() - interval '1 second'")
    assert "duplicate" not in (await send(stage, "once", {**signed, "x-delivery": "d1"})).json()


async def test_the_secret_is_never_shown_and_stays_when_it_is_sent_back(stage: Stage) -> None:
    await deploy(stage, "hidden", provider="github")
    shown = await stage.mcp("manage_function", action="get", app_id=stage.app.id, function_name="hidden")
    assert SECRET not in json.dumps(shown)
    [trigger] = shown["triggers"]
    assert trigger["config"]["secret"] == "***"
    await stage.deploy("hidden", TAKE, triggers=[trigger])
    assert (await send(stage, "hidden", {"x-hub-signature-256": mac(BODY)})).status_code == 200
    trigger["config"]["secret"] = "new"
    await stage.deploy("hidden", TAKE, triggers=[trigger])
    assert (await send(stage, "hidden", {"x-hub-signature-256": mac(BODY)})).status_code == 401
    assert (await send(stage, "hidden", {"x-hub-signature-256": mac(BODY, "new")})).status_code == 200


@pytest.mark.usefixtures("plain")
async def test_a_paused_app_asks_the_sender_to_come_again(stage: Stage) -> None:
    for paused in (True, False):
        await stage.mcp("manage_app", action="pause", app_id=stage.app.id, paused=paused)
        answer = await send(stage, "plain", {"x-signature": mac(BODY)})
        assert answer.status_code == (503 if paused else 200)
        assert ("retry-after" in answer.headers) is paused


@pytest.mark.usefixtures("plain")
async def test_who_signs_is_counted_for_the_function_and_others_for_their_address(stage: Stage) -> None:
    settings = replace(stage.deps.settings, rate_limit_address=3, rate_limit_key=3)
    # A minute of its own, which does not end meanwhile.
    rates = RateLimits(stage.deps.control, settings, stage.deps.secret, clock=lambda: 4_000_000_000.0)
    deps = replace(stage.deps, settings=settings, rates=rates)
    path = f"/v1/{stage.app.id}/webhook/"
    transport = httpx.ASGITransport(web_of(deps), client=("203.0.113.77", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://brolly.test") as http:
        answers: list[int] = []
        for name, signature in (*[("plain", "wrong"), ("nowhere", "")] * 2, *[("plain", mac(BODY))] * 6):
            answer = await http.post(path + name, content=BODY, headers={"x-signature": signature})
            answers.append(answer.status_code)
    assert answers == [401, 404, 401, 429, 200, 200, 200, 429, 429, 429]


async def test_a_function_that_asks_for_nobody_may_use_authorization_itself(stage: Stage) -> None:
    code = "export const handler = (r: Request) => new Response(r.headers.get('authorization'))"
    basic = {"Authorization": "Basic YTpi"}
    await stage.deploy("open", code)
    assert (await stage.call("open", headers=basic)).text == "Basic YTpi"
    for auth in ("optional", "required"):
        await stage.deploy("open", code, auth)
        refused = await stage.call("open", headers=basic)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "AUTH_INVALID_TOKEN")


@pytest.mark.parametrize("secret", ["", None])
async def test_a_webhook_needs_a_secret(stage: Stage, secret: Any) -> None:
    with pytest.raises(Exception, match="secret"):
        await deploy(stage, "none", secret=secret)
