"""Known vulnerabilities of the versions that a file pins: `python -m tests.audit constraints.txt`.

pip-audit asks the advisory service, and says by one and the same exit status that there are
vulnerabilities and that nobody was there to ask. Here the first fails, and the second is a line.
Options after the file are pip-audit's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 300

UNREACHABLE: Final = (
    "ConnectionError",
    "Could not connect",
    "Timeout",
    "HTTPError",
    "ServiceError",
)
"""Of what pip-audit says when it had no answer."""


def audit(pins: Path, *options: str) -> int:
    """Print what is known of the pinned versions, and return the exit status."""
    command = Path(sys.executable).with_name("pip-audit")
    fixed = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [command, "--requirement", pins, *fixed, *options],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{pins} was not audited: no answer within {TIMEOUT_S} s")
        return 0
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        if any(word in done.stderr for word in UNREACHABLE):
            print(f"{pins} was not audited: {lines[-1][:200]}")
            return 0
        print(done.stderr)
        return 1
    return report(pins, packages)


def report(pins: Path, packages: list[dict[str, Any]]) -> int:
    """Print vulnerabilities, and who was not known; 1 if there are any."""
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        print(
            f"{pins}: the advisory service did not know {len(unknown)} of {len(packages)} packages"
        )
    found = [
        f"{package['name']} {package['version']}: {item['id']}, mended in "
        f"{', '.join(item['fix_versions']) or 'no version'}"
        for package in packages
        for item in package.get("vulns", ())
    ]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(audit(Path(sys.argv[1]), *sys.argv[2:]))
