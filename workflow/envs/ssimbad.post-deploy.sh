#!/bin/bash
# Run by Snakemake in the new environment, from the repository's root. The digest makes another lock another environment;
# `make lock` writes it.
set -euo pipefail
echo "4693c1fb7140f046e9924a7ff1549a9b9746369b6bd96bd2b22f721df49cc475  requirements.hashes.lock" | sha256sum --check --quiet
python -m pip install --quiet --require-hashes -r requirements.hashes.lock
python -m pip install --quiet --no-deps --no-build-isolation -e .
