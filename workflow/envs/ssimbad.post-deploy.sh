#!/bin/bash
# Run by Snakemake in the new environment, from the repository's root. The digest makes another lock another environment;
# `make lock` writes it.
set -euo pipefail
[[ -f requirements.hashes.lock ]] || { echo "requirements.hashes.lock: not here; --sdm conda works in a checkout alone" >&2; exit 1; }
echo "7bff165a05aebb61bf5ebe7cb5122a66148d35efced4063071210d98415a1a7d  requirements.hashes.lock" | sha256sum --check --quiet
python -m pip install --quiet --require-hashes -r requirements.hashes.lock
python -m pip install --quiet --no-deps --no-build-isolation -e .
