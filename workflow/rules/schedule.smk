# The noise-schedule study: SSIM against sigma, and the phi that makes it a straight line.
rule ssim_curves:
    input:
        upstream("ssim_curves"),
        ancient("data/faces/train.npy"),
        ancient("data/faces/manifest.csv"),
    output:
        "reports/schedule/ssim_curves.csv",
        "records/ssim_curves.json",
        touch(".state/ssim_curves.ok"),
    log:
        "logs/ssim_curves.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "ssim_curves: similarity of noisy faces"
    shell:
        "ssimbad stage ssim_curves 2>&1 | tee {log}"


rule select_phi:
    input:
        upstream("select_phi"),
        ancient("reports/schedule/ssim_curves.csv"),
        ancient("data/faces/train.npy"),
        ancient("data/faces/manifest.csv"),
    output:
        "reports/schedule/phi_star.json",
        report(
            "reports/tables/r2.csv",
            category="Noise schedule",
            caption="../report/r2.rst",
        ),
        report(
            "reports/figures/ssim_degradation.png",
            category="Noise schedule",
            caption="../report/ssim_degradation.rst",
        ),
        "reports/figures/ssim_degradation.pdf",
        report(
            "reports/figures/noisy_grid.png",
            category="Noise schedule",
            caption="../report/noisy_grid.rst",
        ),
        "reports/figures/noisy_grid.pdf",
        report(
            "reports/figures/r2.png",
            category="Noise schedule",
            caption="../report/r2.rst",
        ),
        "reports/figures/r2.pdf",
        "records/select_phi.json",
        touch(".state/select_phi.ok"),
    log:
        "logs/select_phi.log",
    conda:
        "../envs/ssimbad.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "select_phi: which schedule is linear in SSIM"
    shell:
        "ssimbad stage select_phi 2>&1 | tee {log}"
