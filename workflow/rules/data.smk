# From raw images to faces, sketches and references.
RAW = paths.source(P)
# Sketches that came with the faces.
GIVEN = (
    [] if EMBEDDED else [f"data/faces/given_{s}.npy" for s in ("train", "val", "test")]
)

if EMBEDDED:

    rule raw:
        output:
            "data/raw/embedded.zip",
            "data/raw/embedded.json",
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


if rows.fetched(P):

    # On the head node: compute nodes often have no network.
    localrules:
        fetch,

    rule fetch:
        input:
            rest("fetch"),
        output:
            "data/raw/fetched.zip",
            "records/fetch.json",
            touch(".state/fetch.ok"),
        log:
            "logs/fetch.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=600,
        message:
            "fetch: the source, once"
        shell:
            "ssimbad stage fetch 2>&1 | tee {log}"


if P.data.shards > 1:
    # Scattered: a job for each shard of the source's pictures, and later of the faces without a sketch.

    rule face_shard:
        input:
            upstream("face_shard"),
            ancient(RAW),
            of("face_shard", "beside"),
        output:
            "data/faces/shards/{shard}.json",
            "data/faces/shards/{shard}.npy",
            [] if EMBEDDED else ["data/faces/shards/given_{shard}.npy"],
            "records/face_shard-{shard}.json",
            touch(".state/face_shard-{shard}.ok"),
        log:
            "logs/face_shard/{shard}.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
        message:
            "face_shard {wildcards.shard}: reading and cropping a part of the raw images"
        shell:
            "ssimbad stage face_shard shard={wildcards.shard} 2>&1 | tee {log}"

    rule sketch_shard:
        input:
            upstream("sketch_shard"),
            ancient("data/faces/train.npy"),
            ancient("data/faces/val.npy"),
            ancient("data/faces/test.npy"),
            ancient("data/faces/manifest.csv"),
        output:
            "data/sketches/shards/{shard}.npy",
            "records/sketch_shard-{shard}.json",
            touch(".state/sketch_shard-{shard}.ok"),
        log:
            "logs/sketch_shard/{shard}.log",
        conda:
            "../envs/ssimbad.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
        message:
            "sketch_shard {wildcards.shard}: XDoG of a part of the faces"
        shell:
            "ssimbad stage sketch_shard shard={wildcards.shard} 2>&1 | tee {log}"


rule faces:
    input:
        upstream("faces"),
        ancient(RAW),
        of("faces", "beside"),
        of("faces", "shard_seen", "shard_faces", "shard_given"),
        only(P.data.test_list, P.data.test_list),
    output:
        "data/faces/train.npy",
        "data/faces/val.npy",
        "data/faces/test.npy",
        GIVEN,
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
        only(not EMBEDDED, *GIVEN),
        of("sketches", "shards"),
    output:
        "data/sketches/train.npy",
        "data/sketches/val.npy",
        "data/sketches/test.npy",
        [paths.STYLED] if rows.styled(P) else [],
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
        only(EMBEDDED, paths.SHAPES),
        only(rows.scenes(P), paths.LANDSCAPES),
        of("references", "pairs"),
    output:
        "data/references/same.npy",
        "data/references/cross.npy",
        "data/references/other.npy",
        "data/references/pairing.csv",
        ["data/references/cross_true.npy"] if EMBEDDED else [],
        [paths.COMPANIONS] if rows.companions(P) else [],
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


rule data_sheet:
    input:
        upstream("data_sheet"),
        ancient("data/faces/train.npy"),
        ancient("data/faces/test.npy"),
        ancient("data/sketches/train.npy"),
        ancient("data/sketches/test.npy"),
        ancient("data/references/same.npy"),
        ancient("data/references/cross.npy"),
        ancient("data/faces/manifest.csv"),
        ancient("data/references/pairing.csv"),
    output:
        report(
            "reports/figures/data_sheet.png",
            category="Data",
            caption="../report/data_sheet.rst",
        ),
        "records/data_sheet.json",
        touch(".state/data_sheet.ok"),
    log:
        "logs/data_sheet.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "data_sheet: the first faces with their sketches and references"
    shell:
        "ssimbad stage data_sheet 2>&1 | tee {log}"


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
            only(P.masks.network, P.masks.network),
            of("masks", "beside"),
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
        threads: 2
        resources:
            mem_mb=8000,
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
            # data/weights/<network>.pth, or .safetensors
            [paths.feature_file(name) for name in rows.features(P)],
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
