"""A browser's own ``EventSource``: it comes back by itself, with nothing but what the first page load gave it."""

from __future__ import annotations

import aiohttp
import pytest

from handlers import sse
from server.settings import Settings
from tests.support.chromium import PROGRAM, opened
from tests.support.house import running
from tests.support.relay import server_relay

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.allow_blocking,
    pytest.mark.timeout(120),
]

OPEN_STREAM = """
const answer = await fetch("/api/v1/realtime/tickets", {
    method: "POST",
    headers: {"Authorization": "Bearer TOKEN", "Content-Type": "application/json"},
    body: JSON.stringify({cookie: true}),
});
const {ticket} = await answer.json();
const stream = new EventSource(`/api/v1/realtime/sse?ticket=${ticket}`);
const names = ["hello", "message.created", "resync", "session.revoked", "drain"];
for (const name of names)
    stream.addEventListener(name, event => console.log("heard", name, event.lastEventId, event.data));
stream.onmessage = event => console.log("unnamed", event.data);
stream.onerror = () => console.log("lost", ["connecting", "open", "closed"][stream.readyState]);
console.log("the page sees", JSON.stringify(document.cookie));
"""


async def test_it_comes_back_by_itself_and_misses_and_repeats_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RETRY_MS", 200)
    async with (
        aiohttp.ClientSession() as http,
        running(settings, http, None) as api,
        server_relay(api.url) as (relay, url),
        opened(f"{url}/api/docs/") as page,
    ):
        ann, bob = await api.register(), await api.register()
        chat = await ann.direct_with(bob)
        await page.type(OPEN_STREAM.replace("TOKEN", bob.token))
        await page.line("the page sees", '""')  # the cookie is the browser's alone
        _, _, place, hello = (await page.line("heard hello")).split(" ")
        assert f'"cursor":"{place}"' in hello
        await ann.say(chat, "text 1")
        last = (await page.line("heard message.created", '"text 1"')).split(" ")[2]
        for n in (2, 4):
            await relay.cut(refuse=True)
            await page.line("lost connecting")
            await ann.say(chat, f"text {n}")
            await ann.say(chat, f"text {n + 1}")
            relay.accept()
            again = await page.line("heard hello")
            assert again.split(" ")[2] == last, (
                "Last-Event-ID, though the URL names none and its ticket is spent"
            )
            await page.line("heard message.created", f'"text {n}"')
            last = (await page.line("heard message.created", f'"text {n + 1}"')).split(" ")[2]
        await ann.say(chat, "text 6")
        await page.line("heard message.created", '"text 6"')
        await bob.call("POST", "/auth/logout", expect=204)
        await page.line("heard session.revoked", '"reason":"logout"')
        await page.line("lost closed")  # it asked again, and was told 401
        assert page.lines("heard") == [], "nothing came twice"
        assert page.lines("unnamed") == []
