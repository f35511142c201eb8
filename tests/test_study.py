"""A study's file, its votes, and what they say: none is lost, given twice, or taken for what it is not."""

from __future__ import annotations

import csv
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ssimbad.errors import ParameterError, UserError
from ssimbad.web import study as study_module
from ssimbad.web.study import Study, preferences


def test_preferences_have_wilsons_interval_and_a_test():
    votes = [{"rater": f"{i}", "question": "colour", "row": "a" if i < 30 else "b"} for i in range(40)]
    (found,) = preferences(votes, ["a", "b"])
    a = found["rows"][0]
    assert (a["chosen"], a["share"]) == (30, 0.75)
    assert a["low"] == pytest.approx(0.5981, abs=1e-4) and a["high"] == pytest.approx(0.8581, abs=1e-4)
    assert found["p"] == pytest.approx(0.001565, abs=1e-6)  # chi-squared 10 of one degree of freedom


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree["sets"][1]["answers"].pop("ours"), "sets.1.answers"),
        (lambda tree: tree["sets"][1]["answers"].update(more="ours-1.png"), "s1 is not answered by ours, theirs"),
        (lambda tree: tree["sets"][2].update(sketch="gone.png"), "gone.png: no such picture"),
        (lambda tree: tree["sets"][2].update(name="s0"), "two sets of one name"),
        (lambda tree: tree.update(sets=[]), "sets: "),
        (dict.clear, "sets: Field required"),
        (lambda tree: tree["sets"][2].update(sketch="x" * 5000), r"xxx: .*\(File name too long\); study.yaml names it"),
        (lambda tree: tree["sets"][2].update(sketch="\0"), "no such picture"),
        (lambda tree: tree["sets"][0].update(name="a\nb"), r"'a\\nb': names of sets and rows"),
        (lambda tree: tree["sets"][0].update(name="x" * 1001), "one line of 1 to 1000"),
        (lambda tree: tree["sets"][0]["answers"].update({"a\u2028b": "ours-0.png"}), "one line"),
        (lambda tree: tree["sets"][0]["answers"].update({"": "ours-0.png"}), "one line"),
        (lambda tree: tree["sets"][0]["answers"].update({f"{i}": "ours-0.png" for i in range(100)}), "at most 100"),
    ],
)
def test_a_study_that_cannot_be_used_says_why(study, tmp_path, change, said):
    tree = yaml.safe_load(study.read_text())
    change(tree)
    study.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=said):
        Study(study, tmp_path / "votes.csv")


def test_a_file_of_others_is_never_voted_into(study, tmp_path):
    mine = tmp_path / "votes.csv"
    mine.write_text("my,own\n1,2\n")
    with pytest.raises(UserError, match="not a file of votes"):
        rating = Study(study, mine)
        rating.vote("r", rating.shown("r")["sets"][0]["name"], "colour", "0")
    assert mine.read_text() == "my,own\n1,2\n"


NAMES = ["ours, 2 steps", 'the "best"', "größer", "ours"]


@pytest.fixture
def rating(study, tmp_path):
    """Called: the study, opened anew, of rows whose names a table has to quote."""
    tree = yaml.safe_load(study.read_text())
    for i, one in enumerate(tree["sets"]):
        one.update(name=f's{i}, "{i}"', answers={name: f"ours-{i}.png" for name in NAMES})
    study.write_text(yaml.safe_dump(tree | {"per_rater": 1}))
    return lambda: Study(study, tmp_path / "votes.csv")


def vote_all(rating: Study, rater: str) -> list[tuple[str, str, str]]:
    """Votes on everything that is open, and once more; returns what was taken."""
    shown = rating.shown(rater)["sets"]
    asked = [(rater, one["name"], key) for one in shown for key in study_module.QUESTIONS if key not in one["done"]]
    for vote in asked:
        rating.vote(*vote, "1")
        with pytest.raises(ParameterError, match="you have answered"):
            rating.vote(*vote, "0")
    return asked


def require_kept(rating: Study, file: Path, taken: list[tuple[str, str, str]]) -> None:
    """Each of these is there once, for us and for whoever reads the file as any table."""
    kept = [(vote["rater"], vote["set"], vote["question"]) for vote in rating.votes()]
    assert set(taken) <= set(kept) and len(set(kept)) == len(kept)
    with file.open(newline="", errors="replace") as opened:
        assert set(taken) <= {(vote["rater"], vote["set"], vote["question"]) for vote in csv.DictReader(opened)}


