# SSIMBaD, reproduced: a table of contents. The rules are in workflow/rules, one file per group of stages.
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/schedule.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/reports.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,
    all_data,
    all_schedule,
    all_models,
    all_results,
    all_tables,


# Targets, from the whole to its parts.
rule all:
    default_target: True
    input:
        markers("tables", "figures"),


rule all_data:
    input:
        markers("faces", "sketches", "references"),


rule all_schedule:
    input:
        markers("select_phi"),


rule all_models:
    input:
        markers("pretrain", "finetune"),


rule all_results:
    input:
        markers("evaluate", "baselines"),


rule all_tables:
    input:
        markers("tables"),
