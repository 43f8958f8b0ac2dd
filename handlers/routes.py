"""Every URL in one table. Each resource's file lists its own routes; this is all of them."""

from __future__ import annotations

from handlers.endpoint import Route

API = "/api/v1"

ROUTES: tuple[Route, ...] = ()
