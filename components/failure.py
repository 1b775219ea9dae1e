"""A stage that has failed for a reason that one line says. Bad input is a ValueError instead."""


class Failed(Exception):
    """The command line prints the message, which says what to try, and ends with exit code 1."""
