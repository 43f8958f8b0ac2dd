"""Holds answers against the OpenAPI document: every status, media type, header and body has to be in it.

::

    check = Contract(document)
    check.answer("GET", "/api/v1/users/bob", 200, headers, body)     # AssertionError where it breaks the contract
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

Json = dict[str, Any]
ROOT = "urn:parley:openapi"


def check_answer(
    document: Json,
    method: str,
    path_template_or_url: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes | str,
) -> None:
    """Raises AssertionError, with what is wrong, for an answer that the document does not allow."""
    Contract(document).answer(method, path_template_or_url, status, headers, body)


class Contract:
    """One document, ready to check many answers. Remembers which operations and statuses it has seen."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.seen: set[tuple[str, str, int]] = set()
        """Operations as (method, path template, status)."""
        resource: Resource[Any] = DRAFT202012.create_resource(document)
        self._registry: Registry[Any] = Registry().with_resource(ROOT, resource)
        paths: list[str] = list(document["paths"])
        self._patterns = [(template, _pattern(template)) for template in paths]
        # Fixed names before variable ones, as the router matches: /users/me is not /users/{user}.
        self._patterns.sort(key=lambda entry: entry[0].count("{"))

    def answer(
        self,
        method: str,
        path_template_or_url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes | str,
    ) -> None:
        where = f"{method} {path_template_or_url} -> {status}"
        raw = body.encode() if isinstance(body, str) else body
        template = self._template(path_template_or_url, method)
        if template is None:
            assert status in (404, 405), f"{where}: not in the document, yet it is served"
            self._check_problem(where, status, headers, raw)
            return
        operation = self.document["paths"][template][_documented(method, self.document["paths"][template])]
        response = operation["responses"].get(str(status))
        assert response is not None, f"{where}: {template} does not document this status"
        self.seen.add((method, template, status))
        response = self._resolve(response)
        for name in response.get("headers", {}):
            if name in ("X-Request-ID", "WWW-Authenticate", "Retry-After"):
                assert name in headers, f"{where}: the header {name} is missing"
        if method == "HEAD" or status == 101:
            return
        content = response.get("content")
        if not content:
            assert raw == b"", f"{where}: a body where none is documented"
            return
        media_type = headers.get("Content-Type", "").partition(";")[0]
        assert media_type in content, f"{where}: {media_type!r} is not one of {sorted(content)}"
        if media_type.endswith("json"):
            self._check_json(where, raw, content[media_type]["schema"])

    def _check_problem(self, where: str, status: int, headers: Mapping[str, str], raw: bytes) -> None:
        assert headers.get("Content-Type") == "application/problem+json", f"{where}: not a problem"
        self._check_json(where, raw, {"$ref": "#/components/schemas/Problem"})
        assert json.loads(raw)["status"] == status, f"{where}: the problem tells another status"

    def _check_json(self, where: str, raw: bytes, schema: Json) -> None:
        try:
            value = json.loads(raw)
        except ValueError as error:
            raise AssertionError(f"{where}: not JSON: {error}") from error
        errors = sorted(self._validator(json.dumps(schema)).iter_errors(value), key=lambda e: e.json_path)
        told = "\n".join(f"  {e.json_path}: {e.message}" for e in errors[:5])
        assert not errors, f"{where}: the body is not what the document says:\n{told}\n{raw[:500]!r}"

    @functools.cached_property
    def _validators(self) -> dict[str, Draft202012Validator]:
        return {}

    def _validator(self, schema: str) -> Draft202012Validator:
        if schema not in self._validators:
            absolute = json.loads(schema.replace('"#/', f'"{ROOT}#/'))
            self._validators[schema] = Draft202012Validator(
                absolute, registry=self._registry, format_checker=FormatChecker()
            )
        return self._validators[schema]

    def _template(self, path_or_url: str, method: str) -> str | None:
        paths: Json = self.document["paths"]
        if path_or_url in paths:
            return path_or_url if _documented(method, paths[path_or_url]) else None
        path = urlsplit(path_or_url).path
        for template, pattern in self._patterns:
            if pattern.fullmatch(path) and _documented(method, paths[template]):
                return template
        return None

    def _resolve(self, item: Json) -> Json:
        while "$ref" in item:
            found: Any = self.document
            for part in item["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            item = found
        return item


def _documented(method: str, item: Json) -> str:
    """The operation of a path that answers a method, or ""; HEAD is answered as GET is."""
    name = method.lower()
    if name == "head":
        name = "get"
    return name if name in item else ""


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"{\w+}", template.rstrip("/"))
    return re.compile("[^/]+".join(re.escape(part) for part in parts) + "/?")
