"""Many spools are imported while somebody browses."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from ssimbad.tracking import spool, store

from .conftest import CAMPAIGN, MIB

SPOOLS = [8, pytest.param(int(os.environ.get("LOAD_SPOOLS", "10000")), marks=CAMPAIGN)]


def write_spools(count: int) -> dict[str, int]:
    """{name: events} of so many runs, twenty to a pipeline execution, as stages of another machine write them."""
    spool.ROOT.mkdir(parents=True)
    where, made = {"host": "elsewhere", "pid": 1, "started": 1.0}, {}
    for i in range(count):
        tags = {"pipeline_id": f"snakemake-1-{i // 20 + 1}", "stage": "evaluate"}
        inputs = {f"data/{k}.npy": "0" * 32 for k in range(3)}
        begin = {"name": f"evaluate-{i}", "tags": tags, "params": {f"p{k}": k for k in range(8)}, "inputs": inputs}
        events = [{"event": "start", "time": 1, "where": where, **begin}]
        events += [{"event": "metrics", "time": 2 + s, "step": s, "values": {"loss": 1 / (s + 1)}} for s in range(5)]
        events += [{"event": "end", "time": 10, "status": "FINISHED"}]
        text = "".join(f"{json.dumps(event)}\n" for event in events)
        (spool.ROOT / f"evaluate-{i}.jsonl").write_text(text)
        made[f"evaluate-{i}"] = len(events)
    return made


@pytest.mark.parametrize("count", SPOOLS)
def test_many_spools_are_imported_while_somebody_browses(logbook, count):
    wanted, seen, done = write_spools(count), [], threading.Event()
    before = psutil.Process().memory_info().rss

    def browse() -> None:
        opened = store.Store()
        while not done.is_set():
            found = opened.client.search_runs([opened.experiment], "tags.stage = 'evaluate'", max_results=100)
            for run in found[:5]:
                opened.client.get_metric_history(run.info.run_id, "loss")
            seen.append(len(found))
            done.wait(0.05)

    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(browse)
        begin = time.monotonic()
        try:
            assert store.import_all() == count
        finally:
            done.set()
        reading.result()
    took, more = time.monotonic() - begin, psutil.Process().memory_info().rss - before
    require_imported(wanted)
    assert len(seen) > 1 and seen == sorted(seen) and more < 500 * MIB
    assert store.import_all() == 0
    require_imported(wanted)
    print(f"{count} spools in {took:.0f} s, read {len(seen)} times meanwhile, {more / MIB:.0f} MiB more")


def require_imported(wanted: dict[str, int]) -> None:
    """All runs are there once, whole and ended, and so are their executions; no spool waits."""
    opened, found, token = store.Store(), {}, None
    while token != "":
        page = opened.client.search_runs([opened.experiment], max_results=1000, page_token=token)
        for run in page:
            assert run.info.run_name not in found and run.info.status == "FINISHED"
            found[run.info.run_name] = run
        token = page.token or ""
    children = {name: int(run.data.tags["events"]) for name, run in found.items() if "spool_id" in run.data.tags}
    assert children == wanted and len(found) == len(wanted) + -(-len(wanted) // 20)
    sample = random.Random(0).sample(sorted(children), min(20, len(children)))
    for name in sample:
        history = opened.client.get_metric_history(found[name].info.run_id, "loss")
        assert [point.step for point in history] == list(range(5)) and len(found[name].data.params) == 8
    assert not list(spool.ROOT.glob("*.jsonl")) and len(list(spool.ROOT.glob("imported/*.jsonl"))) == len(wanted)
