"""The shipped nginx while instances die, freeze and drain: nothing is done twice, and few notice anything."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from server.embedded.processes import wait_until
from tests.support.deployment import (
    API,
    LOOPBACK,
    Instance,
    Proxy,
    client_of,
    new_conversation,
    nginx_missing,
    running_instances,
    running_proxy,
    sign_up,
)
from tests.support.services import free_port

pytestmark = [
    pytest.mark.skipif(nginx_missing() is not None, reason=str(nginx_missing())),
    pytest.mark.allow_blocking,
]

GRACE_SECONDS = 4.0
SOON = 10.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Instance]]:
    directory = tmp_path_factory.mktemp("deploy")
    with running_instances(directory, PARLEY_DRAIN_GRACE_SECONDS=str(GRACE_SECONDS)) as made:
        yield made


@pytest.fixture
def instances(pair: list[Instance]) -> list[Instance]:
    """Both ready, whatever the test before did to them."""
    for instance in pair:
        if not instance.running:
            instance.start()
    return pair


@pytest.fixture
def proxy(instances: list[Instance]) -> Iterator[Proxy]:
    with running_proxy([each.address for each in instances]) as made:
        yield made


class Chat:
    """One user's conversation, through the proxy."""

    def __init__(self, session: aiohttp.ClientSession, conversation: str) -> None:
        self.session = session
        self._messages = f"{API}/conversations/{conversation}/messages"

    async def send(self, body: str, client_id: str | None = None) -> tuple[int, str]:
        """Status and code of one POST, sent once."""
        message = {"body": body} | ({"client_id": client_id} if client_id else {})
        async with self.session.post(self._messages, json=message) as answer:
            found = await answer.json(content_type=None)
            if answer.status == 503:
                assert answer.content_type == "application/problem+json"
                assert int(answer.headers["Retry-After"]) >= 1
            return answer.status, str(found.get("code", ""))

    async def stored(self) -> Counter[str]:
        """How often each text is there."""
        bodies: Counter[str] = Counter()
        after = 0
        while True:
            async with self.session.get(f"{self._messages}?after_seq={after}&limit=100") as answer:
                assert answer.status == 200, await answer.text()
                items = (await answer.json())["items"]
            if not items:
                return bodies
            bodies.update(item["body"] for item in items)
            after = items[-1]["seq"]


@asynccontextmanager
async def chat_through(proxy: Proxy) -> AsyncIterator[Chat]:
    async with client_of(proxy.url, proxy.trust()) as session:
        await sign_up(session)
        yield Chat(session, await new_conversation(session))


async def test_post_that_reached_a_dying_instance_is_not_sent_to_another(
    instances: list[Instance], proxy: Proxy
) -> None:
    """The frozen instance holds POSTs that it never read; killed, it can have stored none of them.

    So every text that is stored though its sender was told 503 would be the proxy's doing.
    """
    first = instances[0]
    async with chat_through(proxy) as chat:
        await asyncio.to_thread(first.freeze)
        bodies = [f"message {number}" for number in range(8)]
        async with asyncio.TaskGroup() as tasks:
            sends = [tasks.create_task(chat.send(body)) for body in bodies]
            assert await asyncio.to_thread(wait_until, first.has_unread_bytes, SOON)
            await asyncio.to_thread(first.kill)
        answers = {body: send.result() for body, send in zip(bodies, sends, strict=True)}
        lost = [body for body, (status, _) in answers.items() if status != 201]
        assert lost, "no request was lost: what the dead instance had was sent again to the other"
        assert {answers[body] for body in lost} == {(503, "unavailable")}
        assert await chat.stored() == Counter(body for body in bodies if body not in lost)


async def test_sends_repeated_by_their_sender_take_effect_once(
    instances: list[Instance], proxy: Proxy
) -> None:
    """An instance is killed with -9 under traffic; senders repeat with the same client_id until told 201 or 200."""
    killed = asyncio.Event()
    async with chat_through(proxy) as chat:

        async def sender(number: int) -> list[str]:
            bodies: list[str] = []
            while not (killed.is_set() and len(bodies) >= 5):
                body, client_id = f"{number}/{len(bodies)}", str(uuid.uuid4())
                while (await chat.send(body, client_id))[0] not in (200, 201):
                    pass
                bodies.append(body)
                progress.release()
            return bodies

        progress = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as tasks:
            senders = [tasks.create_task(sender(number)) for number in range(6)]
            for _ in range(30):
                await progress.acquire()
            await asyncio.to_thread(instances[0].kill)
            killed.set()
        sent = Counter(body for each in senders for body in each.result())
        assert await chat.stored() == sent
        assert set(sent.values()) == {1}


