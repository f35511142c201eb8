#!/bin/bash
# Run by Snakemake in the new environment, from the repository's root. The digest makes another lock another environment;
# `make lock` writes it.
set -euo pipefail
[[ -f requirements.hashes.lock ]] || { echo "requirements.hashes.lock: not here; --sdm conda works in a checkout alone" >&2; exit 1; }
echo "d797a786e5858c3e7bf837252036d4e325cdbd74f82b79af3c5374a32b1e64b1  requirements.hashes.lock" | sha256sum --check --quiet
python -m pip install --quiet --require-hashes -r requirements.hashes.lock
python -m pip install --quiet --no-deps --no-build-isolation -e .
