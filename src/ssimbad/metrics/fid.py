"""Fréchet and kernel Inception distance on the 2048 features of pytorch-fid's network.

FID (Heusel et al. 2017) is biased upwards when images are few, so it is only comparable at equal n; KID
(Bińkowski et al. 2018) stands beside it because it is unbiased.
"""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from pytorch_fid import fid_score, inception
from torch import nn

from ssimbad.errors import UserError
from ssimbad.runtime import devices, pool
from ssimbad.seeding import derive

FEATURES = 2048
BATCH = 32
KID_SUBSET = 1000
KID_SUBSETS = 100


def load_network(path: Path) -> nn.Module:
    """pytorch-fid's Inception with the weights of a local file, in evaluation mode on the CPU.

    Raises:
        UserError: the file is no state dictionary of that network.
    """
    return _with_weights(read_state(path, "weights.inception"), path)


def read_state(path: Path, key: str) -> dict[str, torch.Tensor]:
    """State dictionary of a .pth file; nothing in it is executed. `key` is the parameter that names the file.

    Raises:
        UserError: the file cannot be read as tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a file that is none of its own
        kind = type(error).__name__
        raise UserError(f"{path}: no PyTorch weights ({kind}); delete it and check {key} in params.yaml") from None


def _with_weights(state: dict[str, torch.Tensor], path: Path) -> nn.Module:
    # pytorch-fid can only build its network by downloading; hand it the state it would have downloaded.
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        try:
            return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).eval()
        except (RuntimeError, TypeError):
            raise UserError(f"{path}: not pytorch-fid's Inception; check weights.inception in params.yaml") from None


def features(images: np.ndarray, *copies: nn.Module) -> np.ndarray:
    """(N, H, W, 3) uint8 → (N, 2048) float64: pool3 features; the network resizes the images to 299².

    Args:
        copies: the network, once per worker; they take the batches, which are the same for any number.
    """

    @torch.inference_mode()
    def one(network: nn.Module, start: int) -> torch.Tensor:
        batch = torch.tensor(images[start : start + BATCH]).to(devices.home(network))
        return network(batch.permute(0, 3, 1, 2).float() / 255)[0].flatten(1).cpu()

    with devices.exact():
        return torch.cat(list(pool.ordered_map(one, range(0, len(images), BATCH), copies))).double().numpy()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """FID of two sets of features, (N, D) and (M, D), by pytorch-fid's own function.

    Raises:
        ValueError: fewer than two images in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("FID needs two images in each set")
    return float(
        fid_score.calculate_frechet_distance(
            a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
        )
    )


def kernel_distance(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """KID of two sets of features, (N, D) and (M, D): unbiased squared MMD, kernel (x·y / D + 1)³.

    Up to `KID_SUBSET` images all pairs are used; beyond that the mean over `KID_SUBSETS` seeded subsets of
    that size, as published. It can be negative.

    Raises:
        ValueError: fewer than two images in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("KID needs two images in each set")
    if max(len(a), len(b)) <= KID_SUBSET:
        return _mmd2(a, b)
    generator = np.random.default_rng(derive(seed, "kid"))

    def draw(x: np.ndarray) -> np.ndarray:
        return x[generator.choice(len(x), min(len(x), KID_SUBSET), replace=False)]

    return float(np.mean([_mmd2(draw(a), draw(b)) for _ in range(KID_SUBSETS)]))


def _mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, lemma 6)."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
