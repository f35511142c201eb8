#!/bin/bash
# Run by Snakemake in the new environment, from the repository's root. The digest makes another lock another environment;
# `make lock` writes it.
set -euo pipefail
[[ -f requirements.hashes.lock ]] || { echo "requirements.hashes.lock: not here; --sdm conda works in a checkout alone" >&2; exit 1; }
echo "59cfee1942afd0489c833701679cabc9d9e141f5700d25db92befd943b360d2d  requirements.hashes.lock" | sha256sum --check --quiet
python -m pip install --quiet --require-hashes -r requirements.hashes.lock
python -m pip install --quiet --no-deps --no-build-isolation -e .
