"""The servers and the smallest model of the other tests, for the fault table."""

from tests.components.conftest import base, nanio

__all__ = ["base", "nanio"]
