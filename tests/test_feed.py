"""Feeding: order, noise and warps come from the seed and the images seen, whoever takes which share."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssimbad.methods.contract import Batch
from ssimbad.training import feed as feeding
from ssimbad.training.feed import BatchRng, Feed, Shard

from .small import CPU, WARP, feed


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


@pytest.mark.parametrize("size", [16, 32])
def test_a_share_of_the_references_shows_companions(size):
    """Here a face's companion is its negative."""
    faces = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    def given(shard: Shard | None = None, images: np.ndarray = faces, **others: Any) -> Batch:
        return Feed(images, faces[..., 0], size, WARP, 5, CPU, True, **others).batch(8, 12, shard or Shard())

    plain, negative = given(), given(images=255 - faces)
    mixed = given(companions=255 - faces, share=0.5)
    own = torch.tensor([torch.equal(a, b) for a, b in zip(plain.reference, mixed.reference, strict=True)])
    assert 0 < own.sum() < 12
    assert torch.equal(mixed.reference[~own], negative.reference[~own])
    assert torch.equal(plain.target, mixed.target) and torch.equal(plain.sketch, mixed.sketch)
    assert mixed.warp is None and plain.warp is not None
    halves = [given(Shard(i, 2), companions=255 - faces, share=0.5).reference for i in range(2)]
    assert torch.equal(torch.cat(halves), mixed.reference)
    for share, shown in ((0.0, plain), (1.0, negative)):
        assert torch.equal(given(companions=255 - faces, share=share).reference, shown.reference)


def test_batches_come_from_images_seen_alone():
    one, two = feed(), feed()
    one.batch(0, 8, Shard())
    a, b = one.batch(24, 8, Shard()), two.batch(24, 8, Shard())
    assert torch.equal(a.reference, b.reference)
    assert a.target.shape == (8, 3, 16, 16)
    assert a.sketch.shape == (8, 1, 16, 16)
    assert not torch.equal(a.reference, one.batch(44, 8, Shard()).reference)


def test_sketches_of_several_styles_are_drawn_from_images_seen_alone():
    faces = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    several = np.stack([faces[..., 0], 255 - faces[..., 0], faces[..., 1]], axis=1)

    def styled(kept: slice) -> Feed:
        return Feed(faces, several[:, kept], 16, WARP, 5, CPU, True)

    whole = styled(slice(None))
    batch, one = whole.batch(24, 8, Shard()), [styled(slice(k, k + 1)).batch(24, 8, Shard()) for k in range(3)]
    shown = [[k for k in range(3) if torch.equal(batch.sketch[i], one[k].sketch[i])] for i in range(8)]
    assert all(len(found) == 1 for found in shown) and {found[0] for found in shown} == {0, 1, 2}
    assert torch.equal(one[0].sketch, feed().batch(24, 8, Shard()).sketch)  # of one style nothing is drawn
    parts = [styled(slice(None)).batch(24, 8, Shard(rank, 2)).sketch for rank in (0, 1)]
    assert torch.equal(batch.sketch, torch.cat(parts))
    again = torch.cat([whole.batch(24 + 8 * k, 8, Shard()).sketch for k in (1, 0)])
    assert torch.equal(again[8:], batch.sketch) and not torch.equal(again[:8], batch.sketch)


def test_shards_are_the_rows_of_the_global_batch():
    whole = feed().batch(8, 8, Shard())
    parts = [feed().batch(8, 8, Shard(rank, 2)) for rank in (0, 1)]
    for name in ("target", "sketch", "reference"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))
    whole_noise = BatchRng(1, 8, Shard(), CPU).normal(3, 4, 4)
    assert torch.equal(whole_noise[4:], BatchRng(1, 8, Shard(1, 2), CPU).normal(3, 4, 4))


def test_a_feed_that_runs_ahead_gives_the_same_batches_from_another_thread(monkeypatch):
    made = []

    def noted(self, seen, size, shard):
        made.append((seen, threading.current_thread()))
        return batch(self, seen, size, shard)

    batch = Feed.batch
    expected = [feed().batch(seen, 8, shard).reference for seen in (8, 16, 24) for shard in (Shard(0, 2), Shard(1, 2))]
    monkeypatch.setattr(Feed, "batch", noted)
    with feeding.ahead(feed(), 32, True) as source:
        found = [source.batch(seen, 8, Shard(i, 2)).reference for seen in (8, 16, 24) for i in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert threading.current_thread() not in {thread for _, thread in made}
    assert sorted(seen for seen, _ in made) == [8, 8, 16, 16, 24, 24], "each once, and nothing beyond the last image"


def test_all_players_are_given_one_batch(monkeypatch):
    made = []
    batch = Feed.batch
    monkeypatch.setattr(Feed, "batch", lambda self, seen, *rest: (made.append(seen), batch(self, seen, *rest))[1])
    with feeding.ahead(feed(), 32, True) as source:
        for seen in (0, 8, 16, 24):
            assert source.batch(seen, 8, Shard()) is source.batch(seen, 8, Shard())
    assert made == [0, 8, 16, 24]


def test_what_goes_wrong_ahead_is_told_where_the_batch_is_asked_for(monkeypatch):
    def torn(self, seen, size, shard):
        if seen == 8:
            raise ValueError("the file of faces was cut off")

    monkeypatch.setattr(Feed, "batch", torn)
    with feeding.ahead(feed(), 64, True) as source:
        source.batch(0, 8, Shard())
        with pytest.raises(ValueError, match="cut off"):
            source.batch(8, 8, Shard())
