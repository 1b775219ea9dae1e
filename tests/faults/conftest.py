"""The servers and the smallest model of the other tests, for the fault table."""

from tests.components.conftest import base, juicefs, nanio, s3

__all__ = ["base", "juicefs", "nanio", "s3"]
