"""`python -m demo`: see `demo.program`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from demo.program import main

        sys.exit(main())
    except KeyboardInterrupt:  # before the show could listen for it
        sys.exit(130)
