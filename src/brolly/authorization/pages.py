"""The pages that the owner sees: self-contained, without scripts, everything that others wrote escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources

from brolly.authorization.asked import Asked
from brolly.authorization.redirects import is_local, shown


@cache
def _style() -> str:
    return (resources.files("brolly.authorization") / "style.css").read_text("utf-8")


def security_headers(form_source: str = "") -> dict[str, str]:
    """No scripts, no frames, nothing from elsewhere; forms lead here, and from here to ``form_source``.

    The referrer is kept within this server: without any, browsers would not say either where a form was sent from.
    """
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action 'self'{form_source and f' {form_source}'}",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} – Brolly</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _hidden(fields: dict[str, str]) -> str:
    return "".join(f'<input type="hidden" name="{escape(n)}" value="{escape(v)}">\n' for n, v in fields.items())


def disabled_page() -> str:
    """What to do before programs can be let in."""
    return _document(
        "No owner can sign in here yet",
        "<p>A program wants to connect to this Brolly server. To let it in, its owner signs in with a password, and "
        "none is set.</p>\n<p>On the server's machine, run</p>\n<p><code>brolly owner password</code></p>\n"
        "<p>and then reload this page. A service key (<code>bb_sk_…</code>) in the program's settings works without "
        "any of this.</p>",
    )


def failure_page(message: str) -> str:
    """What went wrong, where no program may be told."""
    return _document(
        "This program cannot be let in",
        f'<p>{escape(message)}</p>\n<p class="dim">Nothing was allowed. You can close this page.</p>',
    )


def sign_in_page(proof: str, code: bool, failed: str = "") -> str:
    """The form for password and code."""
    factor = (
        '<label class="field">Code of your authenticator\n<input type="text" name="code" inputmode="numeric" '
        'autocomplete="one-time-code" maxlength="12" required></label>\n'
        if code
        else ""
    )
    wrong = f'<p class="bad" role="alert">{escape(failed)}</p>\n' if failed else ""
    return _document(
        "Sign in as the owner",
        f"<p>A program wants to connect to this Brolly server. Sign in to see which one, and what it asks for.</p>\n"
        f'{wrong}<form method="post">\n{_hidden({"step": "sign_in", "proof": proof})}'
        '<label class="field">Password\n<input type="password" name="password" autocomplete="current-password" '
        f'maxlength="256" required autofocus></label>\n{factor}'
        '<div class="buttons"><button class="act" type="submit">Sign in</button></div>\n</form>',
    )


def consent_page(asked: Asked, proof: str, apps: Sequence[tuple[str, str]], before: bool) -> str:
    """Who asks for what, and the choice of less."""
    client = asked.client
    if client.host:
        who = f"{escape(client.host)} says that this is its program."
    else:
        who = "Nobody vouches for this name: the program gave it itself. Go on only if you have just started it."
    where = escape(shown(asked.redirect_uri))
    again = '<p class="dim">You have let this program in before.</p>\n' if before else ""
    caution = ""
    if is_local(asked.redirect_uri):
        caution = '<p class="dim">Allow this only if you started it on this computer just now.</p>\n'
    return _document(
        f"Let {client.name} in?",
        f"{again}<dl>\n<dt>Program</dt><dd><b>{escape(client.name)}</b></dd>\n<dt>Known by</dt><dd>{who}</dd>\n"
        f"<dt>Goes back to</dt><dd>{where}</dd>\n<dt>Asks for</dt><dd>{escape(_in_words(asked.scope))}</dd>\n</dl>\n"
        f'<form method="post">\n{_hidden({"step": "consent", "proof": proof})}{_choice(asked)}{_apps(asked, apps)}'
        f'{caution}<div class="buttons"><button class="act" type="submit" name="decision" value="allow">Allow</button>'
        '<button type="submit" name="decision" value="deny">Refuse</button></div>\n</form>\n'
        '<p class="dim">To take it back: <code>brolly keys list</code>, then <code>brolly keys revoke ID</code>.</p>',
    )


def _in_words(scope: str) -> str:
    parts = scope.split()
    what = "everything you can do (mcp)" if "mcp" in parts else "reading alone (mcp:read)"
    app = next((part[4:] for part in parts if part.startswith("app:")), "")
    return f"{what}, of the app {app} only" if app else f"{what}, of every app"


def _choice(asked: Asked) -> str:
    if "mcp" not in asked.scope.split():
        return _hidden({"access": "read"})
    return (
        "<fieldset><legend>What it may do</legend>\n"
        '<label><input type="radio" name="access" value="full" checked> Everything: read, change and delete data and '
        "apps, and make service keys</label>\n"
        '<label><input type="radio" name="access" value="read"> Only read</label>\n</fieldset>\n'
    )


def _apps(asked: Asked, apps: Sequence[tuple[str, str]]) -> str:
    named = next((part[4:] for part in asked.scope.split() if part.startswith("app:")), "")
    if named:
        return _hidden({"app": named})
    options = "".join(f'<option value="{escape(i)}">Only {escape(name)} ({escape(i)})</option>\n' for i, name in apps)
    return (
        '<label class="field">Which apps\n<select name="app">\n<option value="">Every app, and those to come</option>\n'
        f"{options}</select></label>\n"
    )
