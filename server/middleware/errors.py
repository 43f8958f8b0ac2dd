"""The one place where an exception becomes an answer: always problem+json, never HTML, never a stack trace."""

from __future__ import annotations

import math
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from domain.errors import MethodNotAllowed, NotFound, ParleyError, TooLarge, Unavailable
from handlers import keys
from handlers.problems import MEDIA_TYPE, encode_problem, problem_of
from handlers.schemas.common import Problem
from server.traces import trace_of

log = structlog.get_logger("parley.http")


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers what handlers and the router raise. CancelledError and what follows a started answer pass through."""
    try:
        return await handler(request)
    except ParleyError as error:
        if error.status >= 500 and not isinstance(error, Unavailable):
            log.error("request_failed", error=type(error).__qualname__, trace=trace_of(error))
        return _unless_started(request, error, problem_response(request, error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _unless_started(request, error, http_problem(request, error))
    except (web.RequestPayloadError, web.PayloadAccessError) as error:
        broken = web.HTTPBadRequest(reason="Bad Request")
        return _unless_started(request, error, http_problem(request, broken))
    except TimeoutError as error:
        log.error("request_timed_out", trace=trace_of(error))
        return _unless_started(request, error, problem_response(request, Unavailable()))
    except ConnectionError as error:
        if request.transport is None or request.transport.is_closing():
            raise  # the client has gone; aiohttp ends the connection
        return _unexpected(request, error)
    except Exception as error:
        return _unexpected(request, error)


def problem_response(request: web.BaseRequest, error: ParleyError) -> web.Response:
    """The answer that tells an error, with the headers that belong to it."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = _challenge(request)
    if error.retry_after is not None and error.status in (409, 429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    problem = problem_of(error, instance=_instance(request), request_id=request.get(keys.REQUEST_ID))
    return _response(problem, headers)


def http_problem(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """The answer to what aiohttp itself refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = problem_response(request, MethodNotAllowed())
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    if error.status == 404:
        return problem_response(request, NotFound())
    if error.status == 413:
        return problem_response(request, TooLarge())
    status = HTTPStatus(error.status)
    return status_problem(request, status, status.description or status.phrase)


def status_problem(request: web.BaseRequest, status: HTTPStatus, detail: str) -> web.Response:
    """A problem for a status that the product's errors do not use."""
    code = "malformed" if status is HTTPStatus.BAD_REQUEST else status.phrase.lower().replace(" ", "_")
    problem = Problem(
        type=f"urn:parley:problem:{code}",
        title=status.phrase,
        status=status.value,
        detail=detail,
        instance=_instance(request),
        code=code,
        request_id=request.get(keys.REQUEST_ID),
    )
    return _response(problem, {})


def _unexpected(request: web.Request, error: Exception) -> web.StreamResponse:
    log.error("request_failed", error=type(error).__qualname__, trace=trace_of(error))
    return _unless_started(request, error, problem_response(request, ParleyError()))


def _unless_started(request: web.Request, error: Exception, response: web.Response) -> web.Response:
    """An answer that has begun cannot become another one: the connection is cut, so the client sees it as broken."""
    if request.writer.output_size > 0:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer had begun") from error
    return response


def _response(problem: Problem, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=problem.status, body=encode_problem(problem), headers={"Content-Type": MEDIA_TYPE, **headers}
    )


def _challenge(request: web.BaseRequest) -> str:
    """RFC 6750, section 3: an error is named only where a token was given."""
    if "Authorization" in request.headers:
        return 'Bearer realm="parley", error="invalid_token"'
    return 'Bearer realm="parley"'


def _instance(request: web.BaseRequest) -> str:
    return request.rel_url.raw_path
