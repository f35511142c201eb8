"""What a job tells, and that telling never stops it."""

from __future__ import annotations

import re
import subprocess
import sys

SLOW = (
    "import time\nfrom pathlib import Path\nfrom ssimbad.runtime.job import Job\n"
    "job = Job('pretrain', Path('.'), method='ssimbad', seed=0)\n"
    "with job.progress(64, 'images', done=32) as bar:\n"
    "    time.sleep(10.5)\n"
    "    bar.set_postfix(loss='0.1', refresh=False)\n"
    "    bar.update(16)\n"
)


def test_a_log_file_gets_a_line_with_method_images_rate_and_time_left():
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    pattern = r"pretrain-ssimbad-seed-0: 48 of 64 images, +1\.\d+ images/s, 00:10 gone, 00:\d\d left, loss=0\.1"
    assert any(re.fullmatch(pattern, line) for line in lines), lines


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
