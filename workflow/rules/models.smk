# Training. Resumable state lies under work/, outside the outputs that Snakemake deletes before a job.
# `of(...)` names inputs that depend on the method; `rest(...)` are those that only some methods have: feature networks
# of their losses, and parts that other trainings make. Encoders and finetunings are trained by the same rule.
# Faces, their sketches, the same for validation, the selected schedule, and the weights that a training starts from.
TRAINED_ON = [
    *["train", "manifest", "train_sketches", "val", "val_sketches"],
    *["phi_star", "start"],
]


rule pretrain:
    input:
        upstream("pretrain"),
        of("pretrain", *TRAINED_ON),
        rest("pretrain", *TRAINED_ON),
    output:
        "models/{method}/pretrain/seed-{seed}.safetensors",
        "models/{method}/pretrain/seed-{seed}.json",
        "models/{method}/pretrain/seed-{seed}.csv",
        "records/pretrain-{method}-seed-{seed}.json",
        touch(".state/pretrain-{method}-seed-{seed}.ok"),
    log:
        "logs/pretrain/{method}-seed-{seed}.log",
    conda:
        "../../environment.yml"
    threads: P.training.threads
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=GPU,
    params:
        slot="pretrain",
    message:
        "pretrain: {wildcards.method}, seed {wildcards.seed}"
    shell:
        "ssimbad stage {params.slot} method={wildcards.method} seed={wildcards.seed} 2>&1 | tee {log}"


use rule pretrain as encoder with:
    input:
        upstream("encoder"),
        of("encoder", *TRAINED_ON),
        rest("encoder", *TRAINED_ON),
    output:
        "models/{method}/encoder/seed-{seed}.safetensors",
        "models/{method}/encoder/seed-{seed}.json",
        "models/{method}/encoder/seed-{seed}.csv",
        "records/encoder-{method}-seed-{seed}.json",
        touch(".state/encoder-{method}-seed-{seed}.ok"),
    log:
        "logs/encoder/{method}-seed-{seed}.log",
    params:
        slot="encoder",
    message:
        "encoder: {wildcards.method}, seed {wildcards.seed}"


use rule pretrain as finetune with:
    input:
        upstream("finetune"),
        of("finetune", *TRAINED_ON),
        rest("finetune", *TRAINED_ON),
    output:
        "models/{method}/finetune/seed-{seed}.safetensors",
        "models/{method}/finetune/seed-{seed}.json",
        "models/{method}/finetune/seed-{seed}.csv",
        "records/finetune-{method}-seed-{seed}.json",
        touch(".state/finetune-{method}-seed-{seed}.ok"),
    log:
        "logs/finetune/{method}-seed-{seed}.log",
    params:
        slot="finetune",
    message:
        "finetune: {wildcards.method}, seed {wildcards.seed}"
