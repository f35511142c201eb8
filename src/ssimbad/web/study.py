"""A user study: which of several answers is best, blind and in random order, and what the votes say.

Its file (YAML) names sets of pictures, each answered by the same rows:

    per_rater: 10
    sets:
      - name: face-1
        sketch: sketches/1.png
        reference: references/1.png
        answers: {ssimbad: ours/1.png, scft: theirs/1.png}
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError
from scipy import stats

from ssimbad import artifacts, strict_yaml
from ssimbad.errors import ParameterError, UserError, shown
from ssimbad.params.base import Positive, Strict
from ssimbad.seeding import derive

QUESTIONS = {
    "colour": "In which picture is the quality of the colours best?",
    "geometry": "Which picture keeps the shapes of the sketch best?",
}
_COLUMNS = ("rater", "set", "question", "row", "order")
_HEADING = f"{','.join(_COLUMNS)}\n".encode()
PATIENCE = 10.0  # seconds for another page to write its vote
_RATER = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,1000}")  # what a line of votes and a request can hold


class _Set(Strict):
    name: str
    sketch: str
    reference: str
    answers: Annotated[dict[str, str], Field(min_length=2, max_length=100)]


class _File(Strict):
    per_rater: Positive = 10
    sets: Annotated[list[_Set], Field(min_length=1)]


class Study:
    """What raters are shown, and their votes, each written as it is given."""

    def __init__(self, path: Path, votes: Path) -> None:
        """Raises UserError: the file or a picture that it names is missing, it is no study, or the votes are none."""
        try:
            self._file = _File.model_validate(strict_yaml.parse(strict_yaml.read(path), str(path)))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except ValidationError as error:
            first = error.errors()[0]
            where, why = ".".join(map(str, first["loc"])), first["msg"].partition(" or instance of ")[0]
            raise UserError(f"{path}: {where or 'the file'}: {why}") from None
        self._sets = {one.name: one for one in self._file.sets}
        self.rows = sorted(self._file.sets[0].answers)
        if len(self._sets) < len(self._file.sets):
            raise UserError(f"{path}: two sets of one name; give each its own")
        for one in self._file.sets:
            for name in (one.name, *one.answers):
                if not _NAME.fullmatch(name):
                    raise UserError(f"{path}: {name!r:.60}: names of sets and rows are one line of 1 to 1000 letters")
            if sorted(one.answers) != self.rows:
                raise UserError(f"{path}: {one.name} is not answered by {', '.join(self.rows)}; all sets must be")
            for name in (one.sketch, one.reference, *one.answers.values()):
                _require_picture(path, name)
        self._folder, self._votes = path.parent, votes
        self._told = 0  # lines that count for nothing
        self.votes()

    def _chosen(self, rater: str) -> list[str]:
        """The sets of a rater, in an order of their own."""
        if not _RATER.fullmatch(rater):
            raise ParameterError("rater: letters, digits and hyphens are expected; reload the page")
        order = np.random.default_rng(derive(0, "study", rater)).permutation(len(self._file.sets))
        return [self._file.sets[i].name for i in order[: self._file.per_rater]]

    def _order(self, rater: str, name: str) -> list[str]:
        """The rows of a set, as this rater sees them."""
        if name not in self._chosen(rater):
            raise ParameterError(f"set {name}: not shown to this rater; reload the page")
        return list(np.random.default_rng(derive(0, "study", rater, name)).permutation(self.rows))

    def shown(self, rater: str) -> dict[str, Any]:
        """The sets of a rater, without a word about which row is which, and what they have already answered."""
        done = {(vote["set"], vote["question"]) for vote in self.votes() if vote["rater"] == rater}
        sets = [
            {"name": name, "places": len(self.rows), "done": [q for q in QUESTIONS if (name, q) in done]}
            for name in self._chosen(rater)
        ]
        return {"questions": QUESTIONS, "sets": sets}

    def picture(self, rater: str, name: str, place: str) -> bytes:
        """The file of `sketch`, `reference` or an answer by its place, 0 for the first that this rater sees.

        Raises:
            UserError: there is none such, or it cannot be read any more.
        """
        order, one = self._order(rater, name), self._sets[name]
        files = {"sketch": one.sketch, "reference": one.reference} | {
            str(i): one.answers[row] for i, row in enumerate(order)
        }
        if place not in files:
            raise ParameterError(f"place {place}: there is no such picture")
        try:
            return (self._folder / files[place]).read_bytes()
        except OSError as error:
            raise UserError(f"{name}: a picture cannot be read any more ({error.strerror})") from None

    def vote(self, rater: str, name: str, question: str, place: str) -> None:
        """Write down one answer: when this returns it is in the file, once, whoever else votes into it.

        Raises:
            ParameterError: to no such question, or a second time.
            UserError: the file is none of votes, or cannot be written; it is as it was.
        """
        order = self._order(rater, name)
        if question not in QUESTIONS or place not in map(str, range(len(order))):
            raise ParameterError(f"vote {question} {place}: no such question or picture; reload the page")
        try:
            artifacts.make_folder(self._votes.parent)
            # Another page, in another process, may have the same file.
            with FileLock(self._votes.with_name(f".{self._votes.name}.lock"), timeout=PATIENCE):
                if any((v["rater"], v["set"], v["question"]) == (rater, name, question) for v in self.votes()):
                    raise ParameterError(f"{name}: you have answered this question; go on to the next")
                self._add([rater, name, question, order[int(place)], " ".join(order)])
        except Timeout:
            raise UserError(f"{self._votes}: another page holds it and does not let go; vote again later") from None
        except OSError as error:
            raise UserError(f"{self._votes}: cannot be written ({error.strerror}); this vote is not counted") from None

    def _add(self, row: list[str]) -> None:
        """Append a line, or leave the file as it was."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        with self._votes.open("a+b", buffering=0) as file:
            file.seek(0)
            left = _rest(there := file.read()) + text.getvalue().encode()
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
                if not there:
                    artifacts.sync_names(self._votes.parent)
            except OSError:
                file.truncate(len(there))
                raise

    def votes(self) -> list[dict[str, str]]:
        """All votes by their columns, in the order of the file; none where there is none yet.

        Each line is read by itself, so that one that is torn or damaged takes no other with it. It counts for nothing,
        as does one whose set, question or row this study does not have; that is told where the page was started.

        Raises:
            UserError: the file cannot be read, or is not one of votes.
        """
        there = self._bytes()
        if _HEADING.startswith(there):  # its writer was killed, or there is none
            return []
        first, *lines = there.decode("utf-8", "replace").split("\n")
        if _fields(first) != list(_COLUMNS):
            raise UserError(f"{self._votes}: not a file of votes; move it away")
        found, wrong = [], []
        for number, line in enumerate(lines, 2):
            if fields := _fields(line):
                vote = dict(zip(_COLUMNS, fields, strict=False))
                known = vote.get("set") in self._sets and vote.get("row") in self.rows
                if known and vote["question"] in QUESTIONS and len(fields) == len(_COLUMNS):
                    found.append(vote)
                else:
                    wrong.append(number)
        self._tell(wrong)
        return found

    def _bytes(self) -> bytes:
        """Of the file of votes. Raises UserError: it cannot be read."""
        try:
            if self._votes.exists() and not self._votes.is_file():  # a pipe would be waited for
                raise UserError(f"{self._votes}: no file; move it away, or name another with --votes")
            return self._votes.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            where = f"{self._votes!s:.200}: cannot be read ({error.strerror})"
            raise UserError(f"{where}; mend that, or name another with --votes") from None

    def _tell(self, wrong: list[int]) -> None:
        """Of lines that count for nothing; again when they are twice as many, since this is read with every vote."""
        if wrong and len(wrong) >= 2 * self._told:
            self._told = len(wrong)
            many = f"line {wrong[0]} counts" if len(wrong) == 1 else f"{len(wrong)} lines, first {wrong[0]}, count"
            why = "torn, or of a set, question or row that the study does not have"
            print(f"ssimbad: {shown(self._votes)}: {many} for nothing: {why}", file=sys.stderr, flush=True)

    def preferences(self) -> list[Preference]:
        """Per question: how often each row was chosen, with Wilson's interval, and the test of all being equal."""
        return preferences(self.votes(), self.rows)


