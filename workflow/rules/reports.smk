# Tables and figures.


rule tables:
    input:
        upstream("tables"),
        of("tables", "summaries"),
        of("tables", "images"),
        ancient("reports/metrics/baselines.json"),
        ancient("reports/tables/r2.csv"),
        of("tables", "made"),
    output:
        report(
            "reports/tables/main.csv", category="Tables", caption="../report/main.rst"
        ),
        "reports/tables/main.md",
        "reports/tables/main.tex",
        report(
            "reports/tables/reference_use.csv",
            category="Tables",
            caption="../report/reference_use.rst",
        ),
        "reports/tables/reference_use.md",
        "reports/tables/reference_use.tex",
        report(
            "reports/tables/differences.csv",
            category="Tables",
            caption="../report/differences.rst",
        ),
        "reports/tables/differences.md",
        "reports/tables/differences.tex",
        "reports/tables/r2.md",
        "reports/tables/r2.tex",
        "records/tables.json",
        touch(".state/tables.ok"),
    log:
        "logs/tables.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "tables: published beside reproduced"
    shell:
        "ssimbad stage tables 2>&1 | tee {log}"


rule figures:
    input:
        upstream("figures"),
        ancient("data/faces/test.npy"),
        ancient("data/sketches/test.npy"),
        ancient("data/references/same.npy"),
        ancient("data/references/cross.npy"),
        only(EMBEDDED, "data/references/cross_true.npy"),
        only(rows.scenes(P), "data/references/scene.npy"),
        ancient("data/faces/manifest.csv"),
        ancient("data/references/pairing.csv"),
        of("figures", "images"),
        of("figures", "curves"),
    output:
        [
            report(
                f"reports/figures/qualitative_{setting}.png",
                category="Pictures",
                caption="../report/qualitative.rst",
            )
            for setting in rows.pictured(P)
        ],
        [f"reports/figures/qualitative_{setting}.pdf" for setting in rows.pictured(P)],
        report(
            "reports/figures/training_curves.png",
            category="Training",
            caption="../report/training.rst",
        ),
        "reports/figures/training_curves.pdf",
        "records/figures.json",
        touch(".state/figures.ok"),
    log:
        "logs/figures.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "figures: pictures and curves"
    shell:
        "ssimbad stage figures 2>&1 | tee {log}"


rule modes:
    input:
        upstream("modes"),
        ancient("data/faces/test.npy"),
        ancient("data/sketches/test.npy"),
        rest("modes", "test", "sketches", "manifest"),
        ancient("data/faces/manifest.csv"),
    output:
        report(
            "reports/figures/modes.png",
            category="Pictures",
            caption="../report/modes.rst",
        ),
        "reports/figures/modes.pdf",
        "records/modes.json",
        touch(".state/modes.ok"),
    log:
        "logs/modes.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "modes: one set of weights, every mode, every kind of reference"
    shell:
        "ssimbad stage modes 2>&1 | tee {log}"


rule ladder:
    input:
        upstream("ladder"),
        of("ladder", "summaries"),
        of("ladder", "images"),
    output:
        report(
            "reports/tables/ladder.csv",
            category="Tables",
            caption="../report/ladder.rst",
        ),
        "reports/tables/ladder.md",
        "reports/tables/ladder.tex",
        "records/ladder.json",
        touch(".state/ladder.ok"),
    log:
        "logs/ladder.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "ladder: from one schedule to another, a part at a time"
    shell:
        "ssimbad stage ladder 2>&1 | tee {log}"


rule sweep:
    input:
        upstream("sweep"),
        of("sweep", "summaries"),
        of("sweep", "images"),
    output:
        report(
            "reports/tables/sweep.csv",
            category="Tables",
            caption="../report/sweep.rst",
        ),
        "reports/tables/sweep.md",
        "reports/tables/sweep.tex",
        "records/sweep.json",
        touch(".state/sweep.ok"),
    log:
        "logs/sweep.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "sweep: the points of a grid, the best first"
    shell:
        "ssimbad stage sweep 2>&1 | tee {log}"


