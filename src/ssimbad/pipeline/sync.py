"""After a run, on the head node: tell DVC what is fresh, and bring the logbook up to date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ssimbad.errors import UserError
from ssimbad.params import Params
from ssimbad.pipeline import records


def run(params: Params, status: str | None = None) -> None:
    """Commit the fresh instances to DVC and import the event spools.

    `-f` is safe in `dvc commit`: the record proves that these outputs came from exactly these inputs and parameters.

    Args:
        status: how the pipeline execution of this process ended (FINISHED or FAILED), if it did.

    Raises:
        UserError: DVC refused; the message tells what to do.
    """
    import_spools(status)
    fresh = [name for name, reason in records.survey(params).items() if reason is None]
    if not (fresh and Path(".dvc").is_dir() and Path("dvc.yaml").exists()):
        return
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *fresh],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"dvc commit failed ({lines[-1]}); mend that and run `ssimbad sync`")
    print(f"sync: {len(fresh)} fresh stages -> dvc.lock", flush=True)


def import_spools(status: str | None = None) -> None:
    """Bring the logbook up to date; a failure is told in one line and stops nothing."""
    try:
        from ssimbad.tracking import spool, store

        if not status and not any(spool.ROOT.glob("*.jsonl")):
            return
        count = store.import_all(os.environ.get("SSIMBAD_PIPELINE"), status)
        print(f"sync: {count} runs -> {store.uri()}", flush=True)
    except Exception as error:  # the logbook must never stop the work
        reason = str(error).splitlines()[0] if str(error) else ""
        print(
            f"ssimbad: logbook not updated ({type(error).__name__}: {reason}); `ssimbad sync` tries again",
            file=sys.stderr,
        )
