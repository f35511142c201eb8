"""Do the tests notice a changed line? `python .ci/mutants.py [ROOM ...]` changes the functions of a room, one by one.

A room is one of those in ROOMS; without a name it is samplers and noise, which are held to 85 %. What is committed is
copied, mutmut changes the copy, and each change is killed by a failing test or survives; survivors are shown as
differences. The table goes to the screen and, with the survivors, to work/mutants/ROOM.md. `--tenth` tries every tenth
change alone: a large room takes hours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "samplers": ("src/ssimbad/samplers/*.py", ["tests/test_samplers*.py"]),
    "noise": (
        "src/ssimbad/noise/*.py",
        ["tests/test_noise_monotone.py", "tests/test_noise_transforms.py", "tests/test_samplers.py"],
    ),
    "pairing": (
        "src/ssimbad/pairing/*.py",
        [
            "tests/test_pairing_*.py",
            "tests/test_masks.py",
            "tests/test_styles.py",
            "tests/test_degradations.py",
            "tests/test_guidance.py",
        ],
    ),
    "metrics": ("src/ssimbad/metrics/*.py", ["tests/test_metrics_*.py"]),
    "records": (
        "src/ssimbad/pipeline/records.py",
        ["tests/test_runner.py", "tests/test_replaced.py"],
    ),
}
HELD = ("samplers", "noise")
LEAST = 85
KILLED = {"killed", "timeout"}


def main() -> None:
    rooms = [word for word in sys.argv[1:] if word != "--tenth"] or [*HELD]
    some = ["*__mutmut_*3"] if "--tenth" in sys.argv else []
    unknown = [room for room in rooms if room not in ROOMS]
    if unknown:
        sys.exit(f"mutants.py: {unknown[0]}: no such room; there are {', '.join(ROOMS)}")
    low = []
    for room in rooms:
        with tempfile.TemporaryDirectory(prefix="ssimbad-mutants-") as name:
            copy = copied(Path(name), room)
            mutmut(copy, "run", *some)
            if report(room, results(copy), copy) < LEAST and room in HELD:
                low.append(room)
    if low:
        sys.exit(f"mutants.py: {', '.join(low)}: less than {LEAST} % killed")


def copied(place: Path, room: str) -> Path:
    """What is committed, with what mutmut is to change and which tests are to notice."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
    changed, patterns = ROOMS[room]
    tests = sorted(str(path.relative_to(place)) for pattern in patterns for path in place.glob(pattern))
    settings = {
        "source_paths": ["src"],
        "only_mutate": [changed],
        "also_copy": sorted(path.name for path in place.iterdir() if path.name not in ("src", "tests")),
        "pytest_add_cli_args": ["-m", "not engines and not slurm and not browser and not gpu and not slow"],
        "pytest_add_cli_args_test_selection": tests,
        "process_isolation": "forkserver",  # torch's threads do not survive a fork
    }
    with (place / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n")
        file.writelines(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    return place


def mutmut(copy: Path, *words: str, quiet: bool = False) -> str:
    variables = {**os.environ, "PYTHONPATH": "src", "SSIMBAD_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "mutmut"), *words]
    done = subprocess.run(command, cwd=copy, env=variables, stdout=subprocess.PIPE if quiet else None, check=False)
    if done.returncode:
        sys.exit(f"mutants.py: mutmut {' '.join(words)} ended with code {done.returncode}; see what it says above")
    return done.stdout.decode() if quiet else ""


def results(copy: Path) -> dict[str, str]:
    """{name of a mutant that was tried: what became of it}"""
    lines = mutmut(copy, "results", "--all", "true", quiet=True).splitlines()
    found = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    return {name: fate for name, fate in found.items() if fate != "not checked"}


def report(room: str, became: dict[str, str], copy: Path) -> float:
    """A row per file, each survivor as the lines that it changes, and what share of the room was killed, in percent."""
    if not became:
        sys.exit(f"mutants.py: {room}: mutmut tried no mutant; see what it says above")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, fate in became.items():
        module = re.sub(r"\.(x_|xǁ).*", "", name)
        counts[module]["killed" if fate in KILLED else fate] += 1
        counts["all"]["killed" if fate in KILLED else fate] += 1
    rows = [
        (module, sum(count.values()), count["killed"], count["survived"], count["no tests"], f"{share(count):.1f} %")
        for module, count in sorted(counts.items(), key=lambda item: item[0] == "all")
    ]
    head = ["module", "mutants", "killed", "survived", "no test runs it", "killed"]
    table = tabulate(rows, head, tablefmt="github", disable_numparse=True)
    print(table)
    alive = [name for name, fate in became.items() if fate not in KILLED]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = pool.map(lambda name: mutmut(copy, "show", name, quiet=True), alive)
    shown = [f"{name}: {became[name]}\n{difference(text)}" for name, text in zip(alive, texts, strict=True)]
    out = ROOT / "work/mutants" / f"{room}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join([table, *shown]) + "\n", encoding="utf-8")
    print(f"-> {out.relative_to(ROOT)}")
    return share(counts["all"])


def share(count: Counter[str]) -> float:
    return 100 * count["killed"] / sum(count.values())


def difference(shown: str) -> str:
    """The changed lines alone, and the function in which they are."""
    return "\n".join(line for line in shown.splitlines() if re.match(r"(@@|[-+](?![-+]))", line))


if __name__ == "__main__":
    main()
