"""The published numbers: README of the SSIMBaD repository (256², 579 Danbooru test faces, no intervals).

Vanilla EDM, LPIPS, KID and the true cross answers have no published value.
"""

SIZE, FACES = 256, 579

_TABLE = {
    # (method, stage): PSNR, MS-SSIM, FID, each (same, cross)
    ("scft", "pretrain"): ((17.17, 15.47), (0.7833, 0.7627), (43.98, 45.18)),
    ("animediffusion", "pretrain"): ((11.39, 11.39), (0.6748, 0.6721), (46.96, 46.72)),
    ("animediffusion", "finetune"): ((13.32, 12.52), (0.7001, 0.5683), (135.12, 139.13)),
    ("ssimbad", "pretrain"): ((15.15, 13.04), (0.7115, 0.6736), (53.33, 55.18)),
    ("ssimbad", "finetune"): ((18.92, 15.84), (0.8512, 0.8207), (34.98, 37.10)),
}


def published(method: str, stage: str, setting: str, metric: str) -> float | None:
    """The published value, or None where nobody published one."""
    row = _TABLE.get((method, stage))
    if row is None or metric not in ("psnr", "ms_ssim", "fid") or setting not in ("same", "cross"):
        return None
    return row[("psnr", "ms_ssim", "fid").index(metric)][("same", "cross").index(setting)]
