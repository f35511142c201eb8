"""Where packages come from: two locks that say the same, the rules' environment, an audit that tells what it is."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from .conftest import ROOT
from .texts import read

HASHED, PLAIN = read("requirements.hashes.lock"), read("requirements.lock")
RULES = sorted(ROOT.glob("workflow/rules/*.smk"))


def hashed_requirements() -> dict[str, list[str]]:
    """{requirement with its marker: SHA-256 of its files}."""
    found = {}
    for entry in re.split(r"\n(?! )", HASHED.strip()):
        requirement, *hashes = re.split(r" *\\\n +--hash=sha256:", entry)
        found[requirement] = hashes
    return found


def test_both_locks_name_the_same_versions_for_the_same_systems():
    assert list(hashed_requirements()) == PLAIN.splitlines()


def test_every_package_has_a_hash_and_none_an_address():
    for requirement, hashes in hashed_requirements().items():
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes), requirement
    for lock in (HASHED, PLAIN):
        assert "://" not in lock and not re.search(r"^ *-[^-]|--(?!hash=)", lock, re.MULTILINE)


def test_what_pyproject_asks_for_is_locked():
    told = tomllib.loads(read("pyproject.toml"))
    project, backend = told["project"], told["build-system"]["requires"]  # `make install` builds with what is there
    extras = [r for requirements in project.get("optional-dependencies", {}).values() for r in requirements]
    locked = {re.match(r"[\w.-]+", line)[0] for line in PLAIN.splitlines()}
    asked = {
        re.sub("[-_.]+", "-", re.match(r"[\w.-]+", r)[0].lower()) for r in [*project["dependencies"], *extras, *backend]
    }
    assert asked - {"ssimbad"} <= locked


def environments() -> set[Path]:
    """The files that the rules name under `conda:`."""
    named = {(path, name) for path in RULES for name in re.findall(r'conda:\s+"([^"]+)"', path.read_text())}
    return {(path.parent / name).resolve() for path, name in named}


def test_the_rules_environment_means_the_same_as_snakemakes_copy(tmp_path):
    """Snakemake copies the file to .snakemake/conda/<digest>.yaml, and makes the environment from there."""
    assert environments() == {ROOT / "workflow/envs/ssimbad.yaml"}
    for path in environments():
        copy = tmp_path / "0123abcd_.yaml"
        copy.write_bytes(path.read_bytes())
        wanted = yaml.safe_load(copy.read_text())["dependencies"]
        flat = [line for item in wanted for line in (item["pip"] if isinstance(item, dict) else [item])]
        assert not [line for line in flat if line.startswith("-") or "/" in line]


def test_the_rules_environment_is_another_one_when_the_lock_changes():
    script = read("workflow/envs/ssimbad.post-deploy.sh")
    digest = hashlib.sha256((ROOT / "requirements.hashes.lock").read_bytes()).hexdigest()
    assert f"{digest}  requirements.hashes.lock" in script
    assert "--require-hashes -r requirements.hashes.lock" in script


def test_workflows_run_the_parts_that_there_are():
    parts = re.findall(r"^    (\w+)\) ", read(".ci/run"), re.MULTILINE)
    (job,) = yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"].values()
    assert job["strategy"]["matrix"]["part"] == parts


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "last"),
    [
        ([CLEAN], 0, "1 packages audited, 0 skipped, 0 vulnerabilities"),
        ([CLEAN, SKIPPED], 0, "1 packages audited, 1 skipped, 0 vulnerabilities"),
        ([CLEAN, BAD, SKIPPED], 1, "2 packages audited, 1 skipped, 1 vulnerabilities"),
        ([SKIPPED, SKIPPED], 2, "not audited: all 2 packages were skipped, the first because: not found"),
        ([], 2, "not audited: all 0 packages were skipped, the first because: there are none"),
    ],
)
def test_an_audit_says_what_it_has_audited(audit, packages, code, last):
    lines, ended = audit.verdict({"dependencies": packages})
    assert (ended, lines[-1]) == (code, last)
    assert ("skipped: c: not found" in lines) == (SKIPPED in packages and code < 2)
    assert ("b 2: PYSEC-1, mended in 3" in lines) == (BAD in packages)


def test_an_audit_that_cannot_ask_is_none(audit, tmp_path, monkeypatch, capsys):
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\necho 'ERROR: no network' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert audit.main("requirements.hashes.lock") == 2
    assert capsys.readouterr().err == "not audited: ERROR: no network\n"
