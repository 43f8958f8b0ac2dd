"""Parley's command line: serve (the default), migrate, create-admin, create-tenant, openapi, doctor."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, no_args_is_help=False)

if __name__ == "__main__":
    app()
