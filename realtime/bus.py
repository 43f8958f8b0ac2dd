"""Redis pub/sub: the fast way for an instance to hear of what another has committed, and for what is live only.

Carries hints, never the truth (I7): a message may be lost, repeated or late. Nothing here waits for Redis but the bus's
own tasks; publishing drops the oldest message where Redis is away or slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = structlog.get_logger(__name__)

_FAILURES = (RedisError, OSError, TimeoutError, asyncio.TimeoutError)


class Bus:
    """Publishes to, and listens on, the channels of one deployment.

    What this instance published itself is not handed back to it. ``gap`` is called where messages may have been missed:
    after each (re)connection. A connection on which not even this instance's own beat is heard counts as half open.
    """

    MAX_WAITING = 2000
    BEAT = 1.0  # seconds between the beats an instance sends itself
    SILENCE = 4.0  # seconds without any message after which a connection counts as half open

    def __init__(self, redis: Redis, namespace: str, instance: str, *, gap: Callable[[], None]) -> None:
        self._redis = redis
        self._namespace = namespace.encode()
        self._instance = instance.encode()
        self._gaps = [gap]
        self._waiting: deque[tuple[bytes, bytes]] = deque(maxlen=self.MAX_WAITING)
        self._arrived = asyncio.Event()
        self._handlers: dict[bytes, Callable[[bytes], None]] = {}
        self.connected = False

    def _channel(self, name: str) -> bytes:
        return b"parley:%b:%b" % (self._namespace, name.encode())

    def listen(self, channel: str, handler: Callable[[bytes], None]) -> None:
        """Hands other instances' messages on ``channel`` to ``handler``, which must not raise. Before :meth:`run`."""
        self._handlers[self._channel(channel)] = handler

    def after_gap(self, call: Callable[[], None]) -> None:
        """Has ``call`` called too where messages may have been missed."""
        self._gaps.append(call)

    def publish(self, channel: str, payload: bytes) -> None:
        """Sends soon, at most once. Never waits, never raises."""
        if self.connected or len(self._waiting) < 100:
            self._waiting.append((self._channel(channel), self._instance + payload))
            self._arrived.set()

    async def run(self) -> None:
        """Publishes and listens until cancelled, reconnecting by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_forever())
            tasks.create_task(self._listen_forever())
            tasks.create_task(self._beat_forever())

    async def _publish_forever(self) -> None:
        while not _cancelled():
            await self._arrived.wait()
            self._arrived.clear()
            batch = list(self._waiting)
            self._waiting.clear()
            if not batch:
                continue
            try:
                async with asyncio.timeout(2), self._redis.pipeline(transaction=False) as pipeline:
                    for channel, message in batch:
                        pipeline.publish(channel, message)
                    await pipeline.execute()
            except _FAILURES as error:
                # The events are in the log; instances that heard nothing read it.
                logger.debug("bus.unpublished", messages=len(batch), error=type(error).__name__)
                await asyncio.sleep(0.1)

    async def _beat_forever(self) -> None:
        while True:
            self._waiting.append((self._channel("beat:" + self._instance.decode()), b""))
            self._arrived.set()
            await asyncio.sleep(self.BEAT)

    async def _listen_forever(self) -> None:
        while not _cancelled():
            try:
                await self._listen()
            except _FAILURES as error:
                if self.connected:
                    logger.warning("bus.lost", error=type(error).__name__)
                self.connected = False
                await asyncio.sleep(0.25)

    async def _listen(self) -> None:
        beat = self._channel("beat:" + self._instance.decode())
        async with self._redis.pubsub() as pubsub:
            async with asyncio.timeout(3):
                await pubsub.subscribe(beat, *self._handlers)
            last_heard = asyncio.get_running_loop().time()
            while not _cancelled():
                message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=self.BEAT)
                now = asyncio.get_running_loop().time()
                if message is None:
                    if now - last_heard > self.SILENCE:
                        raise TimeoutError("nothing heard")
                    continue
                last_heard = now
                if message["type"] == "subscribe":
                    # The client reconnects and subscribes again in silence: each time is a hole in what was heard.
                    self.connected = True
                    for gap in self._gaps:
                        gap()
                elif message["type"] == "message":
                    self._heard(message["channel"], message["data"])

    def _heard(self, channel: bytes, data: bytes) -> None:
        handler = self._handlers.get(channel)
        if handler is not None and not data.startswith(self._instance):
            handler(data[len(self._instance) :])


def _cancelled() -> bool:
    """Whether this task was cancelled and the Redis client lost that: it sends by ``asyncio.wait_for``, which on
    Python 3.11 loses a cancellation that arrives in the moment the sending is done."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
