"""`ssimbad init`: a folder for a study of one's own, outside of a checkout, from what the package carries.

A wheel holds Snakefile, workflow and presets beside the code (pyproject.toml); an editable package has them in its
checkout. They are copied, since a study's owner edits them. The code is not: `src/ssimbad` is a link to the package
that runs, so that records and dvc.yaml name its files as they do in a checkout.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from ssimbad import artifacts, extras
from ssimbad.errors import ParameterError, UserError
from ssimbad.params import overlay
from ssimbad.params import tree as parameters
from ssimbad.pipeline import code, dvcfile

CARRIED = (
    ".dvc/.gitignore", ".dvc/config", ".dvc/plots_page.html", ".dvcignore", ".gitignore", "Snakefile", "data/README.md",
    "presets", "profiles", "reports/README.md", "workflow",
)  # fmt: skip
"""What a study shares with a checkout, files and folders."""
FIRST = "demo"
"""The preset that is active at first."""
_PRIVATE = "# The package that runs, as this machine has it.\n/ssimbad\n"


def lay_out(folder: Path) -> str:
    """Write Snakefile, workflow, presets, params.yaml, dvc.yaml and what the engines need; git is left to the user.

    Args:
        folder: not there yet, or empty but for `.git`.

    Returns:
        what was written, and the next command.

    Raises:
        ParameterError: there is something at `folder`, it cannot be made, or Snakemake cannot work at such a place.
        UserError: the package carries no workflow.
    """
    parameters.require_plain(folder.absolute())
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        what = "a file" if folder.exists() else "a link that leads nowhere"
        raise ParameterError(f"{folder}: {what}; name a folder that is not there yet")
    there = sorted(path.name for path in folder.iterdir() if path.name != ".git") if folder.is_dir() else []
    if there:
        raise ParameterError(f"{folder}: not empty, it holds {there[0]}; name a folder that is empty or not there yet")
    if missing := [name for name in CARRIED if not (code.AROUND / name).exists()]:
        raise UserError(f"{code.AROUND / missing[0]}: missing; install ssimbad again, from its wheel")
    try:
        _make(folder)
    except OSError as error:
        raise ParameterError(f"{folder}: cannot be made ({error.strerror}); name another place") from None
    return _told(folder)


def _make(folder: Path) -> None:
    if folder.is_dir():  # it stays the same one: a shell may stand in it
        with artifacts.new_folder(folder / ".new") as made:
            _fill(made)
        for path in made.with_name(".new").iterdir():
            path.rename(folder / path.name)
        (folder / ".new").rmdir()
    else:
        with artifacts.new_folder(folder) as made:
            _fill(made)


def _fill(folder: Path) -> None:
    for name in CARRIED:
        source, target = code.AROUND / name, folder / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target)
    (folder / "slurm").symlink_to("profiles/slurm")
    (folder / "src").mkdir()
    (folder / code.LINK).symlink_to(code.PACKAGE)
    artifacts.write_text(folder / "src/.gitignore", _PRIVATE)
    text = overlay.whole(folder / f"presets/{FIRST}.yaml")
    artifacts.write_text(folder / "params.yaml", text)
    artifacts.write_text(folder / dvcfile.FILE, dvcfile.text(parameters.parse(text)))


def _told(folder: Path) -> str:
    names = ", ".join(sorted(path.name for path in folder.iterdir() if path.name not in (".git", "src")))
    before = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    before += [] if (folder / ".git").exists() else ["git init"]
    before += [] if extras.complete("pipeline") else ["pip install 'ssimbad[pipeline]'"]
    command = " && ".join([*before, "snakemake --cores all all"])
    return f"{folder}: {names}; src/ssimbad -> {code.PACKAGE}\nnext: {command}"
