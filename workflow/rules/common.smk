# Shared by all files beside this one - validated parameters and the freshness of the stages.
#
# Whether a stage must run is decided by content records (docs/engines.md), not by file times: for each fresh instance
# there is a marker .state/<instance>.ok, each rule makes its own, and every input is `ancient`.
import sys

from ssimbad.errors import UserError

try:  # the methods that other packages bring are found here, and may be found wanting
    from ssimbad.methods import registry
    from ssimbad.params import tree as parameters
    from ssimbad.pipeline import dvcfile, lock, paths, rows, runner, snakefile, table
    from ssimbad.tracking import spool, system

    P = parameters.load()
    if workflow.is_main_process:
        spool.name_pipeline("snakemake")
        snakefile.calm()
        snakefile.reconcile(P)
        for line in lock.living(runner.WORK):
            print(f"ssimbad: {line}", file=sys.stderr)
        if line := dvcfile.outdated(P):
            print(f"ssimbad: {line} before this run ends", file=sys.stderr)
except UserError as error:
    print(f"ssimbad: {error}", file=sys.stderr)
    sys.exit(error.code)

# One unit is all cards of this machine: a stage uses every card that it sees. On SLURM the profile asks for cards.
GPU = 1 if system.cards() else 0
EMBEDDED = rows.has_answers(P)
METHODS = list(P.methods)
INSTANCES = {
    (i.stage.name, *map(str, i.wildcards.values())): i for i in table.instances(P)
}
BY_NAME = {i.name: i for i in INSTANCES.values()}


wildcard_constraints:
    method="|".join(METHODS) or "none",
    stage="|".join(registry.slots()),
    seed="[0-9]+",
    setting="[a-z]+(-[a-z]+)*",
    shard="[0-9]+",


def upstream(stage):
    """The markers of the instances that this one is made from: an input function."""

    def markers(wildcards):
        instance = INSTANCES[(stage, *wildcards)]
        return [ancient(BY_NAME[name].marker) for name in instance.upstream]

    return markers


def of(stage, *names):
    """Inputs that depend on the method's parameters, as the stage table has them; no file where there is none."""

    def files(wildcards):
        inputs = INSTANCES[(stage, *wildcards)].inputs
        return flat(inputs.get(name, []) for name in names)

    return files


def rest(stage, *names):
    """The inputs of an instance that have other names than these."""

    def files(wildcards):
        inputs = INSTANCES[(stage, *wildcards)].inputs
        return flat(found for name, found in inputs.items() if name not in names)

    return files


def flat(found):
    """Files and lists of files as one list."""
    return [ancient(f) for x in found for f in ([x] if isinstance(x, str) else x)]


def markers(*stages):
    """The markers of all instances of the stages."""
    return [i.marker for i in INSTANCES.values() if i.stage.name in stages]


def ends():
    """The markers of the instances from which no other is made: who asks for them asks for the whole stage table."""
    used = {name for i in INSTANCES.values() for name in i.upstream}
    return [i.marker for i in INSTANCES.values() if i.name not in used]


def only(condition, *files):
    """The files when the condition holds, else none."""
    return [ancient(f) for f in files] if condition else []
