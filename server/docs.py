"""The documentation page at ``/api/docs/``: Swagger UI from an installed package, so it works with no other host."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from handlers.service import Documents

#: The package whose only use here is that it carries Swagger UI's files, and is released with each version of it.
PACKAGE = "mkdocs_swagger_ui_tag"
PACKAGED = {
    "swagger-ui.css": "swagger-ui/stylesheets/swagger-ui.css",
    "swagger-ui-bundle.js": "swagger-ui/javascripts/swagger-ui-bundle.js",
}
OWN = ("docs.css", "docs.js")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parley API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/api/docs/swagger-ui.css">
<link rel="stylesheet" href="/api/docs/docs.css">
</head>
<body>
<header>
<h1>Parley API</h1>
<nav>
<a href="/api/v1/openapi.json">OpenAPI document</a>
<a href="/api/v1/asyncapi.json">AsyncAPI document (WebSocket, SSE, long poll)</a>
</nav>
</header>
<main id="docs"><noscript>This page needs JavaScript; the documents above do not.</noscript></main>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/docs.js"></script>
</body>
</html>
"""


def documents(openapi: bytes, asyncapi: bytes) -> Documents:
    """Everything the docs routes serve. Raises RuntimeError where the package with the viewer is not installed."""
    return Documents(openapi, asyncapi, PAGE.encode(), _assets())


def _assets() -> dict[str, Path]:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {PACKAGE} is not installed")
    root = Path(spec.submodule_search_locations[0])
    assets = {name: root / place for name, place in PACKAGED.items()}
    own = Path(str(files("server"))) / "static" / "docs"
    assets |= {name: own / name for name in OWN}
    missing = [name for name, path in assets.items() if not path.is_file()]
    if missing:
        raise RuntimeError(f"files of the docs page are missing: {', '.join(missing)}")
    return assets
