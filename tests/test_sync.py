"""What `ssimbad sync` writes into dvc.lock is what the records say, whatever happens meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage

from ssimbad import artifacts, cli
from ssimbad.errors import UserError
from ssimbad.params import tree as parameters
from ssimbad.pipeline import dvcfile, records, runner, sync, table
from ssimbad.pipeline.table import Stage

from .conftest import write_params
from .toy import bring, load, meddle

pytestmark = pytest.mark.usefixtures("repository")


@pytest.fixture
def repository(toy, tree, monkeypatch):
    """The toy pipeline, finished, in a DVC repository that knows nothing of it yet."""
    monkeypatch.setattr(records, "version", lambda stage: yaml.safe_load(records.VERSIONS.read_text())[stage.name])
    records.VERSIONS.write_text("dear: 1\n")
    Repo.init(no_scm=True).close()
    meddle.clear()
    bring(tree)
    dvcfile.write(load(tree))


def synced() -> None:
    sync.run(parameters.load())


def lock() -> dict:
    """{stage: {"params", "deps" and "outs": {name: value}}} of dvc.lock."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"] if Path("dvc.lock").exists() else {}
    found = {}
    for name, entry in stages.items():
        files = {part: {f["path"]: f["md5"] for f in entry.get(part, [])} for part in ("deps", "outs")}
        found[name] = {"params": entry.get("params"), **files}
    return found


def clean() -> bool:
    """Whether `dvc status` finds nothing to do."""
    with Repo() as repo:
        return repo.status() == {}


def run_cache() -> list[Path]:
    """What DVC would bring back instead of running a stage."""
    return [p for p in Path(".dvc/cache/runs").rglob("*") if p.is_file()]


def with_params(tree, key: str, value) -> None:
    node, (*path, last) = tree, key.split(".")
    for part in path:
        node = node[part]
    node[last] = value
    write_params(Path(), tree)


def test_fresh_stages_are_committed_once():
    synced()
    assert lock().keys() == {"cheap", "dear"}
    assert lock()["dear"]["outs"].keys() == {"weights.txt", "records/dear.json"}
    assert clean()
    before = Path("dvc.lock").stat()
    synced()
    assert Path("dvc.lock").stat() == before


def test_outputs_stay_the_very_files_that_the_stages_synced():
    """DVC alone would put copies in their place, which no disk has yet."""
    files = [Path(file) for file in (*lock_files(), "records/dear.json", "records/cheap.json")]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    synced()
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before
    assert lock().keys() == {"cheap", "dear"} and run_cache() and clean()


def lock_files() -> list[str]:
    return [file for stage in table.instances(parameters.load()) for file in stage.outputs.values()]


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_a_cache_that_shares_bytes_by_links_is_linked(kind):
    with Repo() as repo, repo.config.edit("local") as config:
        config["cache"]["type"] = kind
    synced()
    weights = Path("weights.txt")
    assert weights.is_symlink() if kind == "symlink" else weights.stat().st_nlink == 2
    assert clean()


@pytest.mark.parametrize("damage", [b"", b"not what it was", b"\0" * 5])
@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_a_damaged_object_of_the_cache_is_no_result(damage, mode):
    """A power cut leaves it; DVC looks at names only, and would push it, and check it out."""
    found = table.instances(parameters.load())
    objects = {digest for stage in found for digest in records.read(stage)["outputs"].values()}
    for digest in objects | {records.md5(Path(stage.record)) for stage in found}:
        place = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(damage)
        place.chmod(mode)
    synced()
    for place in Path(".dvc/cache/files/md5").glob("??/*"):
        assert records.md5(place) == place.parent.name + place.name
    assert clean()


def cut_off(share: float) -> Callable[[bytes], bytes]:
    return lambda right: right[: int(share * len(right))]


