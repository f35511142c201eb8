"""Where everything lies, relative to the repository root."""

from __future__ import annotations

from typing import Any

from ssimbad.errors import there
from ssimbad.faces.sources import registry as sources
from ssimbad.pairing import settings
from ssimbad.params.tree import Params

Wildcards = dict[str, Any]
"""Of one stage instance: method, stage, seed, setting, shard, as far as it has them."""

EMBEDDED = "data/raw/embedded.zip"
FETCHED = "data/raw/fetched.zip"
MANIFEST = "data/faces/manifest.csv"
TRUE = "data/references/cross_true.npy"
SHAPES = "data/raw/embedded.json"
LANDSCAPES = "data/raw/landscapes.zip"
COMPANIONS = "data/references/companions.npy"
STYLED = "data/sketches/train_styles.npy"
PHI_STAR = "reports/schedule/phi_star.json"


def source(p: Params) -> str:
    """Where the raw faces lie."""
    if sources.of(p.data.source).answers:
        return EMBEDDED
    config = sources.config(p.data.source, p.data.path)
    return FETCHED if sources.of(config).fetched(config) else there(sources.own_path(config))


def model(training: str, seed: int, ending: str = "safetensors") -> str:
    """Of the training `<method>/<stage>`."""
    return f"models/{training}/seed-{seed}.{ending}"


def made(w: Wildcards, ending: str = "safetensors") -> str:
    """What a training makes."""
    return model(f"{w['method']}/{w['stage']}", w["seed"], ending)


def weights(p: Params, w: Wildcards, ending: str = "safetensors") -> str:
    """Of the weights with which a row colours, its own or borrowed."""
    return model(owner(p, w), w["seed"], ending)


def owner(p: Params, w: Wildcards) -> str:
    """The training `<method>/<stage>` with whose weights a row colours."""
    return p.methods[w["method"]].weights or f"{w['method']}/{w['stage']}"


def coloured(w: Wildcards) -> str:
    """The answers of a row, by the setting in which they are made or judged."""
    archive = settings.SETTINGS[w["setting"]].archive if w["setting"] in settings.SETTINGS else w["setting"]
    return f"outputs/{w['method']}/{w['stage']}/seed-{w['seed']}/{archive}.zip"


def metrics(w: Wildcards, ending: str) -> str:
    return f"reports/metrics/{w['method']}/{w['stage']}/seed-{w['seed']}/{w['setting']}.{ending}"


def nfe_values(w: Wildcards) -> str:
    return f"reports/nfe/{w['method']}/{w['stage']}/seed-{w['seed']}.csv"


def spread_values(w: Wildcards) -> str:
    return f"reports/spread/{w['method']}/{w['stage']}/seed-{w['seed']}.csv"


def reverse(w: Wildcards, ending: str) -> str:
    """Pictures (zip) and values (csv) of a reverse process."""
    return f"reports/reverse/{w['method']}/{w['stage']}/seed-{w['seed']}.{ending}"


def face_features(name: str) -> str:
    """What a feature network sees in the test faces."""
    return f"data/features/{name}.npy"


def feature_file(name: str) -> str:
    return f"data/weights/{name}.{'safetensors' if name == 'clip' else 'pth'}"


def splits(folder: str) -> dict[str, str]:
    return {name: f"data/{folder}/{name}.npy" for name in ("train", "val", "test")}


def shard(folder: str, w: Wildcards, name: str = "{}.npy") -> str:
    """What a shard of the data makes."""
    return f"data/{folder}/shards/{name.format(w['shard'])}"


def figure(*names: str) -> dict[str, str]:
    return {f"{n}_{kind}": f"reports/figures/{n}.{kind}" for n in names for kind in ("png", "pdf")}


def table(*names: str) -> dict[str, str]:
    return {
        key: f"reports/tables/{n}.{kind}"
        for n in names
        for key, kind in ((n, "csv"), (f"{n}_md", "md"), (f"{n}_tex", "tex"))
    }
