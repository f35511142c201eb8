# Parts of the whole that can be asked for.
localrules:
    all_data,
    all_schedule,
    all_models,
    all_results,
    all_tables,


rule all_data:
    input:
        markers("faces", "sketches", "references", "data_sheet"),


rule all_schedule:
    input:
        markers("select_phi"),


rule all_models:
    input:
        markers(*registry.slots()),


rule all_results:
    input:
        markers("evaluate", "baselines"),


rule all_tables:
    input:
        markers("tables"),
