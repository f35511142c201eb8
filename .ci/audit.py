"""Known vulnerabilities of the locked packages: `python .ci/audit.py [LOCK]`.

pip-audit asks for each package that would be installed here. What it could not ask for is counted and named, and a run
that could ask for nothing has audited nothing: exit code 2. Exit code 1: vulnerabilities; 0: none in what was audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

LOCK = "requirements.hashes.lock"


def verdict(report: dict[str, Any]) -> tuple[list[str], int]:
    """What to say of pip-audit's report, and the exit code."""
    packages = report["dependencies"]
    skipped = [p for p in packages if "skip_reason" in p]
    audited = [p for p in packages if "skip_reason" not in p]
    if not audited:
        reason = skipped[0]["skip_reason"] if skipped else "there are none"
        return [f"not audited: all {len(skipped)} packages were skipped, the first because: {reason}"], 2
    lines = [f"skipped: {p['name']}: {p['skip_reason']}" for p in skipped]
    found = [(p, v) for p in audited for v in p["vulns"]]
    for package, known in found:
        fixed = ", ".join(known["fix_versions"]) or "no version yet"
        lines.append(f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}")
    lines.append(f"{len(audited)} packages audited, {len(skipped)} skipped, {len(found)} vulnerabilities")
    return lines, 1 if found else 0


def main(lock: str) -> int:
    words = ["pip-audit", "-r", lock, "--require-hashes", "--disable-pip", "-f", "json", "--progress-spinner", "off"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode} and no word"])[-1]
        print(f"not audited: {reason}", file=sys.stderr)
        return 2
    lines, code = verdict(report)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [LOCK]))
