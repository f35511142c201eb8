"""What is said of somebody else's exceptions."""

import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssimbad.errors import ParameterError, UserError, first_line, in_one_line, legible, shown, there

from .conftest import ROOT


@pytest.mark.parametrize(
    ("said", "line"), [("", "ValueError"), ("\n", "ValueError"), ("one\ntwo", "one"), ("\n one\ntwo", "one")]
)
def test_the_first_line_of_an_exception_that_may_say_nothing(said, line):
    assert first_line(ValueError(said)) == line


@given(st.text(st.characters(codec=None)) | st.binary().map(os.fsdecode))
def test_no_text_makes_a_terminal_do_anything_or_cannot_be_written(text):
    written = legible(text)
    written.encode()
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in written)
    assert not any(unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "FSI") for c in written)
    assert shown(text).split("\n") == [shown(text)] and "\t" not in shown(text)


@pytest.mark.parametrize("text", ["two\nlines\tand more", "日本語\u3000 1.png", "👩\u200d🎨", "a\u00a0b"])
def test_what_can_be_read_stays_as_it_is(text):
    assert legible(text) == text


@pytest.mark.parametrize("error", [UserError, ParameterError, lambda said: FileNotFoundError(2, "gone", said)])
def test_a_name_from_outside_is_written_out(capsys, error):
    with pytest.raises(SystemExit), in_one_line("x"):
        raise error("\x1b]0;title\x07\x1b[31ma\udcff.png\u202e")
    assert "\\x1b]0;title\\x07\\x1b[31ma\\udcff.png\\u202e" in capsys.readouterr().err


@pytest.mark.parametrize("thing", [0, "", [], False])
def test_what_is_sure_to_be_there_is_handed_on_whatever_it_is(thing):
    assert there(thing) is thing


def test_what_is_not_there_after_all_is_a_mistake_in_the_program():
    with pytest.raises(ValueError, match="None"):
        there(None)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (UserError("a.png: damaged; send it again", 3), "x: a.png: damaged; send it again", 3),
        (ParameterError("size: 0"), "x: size: 0", 2),
        (FileNotFoundError(2, "No such file or directory", "gone.csv"), "x: gone.csv: No such file or directory", 1),
        (OSError("nobody knows"), "x: a file: nobody knows", 1),
        (OSError(5, "two\nlines", "a\nx: all is well"), "x: a x: all is well: two lines", 1),
        (OSError(5, "gone", "https://me:secret@host/x"), "x: https://***@host/x: gone", 1),
        (BrokenPipeError(), "", 1),
    ],
)
def test_what_the_user_can_mend_ends_a_program_in_a_line(capsys, error, said, code):
    with pytest.raises(SystemExit) as ended, in_one_line("x"):
        raise error
    assert (ended.value.code, capsys.readouterr().err.strip()) == (code, said)


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), in_one_line("x"):
        raise ZeroDivisionError


WANTING = {
    name: () for name in ("free_rows", "frontier", "irises", "jobs", "learning", "mean_colour", "shares", "steps")
}
WANTING |= {
    "samplers": ("gone.safetensors",),
    **{name: ("--weights", "gone.safetensors") for name in ("own_size", "styles")},
}
"""Benchmarks that want a run, or weights, and what they are given."""


def test_benchmarks_without_a_run_say_so_in_a_line(tmp_path):
    def ended(name: str) -> tuple[int, str]:
        command = [sys.executable, ROOT / f"benchmarks/{name}.py", *WANTING[name]]
        env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        for name, (code, said) in zip(WANTING, pool.map(ended, WANTING), strict=True):
            assert code in (1, 2) and said.count("\n") == 1 and said.startswith(f"{name}.py: "), said
    assert not list(tmp_path.iterdir())
