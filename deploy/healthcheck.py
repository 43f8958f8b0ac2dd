"""Asks this instance whether it is ready: exit status 0 when `/readyz` answers 200, 1 when not.

For the container's health check: it needs nothing but Python, and only what starts fast.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 4.0


def problem(host: str, port: int) -> str | None:
    """What keeps the instance at `host`:`port` from being ready, or None. Waits for a few seconds at most."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {host}:{port}: {error}"
    finally:
        connection.close()
    return None if response.status == http.client.OK else f"{response.status}: {body}"


def main() -> int:
    """The program. It takes the port the server takes, from `PARLEY_PORT`."""
    found = problem("127.0.0.1", int(os.environ.get("PARLEY_PORT") or 8080))
    if found is not None:
        sys.stdout.write(found + "\n")  # kept by the engine, shown by `docker inspect`
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main())
