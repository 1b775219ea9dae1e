"""The settings of pip on this machine that reach its index, for pip inside the build.

Addresses, certificate and proxy only: paths of this machine do not exist in a container.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PASSED = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """Settings by pip's names, and the certificate bundle that its index is checked against."""

    values: dict[str, str]
    certificate: Path | None

    @classmethod
    def of_this_machine(cls) -> "PipSettings":
        """The settings of files and environment, as `pip config list` gives them."""
        return cls.parse(_listing())

    @classmethod
    def parse(cls, listing: str) -> "PipSettings":
        """From lines like `global.index-url='...'`; those of the environment win."""
        settings = _parse(listing)
        values = {key: _remote(settings[key]) for key in PASSED if key in settings}
        certificate = settings.get("cert")
        return cls(
            values={key: value for key, value in values.items() if value},
            certificate=Path(certificate) if certificate else None,
        )

    def write(self, directory: Path) -> None:
        """Writes `pip`, its configuration, and `ca`, the bundle, as the Dockerfile mounts them."""
        lines = [f"{key} = {value}" for key, value in self.values.items()]
        if self.certificate:
            (directory / "ca").write_bytes(self.certificate.read_bytes())
            lines.append("cert = /run/secrets/ca")
        (directory / "pip").write_text("\n".join(["[global]", *lines, ""]))


def index_of_this_machine() -> str:
    """The package index of pip on this machine, without a password."""
    return without_password(_parse(_listing()).get("index-url", "https://pypi.org/simple"))


def without_password(address: str) -> str:
    """The address without the user's name and password, to be shown."""
    return re.sub(r"(?<=//)[^/@]*@", "", address)


def _listing() -> str:
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _parse(listing: str) -> dict[str, str]:
    """Settings by name; those of the environment come last, so that they win."""
    lines = sorted(listing.splitlines(), key=lambda line: line.startswith(":env:"))
    pairs = [line.partition("=")[::2] for line in lines]
    return {name.rpartition(".")[2]: str(ast.literal_eval(quoted)) for name, quoted in pairs}


def _remote(value: str) -> str:
    """The value without addresses of files."""
    return " ".join(word for word in value.split() if not word.startswith("file:"))
