"""The command line. What a command needs is imported when it runs, so that ``brolly mcp`` starts at once."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from brolly import __version__

_MAX_PORT = 65535


class _WithSettings(click.Command):
    """A command whose help ends with the list of all settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list."""
        from brolly.core.settings import describe_settings

        with formatter.section("Settings (environment variables; an option wins)"):
            formatter.write_dl(
                [(entry["name"], f"{entry['doc']}{_default(entry['default'])}") for entry in describe_settings()]
            )


def _default(value: Any) -> str:
    if value is None or value in ("", ()):
        return ""
    shown = ",".join(value) if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    return f" [{shown}]"


def _folder(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    return None if value is None else Path(value).expanduser().absolute()


def _names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(",") if name.strip())


class _Port(click.IntRange):
    """A port; a mistake is told in words."""

    def __init__(self) -> None:
        super().__init__(0, _MAX_PORT)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a whole number from 0 to {_MAX_PORT}.", param, ctx)


_home = click.option("--home", metavar="FOLDER", callback=_folder, help="Data folder (BROLLY_HOME).")
_host = click.option("--host", metavar="ADDRESS", help="Address to listen on (BROLLY_HOST; 127.0.0.1).")
_port = click.option("--port", type=_Port(), metavar="PORT", help="Port to listen on (BROLLY_PORT; 4000).")
_read_only = click.option(
    "--read-only/--no-read-only", default=None, help="Offer only actions that change nothing (BROLLY_READ_ONLY)."
)
_tools = click.option(
    "--tools",
    metavar="A,B",
    callback=_names,
    help="Offer only these MCP tools; schema means manage_schema (BROLLY_TOOLS; all).",
)
_json = click.option("--json", "as_json", is_flag=True, help='Print JSON, for programs; failures too: {"error": …}.')


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", "-V", message="brolly %(version)s")
def brolly() -> None:
    """A backend that coding agents operate: Postgres, row-level security and a REST API over MCP."""


@brolly.command(cls=_WithSettings)
@_host
@_port
@_read_only
@_tools
@click.option("--workers/--no-workers", default=None, help="Run background workers here (BROLLY_WORKERS; yes).")
@_home
@click.option("--any-port", is_flag=True, help="If the port is in use, take the next free one.")
@click.option("--detach", type=int, hidden=True)
def serve(any_port: bool, detach: int | None, **given: Any) -> None:
    """Run the server here, until Ctrl-C."""
    if detach is not None:
        # Before anything starts a thread.
        from brolly.daemon import leave_parent

        leave_parent(detach)
    from brolly.commands.server import serve_here

    serve_here(given, any_port=any_port, announce=detach)


@brolly.command()
@_host
@_port
@_read_only
@_tools
@_home
def up(**given: Any) -> None:
    """Start the server in the background, if none runs."""
    from brolly.commands.server import bring_up

    bring_up(given)


@brolly.command()
@_home
def down(home: Path | None) -> None:
    """Stop the server in the background."""
    from brolly.commands.server import bring_down

    bring_down(home)


@brolly.command()
@_home
@_json
def status(home: Path | None, as_json: bool) -> None:
    """Say whether the server runs and where.

    Also how many apps the owner has (or the account of BROLLY_API_KEY, if set) and the disk space of all. Exits with 3
    when it does not run.
    """
    from brolly.commands.status import show_status

    sys.exit(show_status(home, as_json))


@brolly.command()
@_read_only
@_tools
@click.option("--app", metavar="APP_ID", help="Only this app; calls need not name it (BROLLY_APP).")
@_home
def mcp(**given: Any) -> None:
    """Speak MCP over stdin and stdout, for a client's configuration.

    Starts the server in the background if none runs. --read-only, --tools and --app narrow what this client is
    offered; other clients of the same server keep theirs. BROLLY_URL names a server elsewhere.
    """
    from brolly.bridge import run_bridge
    from brolly.commands.options import settings_for
    from brolly.core.settings import is_set

    run_bridge(settings_for(given, elsewhere=True), port_given=is_set("port"))


@brolly.command()
@_home
@_json
def doctor(home: Path | None, as_json: bool) -> None:
    """Look at the machine, the server, its database, engines and clients; say what to do.

    Exits with 1 if something does not work.
    """
    from brolly.commands.doctor import examine

    sys.exit(examine(home, as_json))


@brolly.command()
@click.argument("client", required=False, type=click.Choice(["claude", "claude-desktop", "cursor", "gemini", "vscode"]))
@click.option("--project", is_flag=True, help="For the folder you are in, in a file that may be shared; no key in it.")
@click.option("--http", is_flag=True, help="By address and key, rather than by starting brolly mcp.")
@click.option("--print", "only_print", is_flag=True, help="Write nothing; show what belongs where.")
@click.option("--remove", is_flag=True, help="Take it out again.")
@click.option("--name", default="brolly", show_default=True, help="What the client calls the server.")
@click.option("--app", metavar="APP_ID", help="Only this app; calls need not name it (BROLLY_APP).")
@_read_only
@_tools
@_home
@_json
def connect(client: str | None, **given: Any) -> None:
    """Connect a coding agent, and check that it can reach the server.

    Without CLIENT, show which are connected. BROLLY_URL and BROLLY_API_KEY name a server elsewhere.
    """
    from brolly.commands.connect import connect as connect_client

    sys.exit(connect_client(client, **given))


@brolly.group()
def keys() -> None:
    """Make, list and revoke service keys."""


@keys.command("list")
@click.option("--account", default="owner", show_default=True, metavar="NAME", help="Whose keys.")
@_home
@_json
def keys_list(account: str, home: Path | None, as_json: bool) -> None:
    """Show the keys that are not revoked."""
    from brolly.commands.keys import list_keys

    list_keys(home, account, as_json)


@keys.command("create")
@click.argument("name")
@click.option(
    "--account", default="owner", show_default=True, metavar="NAME", help="Who owns it; made if there is none."
)
@click.option("--app", metavar="APP_ID", help="Only for this app.")
@click.option("--read", is_flag=True, help="Only for actions that change nothing.")
@_home
@_json
def keys_create(name: str, account: str, app: str | None, read: bool, home: Path | None, as_json: bool) -> None:
    """Make a key and show it, once."""
    from brolly.commands.keys import create_key

    create_key(home, name, account, app, read, as_json)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@_home
@_json
def keys_revoke(key_id: str, home: Path | None, as_json: bool) -> None:
    """Revoke a key for good; brolly keys list shows the ids."""
    from brolly.commands.keys import revoke_key

    revoke_key(home, key_id, as_json)


@brolly.group()
def owner() -> None:
    """Say how the owner signs in, to let programs in through OAuth."""


@owner.command("password")
@click.option("--remove", is_flag=True, help="Let nobody sign in any more.")
@_home
def owner_password(remove: bool, home: Path | None) -> None:
    """Set the owner's password: asked for, or the first line of stdin.

    Every browser is signed out; programs that were let in stay.
    """
    from brolly.commands.owner import set_password

    set_password(home, remove)


@owner.command("totp")
@click.option("--remove", is_flag=True, help="Take it away.")
@_home
def owner_totp(remove: bool, home: Path | None) -> None:
    """Set up a second factor: a code of an authenticator at each sign-in.

    Shows the secret, then reads the first code from the terminal or stdin.
    """
    from brolly.commands.owner import set_factor

    set_factor(home, remove)


@brolly.command()
@click.argument("app", metavar="APP")
@click.argument("function", metavar="FUNCTION")
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries, until Ctrl-C.")
@click.option("--errors", is_flag=True, help="Only calls that failed.")
@click.option("--since", metavar="TIME", help="From then on: 30s, 10m, 2h, 1d ago, or 2026-01-31T08:00.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many earlier.")
@_home
@click.option("--json", "as_json", is_flag=True, help='One JSON object a line, for programs; failures: {"error": …}.')
def logs(app: str, function: str, home: Path | None, **wanted: Any) -> None:
    """Show what a function did, oldest first.

    APP is the id or the name of an app. The running server is asked, or the one of BROLLY_URL, with the owner's
    key or BROLLY_API_KEY.
    """
    from brolly.commands.logs import show_logs

    show_logs(home, app, function, **wanted)


@brolly.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--app", metavar="APP", help="Id or name of the app (BROLLY_APP).")
@click.option(
    "--framework",
    type=click.Choice(["react-vite", "nextjs-static", "static", "other"]),
    help="What it was built with; default: what package.json tells.",
)
@click.option("--source", is_flag=True, help="FOLDER is a project's source: build it on the server.")
@click.option("--build-command", metavar="COMMAND", help="With --source [npm run build].")
@click.option("--output-dir", metavar="NAME", help="With --source: where the build puts the site [found].")
@click.option("--package-manager", type=click.Choice(["npm", "pnpm", "yarn"]), help="With --source; default: Deno.")
@_home
@_json
def deploy(
    folder: Path, app: str | None, framework: str | None, home: Path | None, as_json: bool, **wanted: Any
) -> None:
    """Make a front end live: one that was built, or with --source one that the server builds.

    FOLDER holds index.html, such as dist; hidden files and what .brollyignore names are left out. With --source it is
    a project, and what .gitignore names is left out. The running server is asked, or the one of BROLLY_URL, with the
    owner's key or BROLLY_API_KEY.
    """
    if wanted.pop("source"):
        from brolly.commands.deploy_source import deploy_source

        sys.exit(deploy_source(home, folder, app, wanted, as_json))
    if any(wanted.values()):
        raise click.UsageError("--build-command, --output-dir and --package-manager go with --source.")
    from brolly.commands.deploy import deploy_folder

    sys.exit(deploy_folder(home, folder, app, framework, as_json))


@brolly.command()
@click.argument("app")
@click.argument("table")
@click.option("--filter", "filter_", metavar="FILTER", help='Only rows such as "price=gt.5&done=is.false".')
@click.option("--event", "events", multiple=True, type=click.Choice(["INSERT", "UPDATE", "DELETE"], False))
@click.option("--since", metavar="ID", help="Begin after the change with this id.")
@_home
@click.option("--json", "as_json", is_flag=True, help='One JSON object a line, for programs; failures: {"error": …}.')
def tail(app: str, table: str, home: Path | None, **wanted: Any) -> None:
    """Show the changes of a table as they happen.

    APP is the id or the name of an app. What manage_realtime configure records is shown, with the owner's key or
    BROLLY_API_KEY.
    """
    from brolly.commands.tail import tail_table

    tail_table(home, app, table, **wanted)


@brolly.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if something is pending.")
@_home
@_json
def migrate(check: bool, home: Path | None, as_json: bool) -> None:
    """Bring all databases up to date.

    These are the control database, the template of apps and the database of every app.
    """
    from brolly.commands.migrate import migrate_databases

    sys.exit(migrate_databases(home, check, as_json))


@brolly.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Build a small secured app and show who sees what."""
    command: click.Command = importlib.import_module("brolly.demo").demo
    command.main(list(arguments), prog_name="brolly demo", standalone_mode=False)


def main() -> None:
    """Run the command line; failures are shown in words, not as tracebacks."""
    from brolly.commands.terminal import settle_encoding, show_failure, show_misuse

    settle_encoding()
    words = sys.argv[1:]
    as_json = "--json" in words
    try:
        sys.exit(brolly.main(words, prog_name="brolly", standalone_mode=False))
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if as_json:
            show_misuse(error.format_message(), _command_in(words), as_json)
        else:
            error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        sys.exit(show_failure(error, _command_in(words), as_json))


def _command_in(words: list[str]) -> str:
    """The command that was called, as a person would write it: ``brolly keys create``."""
    found: click.Command | None = brolly
    path = ["brolly"]
    for word in words:
        found = found.commands.get(word) if isinstance(found, click.Group) else None
        if found is None:
            break
        path.append(word)
    return " ".join(path)
