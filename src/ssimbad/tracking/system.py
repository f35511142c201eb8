"""System metrics of a running stage, under the names that MLflow gives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from ssimbad.tracking.spool import Spool

INTERVAL = 10.0
_MIB = 1 << 20


@contextmanager
def sampled(spool: Spool, interval: float = INTERVAL) -> Iterator[None]:
    """Sample CPU, memory and, where NVIDIA's driver answers, GPUs every `interval` seconds until the block ends."""
    done = threading.Event()

    def work() -> None:
        process, step = psutil.Process(), 0
        while not done.wait(interval):
            spool.metrics(step, {f"system/{k}": v for k, v in {**_machine(process), **_gpus()}.items()})
            step += 1

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _machine(process: psutil.Process) -> dict[str, float]:
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_percentage": psutil.virtual_memory().percent,
        "process_memory_megabytes": process.memory_info().rss / _MIB,
    }


def cards() -> int:
    """NVIDIA cards of this machine, as the driver counts them; 0 without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except Exception:  # no driver, no permission: no cards
        return 0


def _gpus() -> dict[str, float]:
    try:
        import pynvml

        pynvml.nvmlInit()
        found = {}
        for i in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(i)
            found[f"gpu_{i}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            found[f"gpu_{i}_memory_usage_megabytes"] = pynvml.nvmlDeviceGetMemoryInfo(handle).used / _MIB
        return found
    except Exception:  # no driver, no card, no permission: no GPU metrics
        return {}
