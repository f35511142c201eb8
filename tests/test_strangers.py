"""Methods that other packages bring, and blocks that were written by hand: what is wrong with them is one line."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import replace

import pytest
import yaml

from ssimbad.errors import ParameterError, UserError
from ssimbad.methods import registry, regression
from ssimbad.metrics import folders
from ssimbad.params import base
from ssimbad.params import tree as params
from ssimbad.params.methods import Method as Block
from ssimbad.pipeline.table import STAGES
from ssimbad.reporting import main_table

from .conftest import miniature
from .test_params import complaint

GOOD = regression.METHOD


@pytest.fixture
def stranger(monkeypatch):
    """Installs a kind `stranger` whose file holds METHOD, or runs `code`."""

    def install(method=None, code=None):
        module = types.ModuleType("stranger_method")
        module.METHOD = method
        monkeypatch.setitem(sys.modules, "stranger_method", module)
        if code is not None:
            monkeypatch.setattr(registry.importlib, "import_module", lambda name: exec(code, {}))
        own = registry.places()
        monkeypatch.setattr(registry, "places", lambda: own | {"stranger": "stranger_method:METHOD"})
        registry.loaded.cache_clear()
        registry.slots.cache_clear()
        registry.usable.cache_clear()

    yield install
    monkeypatch.undo()
    registry.loaded.cache_clear()
    registry.slots.cache_clear()
    registry.usable.cache_clear()


def but(**changes):
    return replace(GOOD, **changes)


@pytest.mark.parametrize(
    "method",
    [
        5, None, "METHOD", GOOD.Config, but(Config=None), but(Config=dict), but(ColourOptions=None),
        but(objectives=None), but(objectives={}), but(objectives={"direct": None}), but(objectives=["direct"]),
        but(samplers={"euler": 1}), but(samplers=["euler"]),
        but(slots=5), but(slots=("codes",)), but(slots={"codes": ("nothing",)}), but(slots={"codes": "direct"}),
        but(slots={1: ("direct",)}), but(slots={"Codes": ("direct",)}), but(slots={"a-b": ("direct",)}),
        but(slots={"faces": ("direct",)}), but(slots={"label": ("direct",)}), but(slots={"phi": ("direct",)}),
        but(inputs=None), but(inputs="sketch"), but(inputs=("picture",)), but(reads=None), but(reads=("data",)),
        but(rowless=None), but(rowless=("nowhere",)), but(build=None), but(training_step=None),
        but(needs=None), but(fits=3), but(remarks=None), but(default_colour=None),
    ],
)  # fmt: skip
def test_what_is_no_method_is_one_line_and_touches_nobody_else(stranger, method):
    stranger(method)
    with pytest.raises(UserError, match=r"^stranger_method:METHOD: no method that this version can use") as caught:
        registry.get("stranger")
    assert "\n" not in str(caught.value)
    assert registry.slots() == base.SLOTS
    params.parse(yaml.safe_dump(miniature()))


@pytest.mark.parametrize("code", ["1 / 0", "raise ValueError('boom')", "import sys; sys.exit(3)", "x ="])
def test_a_file_that_fails_while_it_is_read_is_one_line(stranger, code):
    stranger(code=code)
    with pytest.raises(UserError, match="no method that this version can use"):
        registry.get("stranger")


@pytest.mark.parametrize("slot", ["copy", "trainings", "model_dump", "colouring", "codes"])
def test_a_slot_may_have_the_name_of_whatever_the_block_has_inside(stranger, slot):
    stranger(but(slots={slot: ("direct",)}))
    tree = miniature()
    train = tree["methods"]["regression"]["pretrain"]
    tree["methods"]["own"] = {"kind": "stranger", "label": "own", slot: train, "colour": {slot: {}}}
    p = params.parse(yaml.safe_dump(tree))
    assert list(p.methods["own"].trainings) == [slot] == p.methods["own"].colouring
    assert slot not in p.methods["ssimbad"].trainings


@pytest.mark.parametrize(
    "wrong",
    [
        *[
            lambda config, slot: None,
            lambda config, slot: 5,
            lambda config, slot: 1 / 0,
            lambda config, slot: sys.exit(4),
        ],
        *[
            lambda config, slot: {"start": "pretrain"},
            lambda config, slot: {"a.b": "phi"},
            lambda config, slot: {"a": 1},
        ],
    ],
)
def test_needs_that_cannot_be_told_are_one_line(stranger, wrong):
    stranger(but(needs=wrong))
    tree = miniature()
    tree["methods"]["own"] = tree["methods"]["regression"] | {"kind": "stranger", "label": "own"}
    with pytest.raises(UserError, match=r"^kind stranger: its `needs` fails"):
        params.parse(yaml.safe_dump(tree))


@pytest.mark.parametrize("what", ["fits", "suits"])
@pytest.mark.parametrize("wrong", [lambda *_: 1 / 0, lambda *_: sys.exit(4), lambda: None])
def test_checks_that_fail_themselves_are_one_line(stranger, what, wrong):
    stranger(but(**{what: wrong}))
    tree = miniature()
    tree["methods"]["own"] = tree["methods"]["regression"] | {"kind": "stranger", "label": "own"}
    with pytest.raises(UserError, match=rf"^kind stranger: its `{what}` fails"):
        params.parse(yaml.safe_dump(tree))


def test_names_that_no_training_can_have_are_those_of_the_stages_and_of_the_other_keys():
    stages, keys = {stage.name for stage in STAGES}, set(Block.model_fields)
    assert set(base.TAKEN) >= (stages | keys) - set(base.SLOTS)
    assert not set(base.TAKEN) & set(base.SLOTS)


def test_weights_that_never_colour_are_not_borrowed_and_not_coloured_with():
    tree = miniature()
    block = tree["methods"]["regression"]
    block["encoder"] = block["pretrain"] | {"validation": None}
    own = {"kind": "regression", "label": "x", "weights": "regression/encoder", "colour": {"encoder": {}}}
    tree["methods"]["x"] = own
    assert "methods.x.colour: no weights of stage 'encoder' that could be a row" in complaint(tree)
    del tree["methods"]["x"]
    block["encoder"] = block["pretrain"] | {"validation": {"every": 16, "colour": {}}}
    assert "methods.regression.encoder.validation.colour: weights of encoder do not colour" in complaint(tree)


@pytest.mark.parametrize("key", [1, None, True, 2.5])
def test_a_key_that_is_no_text_is_one_line(key):
    tree = miniature()
    tree["methods"]["ssimbad"][key] = 2
    assert "unknown key methods.ssimbad." in complaint(tree)


@pytest.mark.parametrize("label", ["", "a\nb", "a\u2028b", "x" * 121])
def test_labels_that_no_table_can_hold_are_refused(label):
    tree = miniature()
    tree["methods"]["ssimbad"]["label"] = label
    assert "methods.ssimbad.label" in complaint(tree)


def test_two_methods_of_one_label_are_refused():
    tree = miniature()
    tree["methods"]["regression"]["label"] = tree["methods"]["ssimbad"]["label"]
    assert ".label: 'SSIMBaD' is that of " in complaint(tree)


def test_no_methods_and_endless_names_are_refused():
    tree = miniature()
    tree["methods"] = {"m" * 300: tree["methods"]["regression"]}
    assert "methods." in complaint(tree)
    tree["methods"] = {}
    assert "methods:" in complaint(tree)


def test_a_misspelt_key_of_a_training_gets_a_hint_from_the_training(stranger):
    stranger(but(slots={"codes": ("direct",)}))
    tree = miniature()
    train = tree["methods"]["regression"]["pretrain"] | {"imagez": 3}
    tree["methods"]["own"] = {"kind": "stranger", "label": "own", "codes": train}
    with pytest.raises(ParameterError, match=r"unknown key methods\.own\.codes\.imagez; did you mean 'images'\?"):
        params.parse(yaml.safe_dump(tree))


def test_rows_with_a_training_of_another_name_did_not_see_equal_images():
    made = [{"method": m, "stage": s, "images": n} for m, s, n in (("a", "pretrain", 16), ("b", "pretrain", 16))]
    assert main_table.budgets(made)[0].startswith("Rows saw equal numbers of images: 16 in pretraining")
    (said,) = main_table.budgets([*made, {"method": "b", "stage": "codes", "images": 8}])
    assert said.startswith("Rows saw equal numbers of images: 16 in pretraining, but for b 8 in codes. Not of")
    third = {"method": "c", "stage": "pretrain", "images": 8}
    (said,) = main_table.budgets([*made, third])
    assert ": 16 in pretraining, but for c 8 in pretraining. " in said
    (said,) = main_table.budgets([made[0], third])
    assert said == "Rows saw different numbers of images: a 16 in pretraining, c 8 in pretraining."
    assert main_table.budgets([{"method": "a", "stage": "codes", "images": 8}]) == [
        "Rows saw different numbers of images: a 8 in codes."
    ]
    more = [{"method": m, "stage": "finetune", "images": n} for m, n in (("a", 4), ("b", 2))]
    (said,) = main_table.budgets([*made, *more])
    assert ": 16 in pretraining, but for a 4 in finetuning, b 2 in finetuning. " in said
    assert main_table.budgets([]) == []


def test_a_pipe_among_pictures_is_refused_and_umlauts_pair_however_they_are_spelt(tmp_path):
    (tmp_path / "e\u0301.png").write_bytes(b"")
    assert list(folders.pictures(tmp_path)) == ["\u00e9"]
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png: not a file; take it away"):
        folders.pictures(tmp_path)
