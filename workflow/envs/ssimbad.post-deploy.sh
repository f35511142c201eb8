#!/bin/bash
# Run by Snakemake in the new environment, from the repository's root. The digest makes another lock another environment;
# `make lock` writes it.
set -euo pipefail
echo "beefaf02b81b3b19f916874becc2a3f6484c0f5e12ce40ae336bb1fda4ed8498  requirements.hashes.lock" | sha256sum --check --quiet
python -m pip install --quiet --require-hashes -r requirements.hashes.lock
python -m pip install --quiet --no-deps --no-build-isolation -e .
