"""A headless Chromium for tests: one for the process, a context of its own (cookies, storage) for each person.

It is the machine's own (``make test`` sees to that), driven by Playwright. Names under ``.localhost`` lead to this
machine by the browser's own rule, so a site's address works in it as it does for people.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from scripts.chromium import MISSING, NAMES, find_chromium

FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 20_000


@dataclass(frozen=True)
class Visitor:
    """A page, and what went wrong on it: uncaught errors, and what its console called an error."""

    page: Page
    context: BrowserContext
    errors: list[str] = field(default_factory=list)


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """The browser, without its sandbox for root, who may not have one."""
    program = find_chromium()
    if program is None:
        pytest.fail(MISSING.format(", ".join(NAMES)), pytrace=False)
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, headless=True, args=flags)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visitor(browser: Browser) -> AsyncIterator[Visitor]:
    """Somebody who comes for the first time."""
    context = await browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    try:
        page = await context.new_page()
        found = Visitor(page, context)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
        yield found
    finally:
        await context.close()


async def take_picture(page: Page, name: str) -> Path:
    """A screenshot below ``.cache/screenshots``, for people to look at."""
    folder = Path(__file__).parent.parent / ".cache" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    await page.screenshot(path=path, full_page=True)
    return path


__all__ = ["Visitor", "open_browser", "take_picture", "visitor"]
