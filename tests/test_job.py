"""What a job tells, and that telling never stops it."""

from __future__ import annotations

import subprocess
import sys

SLOW = """
import time
clock = [0.0]
time.time = lambda: clock[0]  # before tqdm takes it: what is measured here is the line, not this machine
from pathlib import Path
from ssimbad.runtime.job import Job

job = Job("pretrain", Path("."), method="ssimbad", seed=0)
with job.progress(64, "images", done=32) as bar:
    clock[0] = 10.5
    bar.set_postfix(loss="0.1", refresh=False)
    bar.update(16)
"""


def test_a_log_file_gets_a_line_with_method_images_rate_and_time_left():
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert "pretrain-ssimbad-seed-0: 48 of 64 images,  1.52 images/s, 00:10 gone, 00:10 left, loss=0.1" in lines


def test_a_log_that_is_gone_stops_nothing():
    """SLURM's SIGTERM goes to all processes of a job: to the `tee` as well as to the training."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom ssimbad.runtime.job import Job\n"
        "job = Job('pretrain', Path('.'))\n"
        "sys.stdin.read()\n"
        "with job.progress(2, 'images') as bar:\n"
        "    bar.update(2)\n"
        "job.say('one')\njob.say('two')\n"
        "sys.exit(75)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 75
