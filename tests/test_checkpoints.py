"""Weights and states on disk: whole, finite, of this network and configuration, or refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ssimbad.errors import UserError
from ssimbad.training import checkpoints

from .small import build, trained


def groups(state):
    """The tensors of a training that make up its state: average, weights, moments."""
    yield from (state.ema, state.best, state.model.state_dict())
    yield from state.optimisers[0].state.values()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("number", range(4))
def test_nothing_that_is_not_finite_is_saved(tmp_path, number, value):
    state = trained(tmp_path / "whole")
    state.record_validation(1.0)
    tensor = next(iter(list(groups(state))[number].values()))
    tensor.view(-1)[-1] = value
    with pytest.raises(UserError, match=r"state-0+64\.safetensors: not written, .* not finite; lower the"):
        state.save(tmp_path / "poisoned", "key")
    assert not (tmp_path / "poisoned").exists()


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path):
    path, weights = tmp_path / "w.safetensors", {"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])}
    with pytest.raises(UserError, match=r"w\.safetensors: not written, b holds numbers that are not finite; lower"):
        checkpoints.write_weights(path, weights)
    assert list(tmp_path.iterdir()) == []
    save_file(weights, path)
    with pytest.raises(UserError, match=r"w\.safetensors: no usable weights \(b holds .* train again"):
        checkpoints.read_tensors(path)


def test_a_state_that_is_not_finite_gives_way_to_the_one_before(tmp_path, capsys):
    """As a damaged one does."""
    assert trained(tmp_path, stop_after=7) is None
    newest = max(tmp_path.glob("state-*"))
    with safe_open(newest, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors[max(tensors)].view(-1)[0] = float("inf")
    save_file(tensors, newest, metadata)
    resumed = trained(tmp_path)
    assert f"{newest}: no whole state" in capsys.readouterr().err
    whole = trained(tmp_path / "whole")
    assert all(torch.equal(whole.ema[name], resumed.ema[name]) for name in whole.ema)


def test_two_states_are_kept_and_a_broken_one_is_removed(tmp_path, capsys):
    trained(tmp_path, stop_after=7)
    states = sorted(tmp_path.glob("state-*"))
    assert [s.name for s in states] == ["state-000000000032.safetensors", "state-000000000048.safetensors"]
    states[-1].write_bytes(states[-1].read_bytes()[:100])
    unfinished = tmp_path / ".state-000000000064.safetensors.0123.tmp"
    unfinished.write_bytes(b"half")
    _, facts = checkpoints.latest_state(tmp_path, "key")
    assert facts["seen"] == 32
    assert list(tmp_path.iterdir()) == [states[0]], "else it would take the place of a whole one"
    assert f"{states[-1]}: no whole state" in capsys.readouterr().err


def test_a_state_that_the_file_system_withholds_is_no_reason_to_begin_anew(tmp_path, monkeypatch):
    trained(tmp_path, stop_after=3)

    def withheld(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints, "safe_open", withheld)
    with pytest.raises(UserError, match=r"state-0+16\.safetensors: cannot be read"):
        checkpoints.latest_state(tmp_path, "key")


def test_a_state_of_another_configuration_is_refused(tmp_path):
    trained(tmp_path, stop_after=3)
    with pytest.raises(UserError, match="another configuration"):
        checkpoints.latest_state(tmp_path, "other key")


def test_files_hold_arrays_and_text_only(tmp_path):
    trained(tmp_path, stop_after=3)
    path = next(iter(tmp_path.glob("state-*")))
    with safe_open(path, framework="np") as file:
        assert set(file.metadata()) == {"facts"}
        json.loads(file.metadata()["facts"])
    pickle = tmp_path / "weights.safetensors"
    torch.save({"a": torch.zeros(1)}, pickle)
    with pytest.raises(UserError, match="safetensors"):
        checkpoints.read_tensors(pickle)


def test_weights_of_another_network_are_refused(tmp_path):
    checkpoints.write_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    weights, _ = checkpoints.read_tensors(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="another network"):
        checkpoints.load_into(build(), weights, tmp_path / "w.safetensors")