DAMAGES = {
    "empty": lambda right: b"",
    "zeros": lambda right: bytes(len(right)),
    "no mapping": lambda right: b"- 1\n",
    "no YAML": lambda right: b"stages: [",
    "too deep": lambda right: b"[" * 3000 + b"]" * 3000,
    "no bool": lambda right: b"!!bool maybe",
    "no date": lambda right: b"stages: 2001-99-99",
    "a byte that is no text": lambda right: right.replace(b"md5", b"\xff\xfe", 1),
    "a half of it twice": lambda right: right[: len(right) // 2] * 2,
    "zeros at the end": lambda right: right[: len(right) // 2] + bytes(len(right) - len(right) // 2),
} | {f"cut off at {share:.0%}": cut_off(share) for share in (0.01, 0.03, 0.1, 0.21, 0.33, 0.46, 0.58, 0.7, 0.83, 0.97)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_of_a_run_is_written_anew(damage):
    """DVC would end with a traceback, or bring back a part of the outputs."""
    synced()
    right = {path: path.read_bytes() for path in run_cache()}
    for path, data in right.items():
        path.chmod(0o644)
        path.write_bytes(DAMAGES[damage](data))
    Path("dvc.lock").unlink()
    synced()
    assert right and {path: path.read_bytes() for path in run_cache()} == right and clean()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lock_of_dvc_is_written_anew(damage):
    synced()
    right = Path("dvc.lock").read_bytes()
    Path("dvc.lock").write_bytes(DAMAGES[damage](right))
    synced()
    assert yaml.safe_load(Path("dvc.lock").read_bytes()) == yaml.safe_load(right) and clean()
    assert not list(Path().glob(".dvc.lock.*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda right: right.replace(b"2.0", b"9.0"), "dvc commit failed"),
        (lambda right: b"<<<<<<< mine\n" + right + b"=======\n>>>>>>> theirs\n", "dvc.lock: conflicts"),
    ],
    ids=["of a later DVC", "with conflicts"],
)
def test_a_lock_of_dvc_that_is_not_damaged_is_nobodys_to_mend(change, told):
    synced()
    Path("dvc.lock").write_bytes(change(Path("dvc.lock").read_bytes()))
    before = Path("dvc.lock").read_bytes()
    with pytest.raises(UserError, match=told):
        synced()
    assert Path("dvc.lock").read_bytes() == before and not list(Path().glob("dvc.lock.*"))


def test_of_a_damaged_lock_the_committed_one_takes_the_place(tree, capsys):
    """It may name what other machines have made."""
    synced()
    known = yaml.safe_load(Path("dvc.lock").read_text())
    known["stages"]["of another machine"] = {"cmd": "true"}
    Path("dvc.lock").write_text(yaml.safe_dump(known))
    for words in (("init", "-q"), ("add", "dvc.lock"), ("commit", "-q", "-m", "lock")):
        subprocess.run(("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", *words), check=True)
    for number in range(2):
        damaged = f"stages: [{number}"
        Path("dvc.lock").write_text(damaged)
        synced()
        assert lock().keys() == {"cheap", "dear", "of another machine"}
        aside = Path("dvc.lock.damaged (2)" if number else "dvc.lock.damaged")
        assert aside.read_text() == damaged and f"a copy is {aside}" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_the_lock_of_dvc_keeps_its_permissions_and_a_link_stays_one(mode):
    Path("elsewhere.lock").write_text("schema: '2.0'\n")
    Path("elsewhere.lock").chmod(mode)
    Path("dvc.lock").symlink_to("elsewhere.lock")
    synced()
    assert Path("dvc.lock").is_symlink() and Path("elsewhere.lock").stat().st_mode & 0o777 == mode
    assert lock().keys() == {"cheap", "dear"}


def test_where_dvc_locks_by_links():
    with Repo() as repo, repo.config.edit("local") as config:
        config["core"]["hardlink_lock"] = True
    synced()
    assert lock().keys() == {"cheap", "dear"}


@pytest.mark.parametrize("text", ["", "{", "[]", "\0\0"])
def test_a_damaged_list_of_running_stages_is_forgotten(text):
    place = Path(".dvc/tmp/rwlock")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    synced()
    assert lock().keys() == {"cheap", "dear"} and clean()


def test_what_keeps_dvc_from_all_work_is_mended_where_nothing_is_fresh_too(tree):
    with_params(tree, "data.seed", 5)
    dvcfile.write(parameters.load())
    Path(".dvc/tmp").mkdir(parents=True, exist_ok=True)
    Path(".dvc/tmp/rwlock").touch()
    for record in Path("records").glob("*.json"):
        record.unlink()
    synced()
    assert not Path(".dvc/tmp/rwlock").exists() and not Path("dvc.lock").exists()


def test_dvc_lock_is_whole_at_every_moment(monkeypatch):
    """Nobody, killed while it is written, leaves it in part."""
    synced()
    known = yaml.safe_load(Path("dvc.lock").read_bytes())
    del known["stages"]["dear"]
    Path("dvc.lock").write_text(yaml.safe_dump(known))
    edited, told = Path("dvc.lock").read_bytes(), os.replace

    def failing(source, target, **named):
        if Path(target).name == "dvc.lock":
            raise OSError(5, "Input/output error")
        return told(source, target, **named)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UserError, match="dvc commit failed"):
        synced()
    assert Path("dvc.lock").read_bytes() == edited and not list(Path().glob(".dvc.lock.*"))


def other_params(tree):
    with_params(tree, "data.seed", 5)


def other_input(tree):
    Path("raw.txt").write_text("other")


def other_code(tree):
    Path("code.py").write_text("# other\n")


def other_output(tree):
    Path("copy.txt").write_text("other")


def other_record(tree):
    text = Path("records/cheap.json").read_text()
    Path("records/cheap.json").write_text(text.replace('"data.seed": 0', '"data.seed": 5'))


CHANGES = [other_params, other_input, other_code, other_output, other_record]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_while_sync_looks_stays_out_of_the_lock(tree, monkeypatch, capsys, change, back):
    """Parameters are edited when a long run ends, and DVC takes its time: its entry would be of two worlds."""
    before = {
        f: f.read_bytes() for f in map(Path, ("params.yaml", "raw.txt", "code.py", "copy.txt", "records/cheap.json"))
    }
    save = PipelineStage.save

    def slow(stage, **options):
        if stage.name == "cheap":
            change(tree)
        save(stage, **options)
        if stage.name == "cheap" and back:
            for file, content in before.items():
                file.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(PipelineStage, "save", slow)
        if back:
            with pytest.raises(UserError, match=r"cheap: DVC read .* otherwise than its record"):
                synced()
        else:
            synced()
            assert "changed meanwhile and left out: cheap" in capsys.readouterr().out
    assert "cheap" not in lock()
    assert not [p for p in run_cache() if "copy.txt" in p.read_text()]
    for file, content in before.items():
        file.write_bytes(content)
        file.touch()
    synced()
    assert lock().keys() == {"cheap", "dear"}
    assert clean()


def test_the_versions_are_looked_at_again_too(monkeypatch):
    save = PipelineStage.save

    def slow(stage, **options):
        records.VERSIONS.write_text("dear: 2\n")
        save(stage, **options)

    monkeypatch.setattr(PipelineStage, "save", slow)
    synced()
    assert lock().keys() == {"cheap"}


def test_an_edit_that_breaks_the_parameters_writes_nothing(monkeypatch):
    def slow(stage, **options):
        Path("params.yaml").write_text("{")

    monkeypatch.setattr(PipelineStage, "save", slow)
    with pytest.raises(UserError, match=r"params\.yaml, line 1: not valid YAML"):
        synced()
    assert lock() == {}


def test_a_file_that_dvc_remembers_otherwise_is_named(tree):
    """DVC tells contents apart by size, time and inode alone."""
    synced()
    raw = Path("raw.txt")
    times = raw.stat()
    raw.write_text("mask")
    os.utime(raw, ns=(times.st_atime_ns, times.st_mtime_ns))
    bring(tree)
    before = lock()
    with pytest.raises(UserError, match=r"cheap: DVC read raw\.txt otherwise than its record; `touch raw\.txt`"):
        synced()
    assert lock()["cheap"] == before["cheap"]
    raw.touch()
    synced()
    assert lock()["cheap"]["deps"]["raw.txt"] != before["cheap"]["deps"]["raw.txt"]
    assert clean()


def test_an_entry_that_was_committed_by_hand_is_mended(tree):
    """`dvc commit --force` on a stage that is not fresh claims what is not so."""
    synced()
    good = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(good.replace("seed: 0", "seed: 5"))
    assert not clean()
    synced()
    assert Path("dvc.lock").read_text() == good
    assert clean()


def edited(**changes):
    """dvc.yaml with parts of the stage `dear` changed."""
    content = yaml.safe_load(Path("dvc.yaml").read_text())
    content["stages"]["dear"] |= changes
    return yaml.safe_dump(content)


OUTDATED = {
    "a dependency too few": lambda: edited(deps=[]),
    "a dependency too many": lambda: edited(deps=["copy.txt", "code.py"]),
    "a parameter too few": lambda: edited(params=[{"workflow/versions.yaml": ["dear"]}]),
    "another command": lambda: edited(cmd="ssimbad stage dear --force"),
    "another output": lambda: edited(outs=["weights.txt"]),
    "a stage too few": lambda: "stages: {}\n",
    "nothing": lambda: "",
    "a conflict": lambda: "<<<<<<< ours\nstages: {}\n",
    "a key twice": lambda: Path("dvc.yaml").read_text().replace("metrics:", "plots: []\nmetrics:"),
    "no UTF-8": lambda: "\xff\xfe",
    "what is too deep": lambda: "- " * 50_000,
    "a value that is none": lambda: "stages: !!bool maybe",
}


@pytest.mark.parametrize("text", OUTDATED.values(), ids=OUTDATED)
def test_with_an_outdated_dvc_yaml_nothing_is_committed(text, monkeypatch, capsys):
    imported = []
    monkeypatch.setattr(sync, "import_spools", imported.append)
    good = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text(), encoding="latin-1")
    with pytest.raises(UserError, match="run `ssimbad dvc-yaml` and then this command again"):
        sync.run(parameters.load(), "FINISHED")
    assert imported == ["FINISHED"], "the logbook is brought up to date all the same"
    assert lock() == {}
    cli.status()
    assert "run `ssimbad dvc-yaml`" in capsys.readouterr().err
    monkeypatch.setenv("DVC_STAGE", "dear")
    with pytest.raises(UserError, match="run `ssimbad dvc-yaml`"):
        cli.stage("dear")
    Path("dvc.yaml").write_text("# of one's own\n" + good)
    cli.stage("dear")
    synced()
    cli.status()
    assert capsys.readouterr().err == ""


def test_without_a_dvc_yaml_that_is_said_as_well():
    Path("dvc.yaml").unlink()
    with pytest.raises(UserError, match="run `ssimbad dvc-yaml`"):
        synced()


def test_dvc_is_told_when_parameters_change_under_a_running_stage(tree, monkeypatch):
    """It reads them when the stage has ended, and would note the new ones beside the old result."""
    monkeypatch.setenv("DVC_STAGE", "dear")
    with_params(tree, "colorize.seed", 7)
    before = {k: dict(v) for k, v in tree.items() if isinstance(v, dict)}
    meddle["end"] = lambda: with_params(tree, "colorize.seed", 9)
    with pytest.raises(UserError, match=r"dear: params\.yaml changed while the stage ran; run `dvc repro` again"):
        cli.stage("dear")
    meddle.clear()
    assert Path("weights.txt").read_text() == "face7"
    with_params(before | {"preset": tree["preset"], "seeds": tree["seeds"]}, "colorize.seed", 7)
    assert records.survey(parameters.load())["dear"] is None, "the result itself is what its record says"
    meddle["end"] = lambda: with_params(tree, "evaluation.seed", 3)
    with_params(tree, "colorize.seed", 8)
    cli.stage("dear")  # another stage's parameter
    assert Path("weights.txt").read_text() == "face8"


def run_listing(params, inputs, outputs, job):
    artifacts.write_text(outputs["list"], "\n".join(sorted(map(str, inputs["raw"].rglob("*")))))


def test_dvc_looks_behind_linked_folders(tree, monkeypatch):
    for file in ("faces/a.png", "behind/b.png", "behind/deep/c.png", "aside/d.png"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    Path("faces/linked").symlink_to("../behind")
    Path("behind/further").symlink_to("../aside")
    listing = Stage(
        "list", "tests.test_sync:run_listing", lambda p, w: {"raw": "faces"}, lambda p, w: {"list": "list.txt"},
        lambda p, w: ("data.seed",),
    )  # fmt: skip
    monkeypatch.setattr(table, "STAGES", (listing,))
    monkeypatch.setattr(runner, "STAGES", (listing,))
    bring(tree)
    dvcfile.write(load(tree))
    synced()
    assert clean()
    for file in ("behind/b.png", "behind/deep/new.png", "aside/d.png"):
        Path(file).write_text("other")
        assert records.survey(load(tree)) == {"list": "input faces changed"}
        assert not clean(), file
        bring(tree)
        synced()
        assert clean()


def test_without_git_one_line_says_what_dvc_did_not_get(capsys):
    """A downloaded archive: DVC gets nothing, so what dvc.yaml says is nobody's business."""
    Path(".dvc/config").write_text("")
    Path("dvc.yaml").write_text("stages: {}\n")
    fresh = len([name for name, reason in records.survey(parameters.load()).items() if reason is None])
    assert fresh
    sync.run(parameters.load(), "FINISHED")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "DVC" in line]
    assert line.startswith(f"ssimbad: nothing told to DVC, which lacks {fresh} fresh stages (")
    assert "`git init`" in line
    assert not Path("dvc.lock").exists()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(UserError, match="run `ssimbad dvc-yaml`"):
        synced()
