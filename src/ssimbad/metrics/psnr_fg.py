"""Peak signal-to-noise ratio of the figure alone, by the true mask."""

from ssimbad.metrics.contract import Metric, needed
from ssimbad.metrics.psnr import weighted

METRIC = Metric(
    id="psnr_fg", label="PSNR, figure (dB)", decimals=2, better="↑", needs=("targets", "masks"), place=91,
    optional=True, function=lambda given: weighted(given.images, needed(given.targets), needed(given.masks)),
)  # fmt: skip
