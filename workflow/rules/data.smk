# From raw images to faces, sketches and references.
RAW = paths.source(P)

if EMBEDDED:

    rule raw:
        output:
            "data/raw/embedded.zip",
            "data/raw/embedded.json",
            "data/raw/cross_true.zip",
            [paths.LANDSCAPES] if rows.scenes(P) else [],
            "records/raw.json",
            touch(".state/raw.ok"),
        log:
            "logs/raw.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 2
        resources:
            mem_mb=2000,
            runtime=30,
        message:
            "raw: rendering the embedded faces"
        shell:
            "ssimbad stage raw 2>&1 | tee {log}"


rule faces:
    input:
        upstream("faces"),
        ancient(RAW),
        only(P.data.test_list, P.data.test_list),
    output:
        "data/faces/train.npy",
        "data/faces/val.npy",
        "data/faces/test.npy",
        "data/faces/manifest.csv",
        "data/faces/quarantine.csv",
        "records/faces.json",
        touch(".state/faces.ok"),
    log:
        "logs/faces.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    message:
        "faces: reading, cropping and splitting the raw images"
    shell:
        "ssimbad stage faces 2>&1 | tee {log}"


rule sketches:
    input:
        upstream("sketches"),
        ancient("data/faces/train.npy"),
        ancient("data/faces/val.npy"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/manifest.csv"),
        only(not EMBEDDED, RAW),
    output:
        "data/sketches/train.npy",
        "data/sketches/val.npy",
        "data/sketches/test.npy",
        "records/sketches.json",
        touch(".state/sketches.ok"),
    log:
        "logs/sketches.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "sketches: XDoG of every face"
    shell:
        "ssimbad stage sketches 2>&1 | tee {log}"


rule references:
    input:
        upstream("references"),
        ancient("data/faces/test.npy"),
        ancient("data/faces/manifest.csv"),
        only(EMBEDDED, "data/raw/cross_true.zip"),
        only(rows.scenes(P), paths.LANDSCAPES),
    output:
        "data/references/same.npy",
        "data/references/cross.npy",
        "data/references/other.npy",
        "data/references/pairing.csv",
        ["data/references/cross_true.npy"] if EMBEDDED else [],
        ["data/references/scene.npy"] if rows.scenes(P) else [],
        "records/references.json",
        touch(".state/references.ok"),
    log:
        "logs/references.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "references: warps and pairing of the test faces"
    shell:
        "ssimbad stage references 2>&1 | tee {log}"


if rows.masked(P):

    rule masks:
        input:
            upstream("masks"),
            ancient("data/faces/train.npy"),
            ancient("data/faces/val.npy"),
            ancient("data/faces/test.npy"),
            ancient("data/faces/manifest.csv"),
            ancient("data/references/pairing.csv"),
            ancient(paths.SHAPES if EMBEDDED else RAW),
        output:
            "data/masks/train.npy",
            "data/masks/val.npy",
            "data/masks/test.npy",
            "data/masks/same.npy",
            "data/masks/cross.npy",
            "data/masks/other.npy",
            ["data/masks/scene.npy"] if rows.scenes(P) else [],
            "records/masks.json",
            touch(".state/masks.ok"),
        log:
            "logs/masks.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
        message:
            "masks: figure and background of every face"
        shell:
            "ssimbad stage masks 2>&1 | tee {log}"


if P.weights.enabled:

    # On the head node: compute nodes often have no network.
    localrules:
        weights,

    rule weights:
        output:
            "data/weights/inception.pth",
            "data/weights/alexnet.pth",
            ["data/weights/vgg19.pth"] if "vgg19" in rows.loss_features(P) else [],
            ["data/weights/vgg16.pth"] if "vgg16" in rows.loss_features(P) else [],
            ["data/weights/clip.safetensors"] if "clip" in rows.loss_features(P) else [],
            "records/weights.json",
            touch(".state/weights.ok"),
        log:
            "logs/weights.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=60,
        message:
            "weights: the feature networks of metrics and losses"
        shell:
            "ssimbad stage weights 2>&1 | tee {log}"
