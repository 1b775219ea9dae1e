"""Ends a command of this folder with one line and an exit code."""

import sys
from typing import NoReturn


def end(command: str, message: str, code: int) -> NoReturn:
    """Prints the message on one line and ends the process."""
    print(f"{command}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
