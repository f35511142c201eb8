"""The pool: results in order, one core per worker."""

from __future__ import annotations

import time

import pytest
import torch

from ssimbad.errors import UserError
from ssimbad.runtime import pool


def test_results_come_in_the_order_of_the_items():
    def work(worker, item):
        time.sleep(0.01 * (item % 3))
        return worker, item

    done = list(pool.ordered_map(work, range(20), ["a", "b", "c"]))
    assert [item for _, item in done] == list(range(20))
    assert {worker for worker, _ in done} == {"a", "b", "c"}
    assert list(pool.ordered_map(work, range(3), ["a"])) == [("a", 0), ("a", 1), ("a", 2)]

    def broken(worker, item):
        raise UserError(f"item {item}")

    with pytest.raises(UserError, match="item 0"):
        list(pool.ordered_map(broken, range(5), ["a", "b"]))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_worker_computes_with_one_core(workers):
    """And the caller as before, also when it stops in the middle."""
    torch.set_num_threads(3)
    try:
        mapped = pool.ordered_map(lambda worker, item: torch.get_num_threads(), range(20), range(workers))
        assert [next(mapped) for _ in range(7)] == [1] * 7
        mapped.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
