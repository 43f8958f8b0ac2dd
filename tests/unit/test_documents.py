"""What the documents say is what the code does: everything named there exists, and everything that exists is named."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import services
from domain.errors import ParleyError
from domain.resources import OwnMessage, SignedIn
from handlers.endpoint import API
from handlers.ops import COMMANDS
from handlers.routes import ROUTES
from handlers.schemas.common import Problem
from realtime import closing
from realtime.events import CATALOGUE, LIVE_ONLY
from server.asyncapi import LIVE_DATA
from server.metrics import Metrics
from server.ratelimits import ALLOWANCES
from server.settings import Settings, environment_name
from tests.support.command import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PACKAGES = ("domain", "storage", "realtime", "services", "handlers", "server")
FOLDERS = {*PACKAGES, "migrations", "tests", "docs", "bench", "demo", "soak", "deploy"}
NEVER_TOLD = {"conflict", "already_taken", "slug_taken"}
"""Codes that no client is given: two that only their subclasses are raised as, and one of the command line."""


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def json_blocks(text: str) -> Iterator[dict[str, Any]]:
    for block in re.findall(r"^```json\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        value = json.loads(block)
        assert isinstance(value, dict)
        yield value


def kinds_of(error: type[ParleyError]) -> Iterator[type[ParleyError]]:
    yield error
    for kind in error.__subclasses__():
        yield from kinds_of(kind)


# Links


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as forges make them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document",
    [*DOCUMENTS, *ROOT.glob("docs/adr/*.md"), ROOT / "bench/README.md"],
    ids=name_of,
)
def test_every_link_within_the_project_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        led_to = (document.parent / path).resolve() if path else document
        if not led_to.exists() or (anchor and anchor not in anchors(led_to)):
            broken.append(target)
    assert broken == []


# docs/protocol.md


def test_every_call_of_the_api_is_in_the_protocol() -> None:
    calls = {f"{route.method} {route.path.removeprefix(API)}" for route in ROUTES}
    calls.remove("GET /api/docs/{asset}")
    assert {call for call in calls if f"`{call}`" not in PROTOCOL} == set()
    named = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*)`", PROTOCOL))
    assert named - calls == set()


def test_every_command_and_every_event_is_in_the_protocol() -> None:
    there = {"message.send", *COMMANDS, *CATALOGUE, *LIVE_ONLY}
    assert {name for name in there if f"`{name}`" not in PROTOCOL} == set()


def test_every_error_is_in_the_protocol_with_its_status() -> None:
    for path in sources("services"):  # where some of the errors are defined
        __import__(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert services.__file__
    ours = [kind for kind in kinds_of(ParleyError) if kind.__module__.partition(".")[0] in PACKAGES]
    statuses = {kind.code: kind.status for kind in ours}
    given = {
        code for path in sources(*PACKAGES) for code in re.findall(r'code="([a-z_]+)"', path.read_text())
    }
    told = {
        code: int(status)
        for status, codes in re.findall(r"^\| (\d{3}) \| ([^|]+) \|", PROTOCOL, flags=re.MULTILINE)
        for code in re.findall(r"`([a-z_]+)`", codes)
    }
    assert (statuses.keys() | given) - NEVER_TOLD - told.keys() == set()
    assert {code: told[code] for code in statuses.keys() - NEVER_TOLD} == {
        code: status for code, status in statuses.items() if code not in NEVER_TOLD
    }


def test_every_close_code_is_in_the_protocol() -> None:
    codes = {value.code for value in vars(closing).values() if isinstance(value, closing.Closing)}
    codes |= {closing.draining(0).code, 1009}
    told = {int(code) for code in re.findall(r"^\| (\d{4}) \|", PROTOCOL, flags=re.MULTILINE)}
    assert told == codes


def test_the_examples_of_the_protocol_are_what_the_server_gives() -> None:
    models = {type_: model for type_, (model, _) in CATALOGUE.items()} | dict(LIVE_DATA)
    checked = []
    for example in json_blocks(PROTOCOL):
        if "topic" in example:
            assert list(example) == ["cursor", "type", "topic", "at", "data"]
            TypeAdapter(models[example["type"]]).validate_json(json.dumps(example["data"]))
            checked.append("event")
        elif "sender_id" in example:
            OwnMessage.model_validate_json(json.dumps(example))
            checked.append("message")
        elif "access_token" in example:
            SignedIn.model_validate_json(json.dumps(example))
            checked.append("sign-in")
        elif "code" in example:
            Problem.model_validate_json(json.dumps(example))
            checked.append("problem")
        elif example.get("ok") is False:
            Problem.model_validate_json(json.dumps(example["error"]))
            checked.append("reply")
        elif "op" in example and example["op"] in COMMANDS:
            COMMANDS[example["op"]].data.model_validate(example["data"])
    assert set(checked) == {"event", "message", "sign-in", "problem", "reply"}


# docs/operations.md


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    assert rest, heading
    table = re.search(r"^\|.*?\n\n", rest, flags=re.MULTILINE | re.DOTALL)
    assert table
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:] if line
    ]


def test_every_setting_is_in_the_operators_table_with_its_default(tmp_path: Path) -> None:
    defaults = {name.strip("`"): default for name, default, *_ in rows(OPERATIONS, "Settings")}
    assert list(defaults) == [environment_name(field) for field in Settings.model_fields]
    written = "".join(
        f"{name}={default.strip('`')}\n"
        for name, default in defaults.items()
        if default not in ("not set", "none")
    )
    (tmp_path / ".env").write_text(written)
    told = Settings(_env_file=tmp_path / ".env")
    assert told.model_dump() == Settings().model_dump()
    empty = {name for name, default in defaults.items() if default in ("not set", "none")}
    values = {environment_name(field): getattr(told, field) for field in Settings.model_fields}
    assert {name for name, value in values.items() if value is None or value == ()} == empty


def test_every_metric_is_in_the_operators_table() -> None:
    metrics = Metrics()
    metrics.watch_depth("commits", lambda: 0)
    metrics.watch_cache("ring", lambda: 0)
    there = set(re.findall(r"^# TYPE (parley_\w+) ", metrics.render().decode(), flags=re.MULTILINE))
    there = {name for name in there if not name.endswith("_created")}
    assert {row[0].split("`")[1] for row in rows(OPERATIONS, "Metrics and alerts")} == there
    used = set(re.findall(r"parley_[a-z_]+", OPERATIONS))
    assert {name.removesuffix("_bucket") for name in used} - there == set()


def test_the_rate_limits_are_those_of_the_operators_table() -> None:
    told = {
        row[0].strip("`"): {
            scope: figure.replace(", ", ";")
            for scope, figure in zip(("user", "address", "account"), row[2:], strict=True)
            if figure
        }
        for row in rows(OPERATIONS, "Rate limits")
    }
    assert told == {limit: dict(scopes) for limit, scopes in ALLOWANCES.items()}


def startup_errors() -> Iterator[str]:
    """The most telling piece of each error a start can end with."""
    for path in sources("server"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            if node.func.id != "StartupError":
                continue
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
            texts = [
                part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if texts:
                yield max(texts, key=len).strip()


def test_every_error_of_a_start_is_explained_to_operators() -> None:
    errors = list(startup_errors())
    assert len(errors) > 20
    assert [error for error in errors if error[:18] not in OPERATIONS] == []


# What is named in prose


@dataclass(frozen=True, slots=True)
class Names:
    """The methods of each class of the server, and every test."""

    methods: Mapping[str, set[str]]
    tests: set[str]


@pytest.fixture(scope="module")
def names() -> Names:
    methods: dict[str, set[str]] = {}
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                own = {n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
                methods.setdefault(node.name, set()).update(own)
    tests = {
        name
        for path in sources("tests")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    return Names(methods, tests)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_method_test_and_file_that_is_named_is_there(document: Path, names: Names) -> None:
    named = set(re.findall(r"`([^`\s]+)`", document.read_text()))
    methods = [re.fullmatch(r"([A-Z]\w+)\.(\w+)", name) for name in named]
    gone = [m[0] for m in methods if m is not None and m[2] not in names.methods.get(m[1], ())]
    gone += [name for name in named if re.fullmatch(r"test_\w+", name) and name not in names.tests]
    paths = [name for name in named if name.partition("/")[0] in FOLDERS and not set("…*<{") & set(name)]
    gone += [path for path in paths if "/" in path and not (ROOT / path).exists()]
    assert gone == []
