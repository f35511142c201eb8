# Training. Resumable state lies under work/, outside the outputs that Snakemake deletes before a job.
# `of(...)` names inputs that depend on the method's parameters: phi, the weights it starts from, validation faces.
rule pretrain:
    input:
        upstream("pretrain"),
        ancient("data/faces/train.npy"),
        ancient("data/sketches/train.npy"),
        ancient("data/faces/manifest.csv"),
        of("pretrain", "val"),
        of("pretrain", "val_sketches"),
        of("pretrain", "phi_star"),
        of("pretrain", "alexnet"),
        of("pretrain", "vgg19"),
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
    message:
        "pretrain: {wildcards.method}, seed {wildcards.seed}"
    shell:
        "ssimbad stage pretrain method={wildcards.method} seed={wildcards.seed} 2>&1 | tee {log}"


rule finetune:
    input:
        upstream("finetune"),
        ancient("data/faces/train.npy"),
        ancient("data/sketches/train.npy"),
        ancient("data/faces/manifest.csv"),
        of("finetune", "start"),
        of("finetune", "val"),
        of("finetune", "val_sketches"),
        of("finetune", "phi_star"),
        of("finetune", "alexnet"),
        of("finetune", "vgg19"),
    output:
        "models/{method}/finetune/seed-{seed}.safetensors",
        "models/{method}/finetune/seed-{seed}.json",
        "models/{method}/finetune/seed-{seed}.csv",
        "records/finetune-{method}-seed-{seed}.json",
        touch(".state/finetune-{method}-seed-{seed}.ok"),
    log:
        "logs/finetune/{method}-seed-{seed}.log",
    conda:
        "../../environment.yml"
    threads: P.training.threads
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=GPU,
    message:
        "finetune: {wildcards.method}, seed {wildcards.seed}"
    shell:
        "ssimbad stage finetune method={wildcards.method} seed={wildcards.seed} 2>&1 | tee {log}"