def _require_picture(study: Path, name: str) -> None:
    """Raises UserError: the file of a study names a picture that is not there."""
    try:
        if (study.parent / name).is_file():
            return
        why = "no such picture"
    except OSError as error:
        why = f"no picture can have this name ({error.strerror})"
    raise UserError(f"{study.parent / name!s:.200}: {why}; {study.name} names it")


def _fields(line: str) -> list[str]:
    """Of one line, none of an empty one. A quote that is left open ends with it."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return [line]


def _rest(there: bytes) -> bytes:
    """What is to be written before another line, where an editor or a kill has left less than whole lines.

    A quote is closed: we end it with the line, but other readers of such tables would go on to the next one.
    """
    if _HEADING.startswith(there):
        return _HEADING[len(there) :]
    last = there[there.rfind(b"\n") + 1 :]
    return b'"' * (last.count(b'"') % 2) + b"\n" if last else b""


class Chosen(TypedDict):
    """How often a row was, and the ends of the interval of its share."""

    row: str
    chosen: int
    share: float
    low: float
    high: float


class Preference(TypedDict):
    """What the votes on a question say."""

    question: str
    votes: int
    raters: int
    p: float
    rows: list[Chosen]


def preferences(votes: list[dict[str, str]], rows: list[str]) -> list[Preference]:
    """Of each question: {question, votes, raters, p, rows: [{row, chosen, share, low, high}]}.

    Intervals: Wilson 1927, 95 %. p: chi-squared, of all rows being chosen equally often. Both take votes for
    independent, which those of one rater are not quite: with few raters they say too much.
    """
    found: list[Preference] = []
    for key, question in QUESTIONS.items():
        mine = [vote for vote in votes if vote["question"] == key and vote["row"] in rows]
        if not mine:
            continue
        counts = Counter(vote["row"] for vote in mine)
        shares: list[Chosen] = []
        for row in rows:
            near = stats.binomtest(counts[row], len(mine)).proportion_ci(method="wilson")
            shares.append(
                {
                    "row": row,
                    "chosen": counts[row],
                    "share": counts[row] / len(mine),
                    "low": near.low,
                    "high": near.high,
                }
            )
        p = float(stats.chisquare([counts[row] for row in rows]).pvalue)
        raters = len({vote["rater"] for vote in mine})
        found.append({"question": question, "votes": len(mine), "raters": raters, "p": p, "rows": shares})
    return found
