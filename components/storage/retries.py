"""How long a request to object storage is tried again: one rule for all of them.

Overloaded servers, broken connections, silence and spoilt answers pass; for STORAGE_RETRY_MINUTES
(10) a request is made again after growing pauses, which differ by chance so that many clients do
not come back together. Credentials that have expired are read anew.
"""

import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import botocore.exceptions as aws
from botocore.parsers import ResponseParserError

from components.storage import connection
from components.storage.errors import Changed, Location, Spoilt
from model.options import check

MINUTES = "STORAGE_RETRY_MINUTES"
DEFAULT = 10.0
FIRST, LONGEST = 0.05, 15.0  # seconds of the shortest and the longest pause
SAID_AFTER = 5  # attempts, about two seconds
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
PASSING = (
    "BadDigest",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentSHA256Mismatch",
)
BROKEN = (
    aws.HTTPClientError,
    aws.EndpointConnectionError,
    aws.IncompleteReadError,
    aws.ResponseStreamingError,
    ResponseParserError,
    Spoilt,
)
FINAL = (Changed, aws.SSLError, aws.ProxyConnectionError, aws.InvalidProxiesConfigError)
T = TypeVar("T")


def patience() -> float:
    """Seconds for which a request is tried again."""
    text = os.environ.get(MINUTES, str(DEFAULT))
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    check(MINUTES, text, 0 <= minutes <= 10_000, "minutes, from 0 to 10000")
    return 60 * minutes


def persist(location: Location, request: Callable[[], T]) -> T:
    """What `request` returns, tried again while its failure may pass. Raises the last failure."""
    connection.client()  # takes a second at first, which is not the server's
    deadline = time.monotonic() + patience()
    for attempt in itertools.count(1):
        try:
            return request()
        except (aws.ClientError, aws.BotoCoreError, ResponseParserError, Spoilt) as error:
            pause = random.uniform(0.5, 1) * min(LONGEST, FIRST * 2 ** min(attempt - 1, 20))
            most = int(os.environ.get("AWS_MAX_ATTEMPTS", sys.maxsize))
            is_late = attempt >= most or time.monotonic() + pause > deadline
            if is_late or not _may_pass(error, attempt):
                raise
            if attempt == SAID_AFTER:
                left = max(deadline - time.monotonic(), 0) / 60
                reason = " ".join(str(error).split())
                line = f"{location}: {reason}; is tried again for up to {left:.1f} minutes"
                print(line, file=sys.stderr, flush=True)
        time.sleep(pause)
    raise AssertionError("the loop returns or raises")


def may_pass(error: BaseException | None) -> bool:
    """Whether a failure is the world's, and another time may be better."""
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        is_broken = status >= 500 and status != 501
        return connection.code_of(error) in PASSING or status == 429 or is_broken
    return isinstance(error, BROKEN) and not isinstance(error, FINAL)


def _may_pass(error: Exception, attempt: int) -> bool:
    if isinstance(error, aws.ClientError) and connection.code_of(error) in EXPIRED:
        connection.forget()
        return attempt <= 3
    return may_pass(error)
