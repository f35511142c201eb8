"""The stage table: what each stage reads, writes and depends on, and in how many instances it exists.

dvc.yaml is generated from it, the content records are checked against it, and a test holds the Snakemake rules equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ssimbad.params.tree import Params
from ssimbad.pipeline.inputs import Files
from ssimbad.pipeline.paths import Wildcards
from ssimbad.pipeline.stages import data, models, reports, results
from ssimbad.pipeline.stages.contract import Stage

COMMAND = "ssimbad stage"
STAGES: tuple[Stage, ...] = (*data.STAGES, *models.STAGES, *results.STAGES, *reports.STAGES)


@dataclass(frozen=True)
class Instance:
    """One stage with its wildcards filled in. All paths are relative to the repository root."""

    stage: Stage
    wildcards: Wildcards
    inputs: Files
    outputs: dict[str, str]
    params: tuple[str, ...]
    upstream: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """`ssimbad-finetune-seed-0-cross`, or empty for a stage without instances."""
        seeded = {**self.wildcards, "seed": f"seed-{self.wildcards.get('seed')}"}
        return "-".join(str(seeded[k]) for k in self.wildcards)

    @property
    def name(self) -> str:
        """One name in the records, the logs, DVC and the logbook: `colorize-ssimbad-finetune-seed-0-cross`."""
        return "-".join(filter(None, (self.stage.name, self.key)))

    @property
    def command(self) -> str:
        return " ".join([COMMAND, self.stage.name, *(f"{k}={v}" for k, v in self.wildcards.items())])

    @property
    def record(self) -> str:
        return f"records/{self.name}.json"

    @property
    def marker(self) -> str:
        return f".state/{self.name}.ok"

    @property
    def files(self) -> list[str]:
        """All inputs, flat."""
        return [p for v in self.inputs.values() for p in ([v] if isinstance(v, str) else v)]


def instances(p: Params) -> list[Instance]:
    """Every stage instance of these parameters, upstream before downstream."""
    found = [Instance(s, w, s.inputs(p, w), s.outputs(p, w), s.params(p, w)) for s in STAGES for w in s.each(p)]
    makers = {file: i.name for i in found for file in i.outputs.values()}
    upstream = {i.name: tuple(sorted({makers[f] for f in i.files if f in makers})) for i in found}
    # A training may start from one of any slot, so that the order of the stages alone would not do.
    placed: dict[str, Instance] = {}

    def place(instance: Instance) -> None:
        if instance.name not in placed:
            for name in upstream[instance.name]:
                place(by_name[name])
            placed[instance.name] = replace(instance, upstream=upstream[instance.name])

    by_name = {i.name: i for i in found}
    for instance in found:
        place(instance)
    return list(placed.values())


def by_stage(found: list[Instance]) -> Iterator[tuple[str, list[Instance]]]:
    """Instances grouped by stage, in the table's order."""
    for stage in STAGES:
        group = [i for i in found if i.stage.name == stage.name]
        if group:
            yield stage.name, group
