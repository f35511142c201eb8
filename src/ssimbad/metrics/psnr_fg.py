"""Peak signal-to-noise ratio of the figure alone, by the true mask."""

from ssimbad.errors import there
from ssimbad.metrics.contract import Metric
from ssimbad.metrics.psnr import weighted

METRIC = Metric(
    id="psnr_fg", label="PSNR, figure (dB)", decimals=2, better="↑", needs=("targets", "masks"), place=91,
    optional=True, function=lambda given: weighted(given.images, there(given.targets), there(given.masks)),
)  # fmt: skip
