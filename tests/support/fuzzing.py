"""The OpenAPI document drives a fuzzer, schemathesis: it makes requests and holds the answers against the document."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import schemathesis
from multidict import CIMultiDict
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.schemas import BaseSchema

from tests.support.contract import Contract

Json = dict[str, Any]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Requests an operation in a deep run (``make fuzz``); 0: the suite's few, the same in every run."""
FEW = 8
SEED = int(os.environ.get("FUZZ_SEED", random.randrange(2**32) if EXAMPLES else 1))
LIKELY = 0.8
"""How often a parameter is one of the values that lead somewhere."""

USUAL = ["2xx", "401", "403", "404", "409"]
"""What a request may be answered that has nothing wrong in it as far as the document tells."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is not as the document says, and the request that shows it."""

    operation: str
    what: str
    request: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.what}\n    {self.request}"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: Json) -> None:
    """Polls do not wait: nothing comes, so each would wait it out."""
    if str(case.query.get("wait")) in map(str, range(56)):
        case.query["wait"] = 0


def fuzzer(
    document: Json,
    url: str,
    *,
    phase: str,
    known: Mapping[str, Sequence[str | int]],
    refused: Mapping[str, Sequence[int]],
    token: Callable[[], str],
) -> BaseSchema:
    """What makes the requests of one phase: ``examples``, ``coverage``, ``fuzzing`` or ``stateful``.

    ``known``: values that lead somewhere, by ``path.…`` or ``body.…`` name. ``refused``: further statuses by operation
    id that a request may get which the document allows: what is wrong with it is beyond JSON schemas.
    """
    settings: Json = {
        "seed": SEED,
        "continue-on-failure": True,
        "max-stream-events": 1,
        "request-timeout": 30,
        "output": {"sanitization": {"enabled": False}},
        "dictionaries": {name.replace(".", "-"): {"values": list(values)} for name, values in known.items()},
        "parameters": {name: {"dictionary": name.replace(".", "-"), "probability": LIKELY} for name in known},
        "generation": {
            "max-examples": EXAMPLES or FEW,
            "deterministic": not EXAMPLES,
            "database": "none",
            "no-shrink": not EXAMPLES,
            "allow-x00": False,  # JSON schemas have no word for text without it
            "with-security-parameters": False,
            # Not text that a header may hold, which JSON schemas cannot say either.
            "exclude-header-characters": "".join(chr(n) for n in range(256) if not chr(n).isprintable()),
        },
        "phases": {
            each: {"enabled": each == phase} for each in ("examples", "coverage", "fuzzing", "stateful")
        },
        "checks": {"positive_data_acceptance": {"expected-statuses": USUAL}},
        "operations": [
            {
                "include-operation-id": operation,
                "checks": {"positive_data_acceptance": {"expected-statuses": [*USUAL, *map(str, statuses)]}},
            }
            for operation, statuses in refused.items()
        ],
    }
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(settings))
    schema.config.base_url = url

    @schema.auth()
    class Bearer:
        """Asked again where an answer was 401: what is fuzzed also signs people out."""

        def get(self, case: schemathesis.Case[Any], context: schemathesis.AuthContext) -> str:
            return token()

        def set(self, case: schemathesis.Case[Any], data: str, context: schemathesis.AuthContext) -> None:
            case.headers["Authorization"] = f"Bearer {data}"

    return schema


def run(schema: BaseSchema, contract: Contract) -> tuple[int, list[Found]]:
    """Sends everything; how many requests were answered, and what was found."""
    found: dict[tuple[str, str], Found] = {}
    answered = 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            answered += len(event.recorder.interactions)
            for each in _failures(event.recorder, contract):
                found.setdefault((each.operation, each.what[:60]), each)
        elif isinstance(event, events.NonFatalError):
            found[event.label, ""] = Found(event.label, repr(event.value), "")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return answered, list(found.values())


def _failures(recorder: ScenarioRecorder, contract: Contract) -> list[Found]:
    found = [
        Found(recorder.label, f"{check.failure_info.failure.title}: {check.failure_info.failure.message}",
              check.failure_info.code_sample)
        for checks in recorder.checks.values()
        for check in checks
        if check.failure_info is not None
    ]  # fmt: skip
    for interaction in recorder.interactions.values():
        request, response = interaction.request, interaction.response
        if response is None:
            found.append(Found(recorder.label, "no answer", f"{request.method} {request.uri}"))
            continue
        headers = CIMultiDict((name, values[0]) for name, values in response.headers.items())
        try:
            contract.answer(request.method, request.uri, response.status_code, headers, response.content)
        except AssertionError as error:
            found.append(
                Found(recorder.label, str(error), f"{request.method} {request.uri} {request.body!r}")
            )
    return found
