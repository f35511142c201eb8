# SSIMBaD, reproduced: a table of contents. The rules are in workflow/rules, one file per group of stages.
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"


# First, and so the default: everything that the active parameters ask for.
rule all:
    input:
        ends(),
    localrule: True


include: "workflow/rules/data.smk"
include: "workflow/rules/schedule.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/reports.smk"
include: "workflow/rules/targets.smk"


report: "workflow/report/workflow.rst"


onstart:
    snakefile.begin()


onsuccess:
    shell("ssimbad sync --status FINISHED")


onerror:
    shell("ssimbad sync --status FAILED")
