"""Many rate at once, in two browsers and on two pages: what was answered as taken is in the file, once."""

from __future__ import annotations

import csv
import http.client
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import PEOPLE, Page, at_once, require_sentence, start, tell


def voted(file: Path) -> list[tuple[str, str, str]]:
    with file.open() as opened:
        return [(vote["rater"], vote["set"], vote["question"]) for vote in csv.DictReader(opened)]


def vote_all(page: Page, rater: str, seed: int = 0) -> list[tuple[str, str, str]]:
    """Every question of every set in an order of its own; returns those that were taken."""
    shown = page.ask(f"/api/study?rater={rater}").said
    asked = [(rater, one["name"], question) for one in shown["sets"] for question in shown["questions"]]
    random.Random(seed).shuffle(asked)
    taken = []
    for name, one, question in asked:
        sent = {"rater": name, "set": one, "question": question, "place": "0"}
        reply = page.ask("/api/study/vote", sent)
        if reply.status == 200:
            taken.append((name, one, question))
        else:
            assert "answered" in require_sentence(reply, 400)
    return taken


@pytest.mark.parametrize("people", PEOPLE)
def test_two_browsers_of_each_rater_vote_at_once_and_no_vote_is_lost(page, people):
    before = set(voted(page.folder / "votes.csv")) if (page.folder / "votes.csv").exists() else set()
    taken = at_once(2 * people, lambda number: vote_all(page, f"at-once-{people}-{number // 2}", number))
    votes = [vote for some in taken for vote in some]
    kept = [vote for vote in voted(page.folder / "votes.csv") if vote not in before]
    assert sorted(kept) == sorted(votes) and len(votes) == people * 6 * 2 == len(set(votes))
    tell(f"{people} raters in two browsers each: {len(votes)} votes", page)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(3))
def test_votes_that_were_taken_outlive_two_pages_that_are_killed(tmp_path, number):
    """Two servers of one file of votes; both are killed while people vote."""
    votes = tmp_path / "votes.csv"
    pages = [start(tmp_path / name, str(votes)) for name in ("one", "two")]
    taken: list[tuple[str, str, str]] = []

    def rate(rater: int) -> None:
        for turn in range(200):
            name = f"r{rater // 2}-{turn}"
            sent = {"rater": name, "set": f"s{turn % 6}", "question": "colour", "place": "0"}
            try:
                if pages[rater % 2].ask("/api/study/vote", sent).status == 200:
                    taken.append((name, f"s{turn % 6}", "colour"))
            except (OSError, http.client.HTTPException):
                return

    try:
        with ThreadPoolExecutor(8) as people:
            all_of_them = [people.submit(rate, rater) for rater in range(8)]
            while len(taken) < 40 + 60 * number:
                time.sleep(0.01)
            for page in pages:
                page.process.send_signal(signal.SIGKILL)
            for one in all_of_them:
                one.result()
    finally:
        for page in pages:
            page.end()
    kept = voted(votes)
    assert set(taken) <= set(kept) and len(kept) == len(set(kept)) == len(taken) + len(set(kept) - set(taken))
    print(f"{len(taken)} votes answered as taken, {len(kept)} in the file")
