"""Twenty times `kill -9` at random moments of one training, then the weights of an uninterrupted run."""

from __future__ import annotations

import random
import re
import subprocess
import time

import pytest

from .cluster import ENVIRONMENT, smallest
from .conftest import draw_faces, make_house
from .waiting import until

KILLS = 20
STATE = 32  # images between two
COMMAND = ("ssimbad", "stage", "pretrain", "method=ssimbad", "seed=0")
MODEL = "models/ssimbad/pretrain/seed-0"


def command(folder, *words):
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def house(folder):
    tree = smallest(images=3200, validation=None)
    tree["methods"]["ssimbad"]["config"]["phi"] = {"form": "rational", "c": 0.3}
    tree["training"]["state_images"] = STATE
    made = make_house(folder, tree)
    draw_faces(made / "data/raw/faces", 26)
    for stage in ("faces", "sketches"):
        assert command(made, "ssimbad", "stage", stage).returncode == 0
    return made


def weights(folder):
    return {end: (folder / f"{MODEL}.{end}").read_bytes() for end in ("safetensors", "json", "csv")}


def newest(folder) -> int:
    """Images seen by the newest state."""
    return max((int(p.name[6:18]) for p in folder.glob("work/pretrain-*/*/state-*.safetensors")), default=0)


def shot(folder, states: int, moment: float) -> tuple[str, int]:
    """Start the training and kill it `moment` seconds after its first report and so many new states, however long they
    take here; what it said, and the newest state."""
    before = newest(folder)
    with (folder / "log").open("w") as log:
        training = subprocess.Popen(COMMAND, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)

    def there() -> bool:
        reported = " of 3200 images" in (folder / "log").read_text()
        return (reported and newest(folder) >= before + states * STATE) or training.poll() is not None

    until(there, 240, "a start")
    time.sleep(moment)
    training.kill()
    assert training.wait() == -9, "it was to be killed in its middle"
    return (folder / "log").read_text(), newest(folder)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_after_twenty_kills_the_weights_are_those_of_an_uninterrupted_run(tmp_path):
    plain, killed = house(tmp_path / "plain"), house(tmp_path / "killed")
    assert command(plain, *COMMAND).returncode == 0
    moments = random.Random(0)
    saved, progress = 0, []
    for _ in range(KILLS):
        text, now = shot(killed, moments.randrange(3), moments.uniform(0, 0.5))
        assert [int(n) for n in re.findall(r"resumed at (\d+) of", text)] == ([saved] if saved else [])
        assert now >= saved
        progress.append(now - saved)
        saved = now
    assert sum(p > 0 for p in progress) > KILLS // 2, progress
    last = command(killed, *COMMAND)
    assert last.returncode == 0, last.stderr
    assert f"resumed at {saved} of 3200" in last.stdout
    assert weights(killed) == weights(plain)
