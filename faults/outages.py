"""What clients may see of a part that is away, and what they may not: read off what they noted down."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

from faults.history import Refusal, Send
from faults.stage import Broken
from faults.traffic import Traffic

RECOVERY_SECONDS = 60.0
_LOOK_SECONDS = 0.05


class Outage:
    """From the moment a part is surely gone (`begin`) to the moment it is told to come back (`end`)."""

    def __init__(self, what: str, traffic: Traffic) -> None:
        self.what = what
        self.began = self.ended = self.recovered = 0.0
        """`recovered` is when a message was acknowledged that had begun after the end."""
        self._traffic = traffic

    def begin(self) -> None:
        self.began = time.monotonic()

    def end(self) -> None:
        self.ended = time.monotonic()

    async def until_recovered(self) -> float:
        """Returns once every sender had something acknowledged again: seconds until the first had. Raises Broken."""
        waiting = set(self._traffic.senders)
        looked = 0
        try:
            async with asyncio.timeout(RECOVERY_SECONDS):
                while waiting:
                    sends = self._traffic.record.sends
                    for send in sends[looked:]:
                        if send.acked_at is not None and send.acked_at > self.ended:
                            waiting.discard(send.sender)
                            self.recovered = min(self.recovered or send.acked_at, send.acked_at)
                    looked = len(sends)
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise Broken(
                f"after {self.what}, {len(waiting)} senders had nothing acknowledged any more"
            ) from None
        return self.recovered - self.ended

    def acknowledged(self) -> int:
        """Messages acknowledged while it lasted."""
        return sum(
            send.acked_at is not None and self.began < send.acked_at < self.ended
            for send in self._traffic.record.sends
        )

    def refusals(self) -> Iterator[tuple[Send, Refusal]]:
        """Tries that were refused while it lasted."""
        for send in self._traffic.record.sends:
            for refusal in send.refused:
                if self.began < refusal.at < self.ended:
                    yield send, refusal

    def must_refuse_in_words(self) -> int:
        """How many tries were told 503 and when to come again. Raises Broken where one was told anything else."""
        told = Counter[int | str]()
        for send, refusal in self.refusals():
            told[refusal.what] += 1
            which = f"during {self.what}, message {send.number} of {send.sender}, by {refusal.transport}"
            if refusal.what != 503:
                raise Broken(f"{which}: {refusal.what} instead of 503")
            if refusal.retry_after is None:
                raise Broken(f"{which}: 503 without a time to come again")
        if not told:
            raise Broken(f"nobody was refused during {self.what}: this proves nothing")
        return told[503]

    def must_keep_sockets(self) -> int:
        """How many streams stayed open all the while. Raises Broken where one did not."""
        until = self.recovered or self.ended
        kept = 0
        for connection in self._traffic.record.connections:
            if connection.transport not in ("ws", "sse") or connection.opened > self.began:
                continue
            if connection.closed_at is None or connection.closed_at > until:
                kept += 1
            elif connection.closed_at > self.began:
                raise Broken(
                    f"during {self.what}, a {connection.transport} connection of {connection.receiver} at "
                    f"{connection.instance} ended: {connection.reason}"
                )
        if not kept:
            raise Broken(f"no stream was open during {self.what}: this proves nothing")
        return kept

    def delays(self) -> tuple[float, float]:
        """Of what began and was acknowledged meanwhile: seconds from then to a receiver having it, median and worst."""
        acked = {
            send.client_id: send.acked_at
            for send in self._traffic.record.sends
            if send.acked_at is not None and self.began < send.began and send.acked_at < self.ended
        }
        found = sorted(
            at - acked[event.client_id]
            for receipts in self._traffic.record.receipts.values()
            for at, event in receipts.times()
            if event.type == "message.created" and event.client_id in acked
        )
        if not found:
            raise Broken(f"nothing was delivered during {self.what}")
        return max(0.0, found[len(found) // 2]), found[-1]
