"""training.precision: auto takes what the device computes with, and a training goes on as it began."""

from __future__ import annotations

import pytest
import torch

from ssimbad.runtime import devices
from ssimbad.training import checkpoints

from .small import COMMON, CPU, trained

AUTO = COMMON.model_copy(update={"precision": "auto"})


def _processor(monkeypatch, amx: bool) -> None:
    # torch has no public name for what runtime/devices.py asks it.
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(("amx", "taken"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_processor_computes_with(tmp_path, monkeypatch, capsys, amx, taken):
    _processor(monkeypatch, amx)
    named = trained(tmp_path / "named", common=COMMON.model_copy(update={"precision": taken}))
    capsys.readouterr()
    chosen = trained(tmp_path / "auto", common=AUTO)
    assert f"precision {taken}" in capsys.readouterr().out and chosen.precision == taken
    assert all(torch.equal(v, chosen.ema[k]) for k, v in named.ema.items())


def test_a_training_goes_on_as_it_began_on_a_processor_of_another_kind(tmp_path, monkeypatch):
    _processor(monkeypatch, True)
    whole = trained(tmp_path / "whole", common=AUTO)
    assert trained(tmp_path / "cut", stop_after=5, common=AUTO) is None
    _processor(monkeypatch, False)
    again = trained(tmp_path / "cut", common=AUTO)
    assert again.precision == "bf16" and devices.precision("auto", CPU) == "fp32"
    assert all(torch.equal(v, again.ema[k]) for k, v in whole.ema.items())


def test_a_state_from_before_states_told_it_is_of_the_precision_asked(tmp_path, monkeypatch):
    asked = COMMON.model_copy(update={"precision": "fp32"})
    assert trained(tmp_path / "cut", stop_after=5, common=asked) is None
    read = checkpoints.latest_state

    def untold(folder, key):
        groups, facts = read(folder, key)
        return groups, {name: value for name, value in facts.items() if name != "precision"}

    monkeypatch.setattr(checkpoints, "latest_state", untold)
    assert trained(tmp_path / "cut", common=asked).precision == "fp32"
