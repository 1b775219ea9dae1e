"""What pip on this machine says of its index, for pip inside the build.

Addresses, certificate and proxy only; paths on this machine mean nothing in a container.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KEPT = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """Settings by pip's names, and the certificate bundle that its index is checked against."""

    values: dict[str, str]
    certificate: Path | None

    @classmethod
    def of_this_machine(cls) -> "PipSettings":
        """The settings of files and environment, as `pip config list` gives them."""
        command = [sys.executable, "-m", "pip", "config", "list"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return cls.parse(done.stdout)

    @classmethod
    def parse(cls, listing: str) -> "PipSettings":
        """From lines like `global.index-url='...'`; those of the environment win."""
        lines = sorted(listing.splitlines(), key=lambda line: line.startswith(":env:"))
        found = {}
        for line in lines:
            name, _, quoted = line.partition("=")
            found[name.rpartition(".")[2]] = str(ast.literal_eval(quoted))
        values = {key: _remote(found[key]) for key in KEPT if key in found}
        certificate = found.get("cert")
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


def _remote(value: str) -> str:
    """The value without addresses of files."""
    return " ".join(word for word in value.split() if not word.startswith("file:"))
