"""PostgreSQL and Redis for a single machine, started when no URL is given. See `EmbeddedServices`."""

from __future__ import annotations

from server.embedded.services import EmbeddedServices

__all__ = ["EmbeddedServices"]
