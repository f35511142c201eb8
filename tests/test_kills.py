"""Twenty times `kill -9` at random moments of one training, then the weights of an uninterrupted run."""

from __future__ import annotations

import random
import re
import subprocess
import time

import pytest

from .cluster import ENVIRONMENT, smallest, until
from .conftest import draw_faces, make_house

KILLS = 20
COMMAND = ("ssimbad", "stage", "pretrain", "method=ssimbad", "seed=0")
MODEL = "models/ssimbad/pretrain/seed-0"


def command(folder, *words):
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def house(folder):
    tree = smallest(images=3200, validation=None)
    tree["methods"]["ssimbad"]["config"]["phi"] = {"form": "rational", "c": 0.3}
    tree["training"]["state_images"] = 32
    made = make_house(folder, tree)
    draw_faces(made / "data/raw/faces", 26)
    for stage in ("faces", "sketches"):
        assert command(made, "ssimbad", "stage", stage).returncode == 0
    return made


def weights(folder):
    return {end: (folder / f"{MODEL}.{end}").read_bytes() for end in ("safetensors", "json", "csv")}


def shot(folder, moment: float) -> tuple[str, int]:
    """Start the training and kill it `moment` seconds after its first report; what it said, and the newest state."""
    with (folder / "log").open("w") as log:
        training = subprocess.Popen(COMMAND, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)
    until(lambda: " of 3200 images" in (folder / "log").read_text() or training.poll() is not None, 120, "a start")
    time.sleep(moment)
    training.kill()
    assert training.wait() == -9, "it was to be killed in its middle"
    states = [int(p.name[6:18]) for p in folder.glob("work/pretrain-*/*/state-*.safetensors")]
    return (folder / "log").read_text(), max(states, default=0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_after_twenty_kills_the_weights_are_those_of_an_uninterrupted_run(tmp_path):
    plain, killed = house(tmp_path / "plain"), house(tmp_path / "killed")
    assert command(plain, *COMMAND).returncode == 0
    moments = random.Random(0)
    saved, progress = 0, []
    for _ in range(KILLS):
        text, newest = shot(killed, moments.uniform(0, 1.5))
        assert [int(n) for n in re.findall(r"resumed at (\d+) of", text)] == ([saved] if saved else [])
        assert newest >= saved
        progress.append(newest - saved)
        saved = newest
    assert sum(p > 0 for p in progress) > KILLS // 2, progress
    last = command(killed, *COMMAND)
    assert last.returncode == 0, last.stderr
    assert f"resumed at {saved} of 3200" in last.stdout
    assert weights(killed) == weights(plain)