def test_of_votes_that_break_off_anywhere_none_is_lost_and_none_given_twice(rating, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # thousands of times
    file = tmp_path / "votes.csv"
    taken = vote_all(rating(), "r1")
    whole = file.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]  # a line is whole without its own
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        again = rating()
        before = [vote for vote, end in zip(taken, ends[1:], strict=True) if end <= cut]
        after = vote_all(again, "r2") + vote_all(again, "r1")
        assert len(after) + len(before) in (4, 3), cut  # a line that lacks some of `order` is a vote
        require_kept(again, file, before + after)
        require_kept(rating(), file, before + after)
        assert file.read_bytes().startswith(whole[:cut])


@pytest.mark.parametrize(
    "line",
    ["r1,s0,colour,ou", '"r1,s0,colour,ours,x', "r1,s0,shape,ours,x", "r1,s9,colour,ours,x", "r1,s0,colour,ours,x,y",
     "\xff\0", 'r1,s0,colour,"ours\nr1,s0,colour', "a\rb", f"r1,{'x' * 200_000}"],
)  # fmt: skip
def test_a_line_that_is_no_vote_counts_for_nothing_and_is_told(study, tmp_path, capsys, line):
    file = tmp_path / "votes.csv"
    file.write_text(f"rater,set,question,row,order\n{line}\n", encoding="latin-1")
    rating = Study(study, file)
    assert f"{file}: " in (told := capsys.readouterr().err) and "for nothing: torn" in told and told.count("\n") == 1
    assert rating.votes() == rating.preferences() == []
    taken = vote_all(rating, "r1") + vote_all(rating, "r2")
    assert len(taken) == 8 == len(rating.votes()) and capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["x" * 5000, "study.yaml/votes.csv", "", "."])
def test_names_of_votes_that_cannot_be_end_in_one_line(study, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no file|cannot be read"):
        Study(study, Path(name))


def test_two_pages_vote_into_one_file_at_once(study, tmp_path, monkeypatch):
    """Studies of their own, as of several servers: each question is answered once, and what was taken is there."""
    votes, ready, read = tmp_path / "reports/votes.csv", threading.Barrier(4), Study.votes

    def slowly(self):
        found = read(self)
        time.sleep(0.005)  # in which another could vote
        return found

    monkeypatch.setattr(Study, "votes", slowly)

    def vote(number):
        rating, taken = Study(study, votes), 0
        ready.wait()
        for rater in [f"r{i}" for i in range(10)]:
            for one in rating.shown(rater)["sets"]:
                with suppress(UserError):
                    rating.vote(rater, one["name"], "colour", str(number % 2))
                    taken += 1
        return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(vote, range(4))) == 20
    with votes.open() as file:
        assert len({(vote["rater"], vote["set"]) for vote in csv.DictReader(file)}) == 20
    assert votes.read_text().count("rater,") == 1 and len(votes.read_text().splitlines()) == 21


def test_a_vote_is_on_the_disk_and_so_is_the_name_of_a_new_file(study, tmp_path, synced):
    rating, votes = Study(study, tmp_path / "new/votes.csv"), tmp_path / "new/votes.csv"
    first, second = (one["name"] for one in rating.shown("r")["sets"])
    rating.vote("r", first, "colour", "0")
    assert synced == [tmp_path, votes, tmp_path / "new"]
    rating.vote("r", second, "colour", "0")
    assert synced[3:] == [votes]


def test_a_vote_that_cannot_be_written_is_told_and_not_counted(study, tmp_path, monkeypatch):
    rating, votes = Study(study, tmp_path / "votes.csv"), tmp_path / "votes.csv"
    first, second = (one["name"] for one in rating.shown("r")["sets"])
    rating.vote("r", first, "colour", "0")
    before = votes.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"votes.csv: cannot be written \(No space left on device\)"):
            rating.vote("r", second, "colour", "0")
    assert votes.read_bytes() == before
    votes.write_bytes(before.rstrip(b"\n"))  # as an editor leaves it
    rating.vote("r", second, "colour", "0")
    assert votes.read_bytes().startswith(before) and len(votes.read_text().splitlines()) == 3
    (tmp_path / "sketch-0.png").unlink()
    with pytest.raises(UserError, match="s0: a picture cannot be read any more"):
        for rater in "abcdef":
            with suppress(ParameterError):
                rating.picture(rater, "s0", "sketch")
