"""Peak signal-to-noise ratio of the background alone, by the true mask."""

from ssimbad.metrics.contract import Metric, needed
from ssimbad.metrics.psnr import weighted

METRIC = Metric(
    id="psnr_bg", label="PSNR, background (dB)", decimals=2, better="↑", needs=("targets", "masks"), place=92,
    optional=True, function=lambda given: weighted(given.images, needed(given.targets), 255 - needed(given.masks)),
)  # fmt: skip
