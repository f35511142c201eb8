"""Peak signal-to-noise ratio of the background alone, by the true mask."""

from ssimbad.errors import there
from ssimbad.metrics.contract import Metric
from ssimbad.metrics.psnr import weighted

METRIC = Metric(
    id="psnr_bg", label="PSNR, background (dB)", decimals=2, better="↑", needs=("targets", "masks"), place=92,
    optional=True, function=lambda given: weighted(given.images, there(given.targets), 255 - there(given.masks)),
)  # fmt: skip
