"""Parley's command line: serve (the default), migrate, create-admin, create-tenant, seed, new-epoch, openapi,
doctor.

Settings come from the environment and from a `.env` file in the working directory; see .env.example.
What goes wrong before serving is told in one line on stderr, with an exit status that is not 0.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop

from server.logging import default_stream, logging_to
from server.settings import Settings, load_settings
from server.startup import StartupError

T = TypeVar("T")

ENV_FILE = Path(".env")

app = typer.Typer(
    help="Parley: the realtime backend of a social product.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a command: serve."""
    if context.invoked_subcommand is None:
        serve()


@app.command()
def serve() -> None:
    """Start an instance, with PostgreSQL and Redis embedded where none are given. Ctrl-C stops it."""
    from server import serve as serving

    def announce(text: str) -> None:
        typer.echo(text)
        sys.stdout.flush()

    _run(lambda settings: serving.serve(settings, announce))


@app.command()
def migrate() -> None:
    """Bring the database to the schema this version needs."""
    from server.commands import migrate as command

    typer.echo(f"The schema is at revision {_run(command)}.")


@app.command()
def create_admin(
    username: Annotated[str, typer.Option(help="3 to 30 of a-z 0-9 _ .")],
    email: Annotated[str, typer.Option(help="The administrator's address.")],
    password: Annotated[
        str, typer.Option(help="8 to 1,024 bytes.", prompt=True, hide_input=True, confirmation_prompt=True)
    ],
    tenant: Annotated[str | None, typer.Option(help="The tenant's slug; the default tenant without.")] = None,
) -> None:
    """Make a new account that holds every permission. One that exists already is left as it is."""
    from server.commands import create_admin as command

    typer.echo(_run(lambda settings: command(settings, username, email, password, tenant)))


@app.command()
def create_tenant(
    slug: Annotated[str, typer.Option(help="Its subdomain: letters, digits and hyphens.")],
    name: Annotated[str, typer.Option(help="What people call it.")],
) -> None:
    """Make a tenant, reached at <slug>.<PARLEY_BASE_DOMAIN>."""
    from server.commands import create_tenant as command

    typer.echo(_run(lambda settings: command(settings, slug, name)))


@app.command()
def seed(
    users: Annotated[int, typer.Option(help="Accounts.")] = 100_000,
    messages: Annotated[int, typer.Option(help="Messages between them.")] = 1_000_000,
    log_rows: Annotated[
        int, typer.Option(help="Events in the log, receipts making up the number.")
    ] = 10_000_000,
    number: Annotated[int, typer.Option("--seed", help="The same number makes the same history.")] = 1,
    tenant: Annotated[
        str | None,
        typer.Option(help="A tenant's slug, made where there is none; the default tenant without."),
    ] = None,
    password: Annotated[str | None, typer.Option(help="Of every account; parley-seed without.")] = None,
) -> None:
    """Fill an empty tenant with made-up history, to try Parley at a size. Ctrl-C leaves everything as it was."""
    from server.commands import seed as command
    from server.progress import ProgressBar
    from services.seed_plan import SeedSize

    size, bar = SeedSize(users, messages, log_rows), ProgressBar(sys.stderr)
    typer.echo(_run(lambda settings: command(settings, bar, tenant, size, number, password)))


@app.command()
def new_epoch() -> None:
    """After restoring a copy of the data: have every client read everything anew."""
    from server.commands import new_epoch as command

    typer.echo(_run(command))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from server.commands import openapi_document

    typer.echo(openapi_document())


@app.command()
def doctor() -> None:
    """Say what is set, reachable and unsafe. Exit status 1 where something is broken."""
    from server.doctor import Mark, examine, settings_table

    settings = _settings()
    with logging_to(default_stream(), settings):
        findings = asyncio.run(examine(settings, os.environ))
    typer.echo("Settings")
    for name, value, origin in settings_table(settings, os.environ):
        typer.echo(f"  {name:34} {value:40} {origin}")
    typer.echo("\nHealth")
    colors = {Mark.GOOD: "green", Mark.UNSAFE: "yellow", Mark.BROKEN: "red"}
    for finding in findings:
        mark = typer.style(f"{finding.mark:8}", fg=colors[finding.mark])
        typer.echo(f"  {mark} {finding.subject:16} {finding.text}")
    if any(finding.mark is Mark.BROKEN for finding in findings):
        raise typer.Exit(1)


def _settings() -> Settings:
    try:
        return load_settings(ENV_FILE)
    except StartupError as error:
        raise _exit(error) from None


def _run(work: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    settings = _settings()
    with logging_to(default_stream(), settings):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(work(settings))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise typer.Exit(130) from None
        except StartupError as error:
            raise _exit(error) from None


def _exit(error: StartupError) -> typer.Exit:
    typer.echo(f"parley: {error}", err=True)
    return typer.Exit(error.exit_status)


if __name__ == "__main__":
    app()
