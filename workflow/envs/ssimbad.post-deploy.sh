#!/bin/bash
# Run by Snakemake in the new environment, from the repository's root. The digest makes another lock another environment;
# `make lock` writes it.
set -euo pipefail
echo "863a4e461d385e70a24a18e7f6ab38d0edc13208a0482197ca36cd7bb737b7a1  requirements.hashes.lock" | sha256sum --check --quiet
python -m pip install --quiet --require-hashes -r requirements.hashes.lock
python -m pip install --quiet --no-deps --no-build-isolation -e .
