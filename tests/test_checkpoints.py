"""Weights and states on disk: whole, finite, of this network and configuration, or refused in one line."""

from __future__ import annotations

import json
import struct

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


def safetensors(path, dtype, shape, data):
    """A valid file of one tensor, whatever its type."""
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


_SIZES = {
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "U16": 16, "U32": 32, "U64": 64},
}


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        *((dtype, [8], bytes(bits)) for dtype, bits in _SIZES.items()),
        *(("F32", [1] * sides, bytes(4)) for sides in (9, 65, 100_000)),
        *(("F32", shape, b"") for shape in ([0, 2**63], [2**63, 0], [0, 2**62], [0, 2**40, 2**40], [2**64 - 1, 0])),
    ],
)
def test_a_valid_file_of_what_no_network_holds_is_one_line(tmp_path, dtype, shape, data, capsys):
    path = safetensors(tmp_path / "w.safetensors", dtype, shape, data)
    with pytest.raises(UserError, match=rf"^{path}: no readable safetensors file") as caught:
        checkpoints.read_tensors(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    path.rename(tmp_path / "state-000000000001.safetensors")
    assert checkpoints.latest_state(tmp_path, "k") is None
    assert "removed" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 2), (1,) * 8])
def test_whatever_a_network_can_hold_is_read_as_it_was(tmp_path, dtype, shape):
    tensor = torch.ones(shape, dtype=getattr(torch, dtype))
    checkpoints.write_weights(tmp_path / "w.safetensors", {"a": tensor})
    found = checkpoints.read_tensors(tmp_path / "w.safetensors")[0]["a"]
    assert found.dtype == tensor.dtype and torch.equal(found, tensor)
