"""`python -m faults`: see `faults.program`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from faults.program import main

        sys.exit(main())
    except KeyboardInterrupt:  # before anything could listen for it
        sys.exit(130)
