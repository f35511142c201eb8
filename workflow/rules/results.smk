# Colouring the test set and judging the result.
rule colorize:
    input:
        upstream("colorize"),
        of("colorize", "weights", "made", "parts", "sketches", "references", "faces"),
        of("colorize", "masks", "reference_masks"),
        ancient("data/faces/manifest.csv"),
    output:
        "outputs/{method}/{stage}/seed-{seed}/{setting}.zip",
        "records/colorize-{method}-{stage}-seed-{seed}-{setting}.json",
        touch(".state/colorize-{method}-{stage}-seed-{seed}-{setting}.ok"),
    log:
        "logs/colorize/{method}-{stage}-seed-{seed}-{setting}.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=GPU,
    message:
        "colorize: {wildcards.method} {wildcards.stage}, seed {wildcards.seed}, {wildcards.setting} reference"
    shell:
        "ssimbad stage colorize method={wildcards.method} stage={wildcards.stage} seed={wildcards.seed} "
        "setting={wildcards.setting} 2>&1 | tee {log}"


if rows.set_features(P):

    rule face_features:
        input:
            upstream("face_features"),
            ancient("data/faces/test.npy"),
            ancient("data/faces/manifest.csv"),
            rest("face_features", "test", "manifest"),
        output:
            [paths.face_features(name) for name in rows.set_features(P)],
            "records/face_features.json",
            touch(".state/face_features.ok"),
        log:
            "logs/face_features.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 2
        resources:
            mem_mb=8000,
            runtime=60,
            gpu=GPU,
        message:
            "face_features: what networks see in the test faces"
        shell:
            "ssimbad stage face_features 2>&1 | tee {log}"


rule evaluate:
    input:
        upstream("evaluate"),
        of("evaluate", "images"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/manifest.csv"),
        of("evaluate", "true"),
        of("evaluate", "sketches"),
        of("evaluate", "references"),
        of("evaluate", "true_masks"),
        # data/weights/<network>.pth, or .safetensors
        ancient([paths.feature_file(name) for name in rows.metric_features(P)]),
        of("evaluate", *(f"{name}_faces" for name in rows.set_features(P))),
    output:
        "reports/metrics/{method}/{stage}/seed-{seed}/{setting}.csv",
        "reports/metrics/{method}/{stage}/seed-{seed}/{setting}.json",
        "records/evaluate-{method}-{stage}-seed-{seed}-{setting}.json",
        touch(".state/evaluate-{method}-{stage}-seed-{seed}-{setting}.ok"),
    log:
        "logs/evaluate/{method}-{stage}-seed-{seed}-{setting}.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=GPU,
    message:
        "evaluate: {wildcards.method} {wildcards.stage}, seed {wildcards.seed}, {wildcards.setting}"
    shell:
        "ssimbad stage evaluate method={wildcards.method} stage={wildcards.stage} seed={wildcards.seed} "
        "setting={wildcards.setting} 2>&1 | tee {log}"


rule baselines:
    input:
        upstream("baselines"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/train.npy"),
        ancient("data/faces/manifest.csv"),
        rest("baselines", "test", "train", "manifest"),
    output:
        "reports/metrics/baselines.json",
        "records/baselines.json",
        touch(".state/baselines.ok"),
    log:
        "logs/baselines.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    message:
        "baselines: reference, mean colour and the right answers"
    shell:
        "ssimbad stage baselines 2>&1 | tee {log}"


rule nfe:
    input:
        upstream("nfe"),
        of("nfe", "weights", "made", "parts", "references"),
        of("nfe", "masks", "reference_masks"),
        ancient("data/sketches/test.npy"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/manifest.csv"),
    output:
        "reports/nfe/{method}/{stage}/seed-{seed}.csv",
        "records/nfe-{method}-{stage}-seed-{seed}.json",
        touch(".state/nfe-{method}-{stage}-seed-{seed}.ok"),
    log:
        "logs/nfe/{method}-{stage}-seed-{seed}.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=GPU,
    message:
        "nfe: {wildcards.method} {wildcards.stage}, seed {wildcards.seed}, by several samplers and steps"
    shell:
        "ssimbad stage nfe method={wildcards.method} stage={wildcards.stage} seed={wildcards.seed} 2>&1 | tee {log}"


rule spread:
    input:
        upstream("spread"),
        of("spread", "weights", "made", "parts", "references"),
        of("spread", "masks", "reference_masks"),
        ancient("outputs/{method}/{stage}/seed-{seed}/same.zip"),
        ancient("data/sketches/test.npy"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/manifest.csv"),
    output:
        "reports/spread/{method}/{stage}/seed-{seed}.csv",
        "records/spread-{method}-{stage}-seed-{seed}.json",
        touch(".state/spread-{method}-{stage}-seed-{seed}.ok"),
    log:
        "logs/spread/{method}-{stage}-seed-{seed}.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=480,
        gpu=GPU,
    message:
        "spread: {wildcards.method} {wildcards.stage}, seed {wildcards.seed}, several samples of each face"
    shell:
        "ssimbad stage spread method={wildcards.method} stage={wildcards.stage} seed={wildcards.seed} 2>&1 | tee {log}"


rule reverse:
    input:
        upstream("reverse"),
        of("reverse", "weights", "made"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/manifest.csv"),
    output:
        "reports/reverse/{method}/{stage}/seed-{seed}.zip",
        "reports/reverse/{method}/{stage}/seed-{seed}.csv",
        "records/reverse-{method}-{stage}-seed-{seed}.json",
        touch(".state/reverse-{method}-{stage}-seed-{seed}.ok"),
    log:
        "logs/reverse/{method}-{stage}-seed-{seed}.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=GPU,
    message:
        "reverse: {wildcards.method} {wildcards.stage}, seed {wildcards.seed}, samples, trajectories and noisy faces"
    shell:
        "ssimbad stage reverse method={wildcards.method} stage={wildcards.stage} seed={wildcards.seed} 2>&1 | tee {log}"
