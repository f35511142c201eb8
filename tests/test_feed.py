"""Feeding: order, noise and warps come from the seed and the images seen, whoever takes which share."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ssimbad.training import feed as feeding
from ssimbad.training.feed import BatchRng, Shard

from .small import CPU, feed


def test_an_epoch_shows_every_image_once_and_the_next_another_order():
    data = feed()
    first, second = data.order(0, 20), data.order(20, 20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert data.order(13, 10).tolist() == [*first[13:], *second[:3]]


def test_threads_on_both_sides_of_an_epochs_end_get_each_its_own_order():
    """Between any two lines that one thread runs of the feed, another asks for another epoch."""
    expected = [feed().order(first, 4).tolist() for first in (2, 18, 38)]
    data, found, interruptions = feed(), [], []

    def elsewhere():
        with ThreadPoolExecutor(1) as other:
            other.submit(data.order, 58, 4).result()
        interruptions.append(1)

    def watch(frame, event, argument):
        if Path(frame.f_code.co_filename) != Path(feeding.__file__):
            return None
        if event == "line":
            elsewhere()
        return watch

    def interrupted():
        sys.settrace(watch)
        found.extend(data.order(first, 4).tolist() for first in (2, 18, 38))

    thread = threading.Thread(target=interrupted)
    thread.start()
    thread.join()
    assert interruptions
    assert found == expected


def test_batches_come_from_images_seen_alone():
    one, two = feed(), feed()
    one.batch(0, 8, Shard())
    a, b = one.batch(24, 8, Shard()), two.batch(24, 8, Shard())
    assert torch.equal(a.reference, b.reference)
    assert a.target.shape == (8, 3, 16, 16)
    assert a.sketch.shape == (8, 1, 16, 16)
    assert not torch.equal(a.reference, one.batch(44, 8, Shard()).reference)


def test_shards_are_the_rows_of_the_global_batch():
    whole = feed().batch(8, 8, Shard())
    parts = [feed().batch(8, 8, Shard(rank, 2)) for rank in (0, 1)]
    for name in ("target", "sketch", "reference"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))
    whole_noise = BatchRng(1, 8, Shard(), CPU).normal(3, 4, 4)
    assert torch.equal(whole_noise[4:], BatchRng(1, 8, Shard(1, 2), CPU).normal(3, 4, 4))