async def test_dead_instance_costs_nobody_a_request(instances: list[Instance], proxy: Proxy) -> None:
    async with chat_through(proxy) as chat:
        await asyncio.to_thread(instances[1].kill)
        bodies = [f"after {number}" for number in range(20)]
        assert {await chat.send(body) for body in bodies} == {(201, "")}
        assert await chat.stored() == Counter(bodies)


async def test_draining_instance_fails_no_request_and_says_goodbye_to_its_sockets(
    instances: list[Instance], proxy: Proxy
) -> None:
    """SIGTERM under traffic, as in a rolling deploy: every POST is answered 201 at its first try, /readyz stays 200."""
    leaving = instances[0]
    gone = asyncio.Event()
    async with chat_through(proxy) as chat:

        async def sender(number: int) -> list[str]:
            bodies: list[str] = []
            while not gone.is_set():
                bodies.append(f"{number}/{len(bodies)}")
                assert await chat.send(bodies[-1]) == (201, "")
            return bodies

        async def watch_readiness() -> None:
            while not gone.is_set():
                async with chat.session.get("/readyz") as answer:
                    assert answer.status == 200, await answer.text()

        # Two sockets: with nothing else to count, the proxy gives one to each instance.
        sockets = [await chat.session.ws_connect(f"{API}/realtime/ws", autoclose=False) for _ in range(2)]
        async with asyncio.TaskGroup() as tasks:
            senders = [tasks.create_task(sender(number)) for number in range(4)]
            tasks.create_task(watch_readiness())
            await asyncio.to_thread(leaving.terminate)
            closed = [tasks.create_task(_close_code(ws)) for ws in sockets]
            status = await asyncio.to_thread(leaving.wait)
            gone.set()
            for ws in sockets:
                await ws.close()
        assert status == 0
        assert [task.result() for task in closed].count(1012) == 1
        assert await chat.stored() == Counter(body for each in senders for body in each.result())


async def test_no_instance_left_is_a_503_in_the_contracts_form(
    instances: list[Instance], proxy: Proxy
) -> None:
    async with chat_through(proxy) as chat:
        for instance in instances:
            await asyncio.to_thread(instance.kill)
        assert await chat.send("to nobody") == (503, "unavailable")
        assert not await asyncio.to_thread(proxy.answers, "/readyz")
        await asyncio.to_thread(instances[0].start)
        assert await asyncio.to_thread(wait_until, lambda: proxy.answers("/healthz"), SOON)
        assert await chat.send("to somebody") == (201, "")


def test_proxy_starts_and_ends_without_its_instances() -> None:
    with running_proxy([f"{LOOPBACK}:{free_port()}" for _ in range(2)]) as proxy:
        assert not proxy.answers("/healthz")
        assert proxy.stop() == 0


async def test_renewed_certificate_is_taken_up_by_a_reload(instances: list[Instance], proxy: Proxy) -> None:
    async with chat_through(proxy) as chat, chat.session.ws_connect(f"{API}/realtime/ws") as ws:
        proxy.make_certificate()
        assert not proxy.answers("/healthz")  # asked by one who trusts the new one alone
        proxy.reload()
        assert await asyncio.to_thread(wait_until, lambda: proxy.answers("/healthz"), SOON)
        await ws.send_json({"id": "1", "op": "ping", "data": {}})
        while (await ws.receive_json(timeout=SOON))["type"] != "reply":
            pass


async def _close_code(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """Reads to the end; the code that the other side closed with, None where it did not say goodbye."""
    while True:
        frame = await ws.receive()
        if frame.type is aiohttp.WSMsgType.CLOSE:
            return int(frame.data)
        if frame.type in (aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
            return None
