"""How an error is told: the same object in a REST answer and in a WebSocket's ``error``."""

from __future__ import annotations

from domain.errors import ParleyError
from handlers.schemas.common import Problem, ProblemField

MEDIA_TYPE = "application/problem+json"


def problem_of(error: ParleyError, *, instance: str | None = None, request_id: str | None = None) -> Problem:
    """The problem object of an error (RFC 9457)."""
    return Problem(
        type=f"urn:parley:problem:{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        code=error.code,
        request_id=request_id,
        errors=[ProblemField(pointer=f.pointer, detail=f.detail) for f in error.fields] or None,
    )


def encode_problem(problem: Problem) -> bytes:
    return problem.model_dump_json(exclude_none=True).encode()
