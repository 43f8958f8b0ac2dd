"""A process that holds the embedded services as an instance does, and nothing else.

`python -m tests.support.holder DATA_DIR` prints one JSON line with both URLs once they answer, leaves on
SIGTERM or SIGINT, and exits 0; where the services cannot start it prints the reason on stderr and exits 1.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from server.embedded import EmbeddedServices
from server.settings import Settings
from server.startup import StartupError


async def hold(data_dir: Path) -> None:
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    async with EmbeddedServices(Settings(data_dir=data_dir)) as services:
        sys.stdout.write(json.dumps([services.database_url, services.redis_url]) + "\n")
        sys.stdout.flush()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(services.supervise())
            await stop.wait()
            watching.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(hold(Path(sys.argv[1])))
    except StartupError as error:
        sys.exit(str(error))
