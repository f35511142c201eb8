# Training. Resumable state lies under work/, outside the outputs that Snakemake deletes before a job.
# `of(...)` names inputs that depend on the method; `rest(...)` are those that only some methods have: feature networks
# of their losses, and parts that other trainings make.
# Faces, their sketches, the same for validation, their masks, the selected schedule, and the weights that a training starts from.
TRAINED_ON = [
    *["train", "manifest", "train_sketches", "val", "val_sketches"],
    *["train_masks", "val_masks"],
    *["phi_star", "start"],
]


for slot in registry.slots():

    rule:
        name:
            slot
        input:
            upstream(slot),
            of(slot, *TRAINED_ON),
            rest(slot, *TRAINED_ON),
        output:
            f"models/{{method}}/{slot}/seed-{{seed}}.safetensors",
            f"models/{{method}}/{slot}/seed-{{seed}}.json",
            f"models/{{method}}/{slot}/seed-{{seed}}.csv",
            f"records/{slot}-{{method}}-seed-{{seed}}.json",
            touch(f".state/{slot}-{{method}}-seed-{{seed}}.ok"),
        log:
            f"logs/{slot}/{{method}}-seed-{{seed}}.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: P.training.threads
        resources:
            mem_mb=16000,
            runtime=1440,
            gpu=GPU,
        params:
            slot=slot,
        message:
            f"{slot}: {{wildcards.method}}, seed {{wildcards.seed}}"
        shell:
            "ssimbad stage {params.slot} method={wildcards.method} seed={wildcards.seed} 2>&1 | tee {log}"
