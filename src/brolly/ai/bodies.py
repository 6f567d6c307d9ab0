"""Requests and answers, kept where the app's owner asked for it, and no longer than they asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import anyio

from brolly.ai.access import Visit
from brolly.ai.request import ChatRequest
from brolly.core.errors import AppError
from brolly.core.worker import Worker
from brolly.deps import Deps

log = logging.getLogger("brolly.ai")

LONGEST = 200_000
SWEEP_SECONDS = 600


async def keep_body(at: Visit, model: str, request: ChatRequest, answer: str) -> None:
    """Keep both, if the owner asked for it. Never fails the call, which has been answered."""
    if not at.config.log_days or at.app is None:
        return
    sent = json.dumps(request.body(), ensure_ascii=False)
    try:
        await at.deps.control.execute(
            "insert into brolly.ai_bodies (app_id, model, user_id, request, answer, ends_at) "
            "values ($1, $2, $3, $4, $5, now() + make_interval(days => $6))",
            at.app.id,
            model,
            at.account.user_id,
            sent[:LONGEST].replace("\0", ""),
            answer[:LONGEST].replace("\0", ""),
            at.config.log_days,
        )
    except AppError as error:
        log.error("a body of %s was not kept: %s", at.app.id, error)


async def sweep(deps: Deps) -> None:
    """Remove bodies whose time is over, and room of a cap that was never given back."""
    await deps.control.execute("delete from brolly.ai_bodies where ends_at < now()")
    await deps.control.execute("delete from brolly.ai_reservations where ends_at < now()")


def workers(deps: Deps) -> Sequence[Worker]:
    """The one loop of this slice."""

    async def keep_swept() -> None:
        while True:
            await sweep(deps)
            await anyio.sleep(SWEEP_SECONDS)

    return [Worker("ai", keep_swept)]