rule compute:
    input:
        upstream("compute"),
        of("compute", "summaries"),
        of("compute", "images"),
    output:
        report(
            "reports/tables/compute.csv",
            category="Tables",
            caption="../report/compute.rst",
        ),
        "reports/tables/compute.md",
        "reports/tables/compute.tex",
        "records/compute.json",
        touch(".state/compute.ok"),
    log:
        "logs/compute.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "compute: the rows by the work that their training took"
    shell:
        "ssimbad stage compute 2>&1 | tee {log}"


rule chain_steps:
    input:
        upstream("chain_steps"),
        ancient("reports/tables/compute.csv"),
    output:
        report(
            "reports/figures/chain_steps.png",
            category="Cost",
            caption="../report/chain_steps.rst",
        ),
        "reports/figures/chain_steps.pdf",
        "records/chain_steps.json",
        touch(".state/chain_steps.ok"),
    log:
        "logs/chain_steps.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "chain_steps: refinement through chains of different lengths"
    shell:
        "ssimbad stage chain_steps 2>&1 | tee {log}"


rule nfe_figure:
    input:
        upstream("nfe_figure"),
        of("nfe_figure", "values"),
    output:
        report("reports/figures/nfe.png", category="Cost", caption="../report/nfe.rst"),
        "reports/figures/nfe.pdf",
        report("reports/tables/nfe.csv", category="Cost", caption="../report/nfe.rst"),
        "reports/tables/nfe.md",
        "reports/tables/nfe.tex",
        "records/nfe_figure.json",
        touch(".state/nfe_figure.ok"),
    log:
        "logs/nfe_figure.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "nfe_figure: quality against network calls"
    shell:
        "ssimbad stage nfe_figure 2>&1 | tee {log}"


rule spread_table:
    input:
        upstream("spread_table"),
        of("spread_table", "values"),
    output:
        report(
            "reports/tables/spread.csv",
            category="Tables",
            caption="../report/spread.rst",
        ),
        "reports/tables/spread.md",
        "reports/tables/spread.tex",
        "records/spread_table.json",
        touch(".state/spread_table.ok"),
    log:
        "logs/spread_table.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "spread_table: how far answers from different noise lie apart"
    shell:
        "ssimbad stage spread_table 2>&1 | tee {log}"


rule measures:
    input:
        upstream("measures"),
        of("measures", "made"),
    output:
        report(
            "reports/tables/measures.csv",
            category="Training",
            caption="../report/measures.rst",
        ),
        "reports/tables/measures.md",
        "reports/tables/measures.tex",
        "records/measures.json",
        touch(".state/measures.ok"),
    log:
        "logs/measures.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "measures: what trainings say of themselves"
    shell:
        "ssimbad stage measures 2>&1 | tee {log}"


rule reverse_figures:
    input:
        upstream("reverse_figures"),
        of("reverse_figures", "pictures", "values"),
    output:
        report(
            "reports/tables/reverse.csv",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/tables/reverse.md",
        "reports/tables/reverse.tex",
        report(
            "reports/figures/reverse_samples_beta.png",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/figures/reverse_samples_beta.pdf",
        report(
            "reports/figures/reverse_samples_posterior.png",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/figures/reverse_samples_posterior.pdf",
        report(
            "reports/figures/reverse_trajectories_beta.png",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/figures/reverse_trajectories_beta.pdf",
        report(
            "reports/figures/reverse_trajectories_posterior.png",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/figures/reverse_trajectories_posterior.pdf",
        report(
            "reports/figures/reverse_recover_whole.png",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/figures/reverse_recover_whole.pdf",
        report(
            "reports/figures/reverse_recover_matched.png",
            category="Faces from nothing",
            caption="../report/reverse.rst",
        ),
        "reports/figures/reverse_recover_matched.pdf",
        "records/reverse_figures.json",
        touch(".state/reverse_figures.ok"),
    log:
        "logs/reverse_figures.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    message:
        "reverse_figures: faces from nothing, on their way, and brought back from noise"
    shell:
        "ssimbad stage reverse_figures 2>&1 | tee {log}"
