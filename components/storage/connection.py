"""The connection to S3-compatible object storage, and its failures in one line.

Endpoint, region and credentials come from the standard AWS_* variables; STORAGE_ANONYMOUS=1 asks
without credentials, as public buckets allow, and STORAGE_ADDRESSING=path or virtual says where the
bucket's name stands in an address. `retries` repeats requests.
"""

import base64
import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.exceptions as aws
from botocore import UNSIGNED
from botocore.config import Config
from botocore.parsers import ResponseParserError

from components.storage.errors import (
    Changed,
    Damaged,
    Location,
    Refused,
    Spoilt,
    StorageError,
    Unavailable,
)
from model.options import check

SILENCE = 30  # seconds without a byte after which a connection counts as broken
CONNECTIONS = 32
ANONYMOUS = "STORAGE_ANONYMOUS"
ADDRESSING = "STORAGE_ADDRESSING"
STYLES = ("auto", "path", "virtual")
ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
    ANONYMOUS,
    ADDRESSING,
)
WHOLE = (
    "AWS_MAX_ATTEMPTS",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_METADATA_SERVICE_TIMEOUT",
)
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
}
"""The right that a request needs; writing needs s3:PutObject."""


def client() -> Any:
    """The client for the environment as it is now."""
    return connect(tuple(os.environ.get(name) for name in ENVIRONMENT))


def forget() -> None:
    """Has the next request read the credentials anew."""
    connect.cache_clear()


@functools.cache
def connect(environment: tuple[str | None, ...]) -> Any:
    """One client for each state of the environment, which boto3 reads itself."""
    for name in WHOLE:
        value = os.environ.get(name, "1")
        check(name, value, value.isdecimal() and int(value) >= 1, "a whole number, 1 or more")
    for name in SECRETS:
        if any(sign.isspace() for sign in os.environ.get(name, "")):
            # Not `check`, which would show the secret.
            raise ValueError(f"{name} holds white space, allowed: the key alone")
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
    made = session.client("s3", config=_settings())
    made.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
    return made


def _settings() -> Config:
    anonymous, style = os.environ.get(ANONYMOUS, "0"), os.environ.get(ADDRESSING, "auto")
    check(ANONYMOUS, anonymous, anonymous in ("0", "1"), "0 or 1")
    check(ADDRESSING, style, style in STYLES, ", ".join(STYLES))
    return Config(
        connect_timeout=10,
        read_timeout=SILENCE,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},  # `retries` has the policy
        s3={"addressing_style": style},
        signature_version=UNSIGNED if anonymous == "1" else None,
        # Servers other than Amazon's refuse the checksums that boto3 adds; manifests hold ours.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Older servers require this checksum of a deletion, where boto3 sends a newer one."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def split(location: Location) -> tuple[str, str]:
    """The bucket and the key of a location."""
    bucket, _, key = str(location).removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{location}: names no bucket, allowed: s3://BUCKET/KEY")
    return bucket, key.rstrip("/")


def code_of(error: aws.ClientError) -> str:
    """The server's word for an error."""
    return error.response.get("Error", {}).get("Code", "")


@contextlib.contextmanager
def explained(location: Location) -> Iterator[None]:
    """Turns the client's exceptions into one line that names the location and what to do."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        yield
    except aws.ClientError as error:
        code = code_of(error)
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(f"{location}: no such object") from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind = Unavailable if status >= 500 or status == 429 else Refused
        where = f"(endpoint {endpoint or 'of AWS'})"
        raise kind(f"{location}: {_reason(error)} {where}") from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise Refused(
            f"{location}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (aws.HTTPClientError, aws.EndpointConnectionError) as error:
        raise Unavailable(
            f"{location}: endpoint {endpoint or 'of AWS'} does not answer: {error}"
        ) from error
    except (aws.IncompleteReadError, aws.ResponseStreamingError, ResponseParserError) as error:
        raise Unavailable(f"{location}: the answer broke off: {error}") from error
    except Changed as error:
        raise Damaged(f"{location}: {error}") from error
    except Spoilt as error:
        raise Unavailable(f"{location}: {error}") from error
    except StorageError:
        raise
    # The client also raises plain ValueErrors, for variables that are malformed.
    except (aws.BotoCoreError, boto3.exceptions.Boto3Error, ValueError) as error:
        raise StorageError(f"{location}: {error}{_named(error)}") from error


def _reason(error: aws.ClientError) -> str:
    """The reason of a refusal and what to do about it."""
    code, facts = code_of(error), error.response.get("Error", {})
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    right = RIGHTS.get(error.operation_name, "s3:PutObject")
    wrong_region = (
        f"the region {region!r} is wrong, the bucket is in {facts.get('Region', 'another')}"
    )
    return {
        "NoSuchBucket": "no such bucket",
        "SignatureDoesNotMatch": "refused, AWS_SECRET_ACCESS_KEY is wrong",
        "InvalidAccessKeyId": "refused, AWS_ACCESS_KEY_ID is unknown",
        "AccessDenied": f"refused, these credentials may not do this: they lack {right}",
        "403": f"refused, the credentials are wrong or lack {right}",
        "ExpiredToken": "refused, the credentials have expired",
        "RequestTimeTooSkewed": "refused, the clocks of this machine and of the server differ",
        "AuthorizationHeaderMalformed": wrong_region,
        "PermanentRedirect": wrong_region,
        "IllegalLocationConstraintException": wrong_region,
    }.get(code, f"{code}: {facts.get('Message', '')}")


def _named(error: Exception) -> str:
    """The environment variables whose value an error message quotes."""
    variables = [
        name if name.upper().endswith("_PROXY") else f"{name}={value!r}"  # a proxy's may hold a key
        for name, value in sorted(os.environ.items())
        if name.upper().startswith("AWS_") or name.upper().endswith("_PROXY")
        if len(value) > 2 and name not in SECRETS and value in str(error)
    ]
    return f" ({', '.join(variables)})" if variables else ""
