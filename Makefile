# Everything a newcomer needs. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
# Python keeps what it has compiled, in .venv: without, every stage and engine compiles a thousand modules at its start.
unexport PYTHONDONTWRITEBYTECODE
# For Linux, macOS and Windows, Python 3.11 and newer; without comments and addresses.
compile = uv pip compile --universal --python-version 3.11 --no-header --no-annotate --quiet
# Make a preset the active experiment, unless it is already: edited parameters of that preset are left alone.
active = ssimbad preset --unless-active $(1)
# Only ssimbad knows what the stages made. It may come from .venv or, without it, from the conda environment.
clean = @command -v ssimbad >/dev/null || { echo "make $@: nothing removed: there is no ssimbad here that knows what is whose; run make install first" >&2; exit 1; }; ssimbad clean $(1)

.PHONY: help install demo demo-all ladder nfe-figure ddpm-figures chain-steps guidance frontier scenes weights seeds test test-slow test-faults test-campaigns test-engines test-browser test-slurm test-slurm-faults fuzz soak coverage mutants lint format lock audit sbom dist site pictures plots report results ui page status clean-work clean-results clean-env

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed ## the virtual environment with the locked packages

$(VENV)/.installed: requirements.hashes.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 " + "$(firstword $(MAKECMDGOALS))")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements.hashes.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install ## the whole chain on embedded faces, to tables and figures (7 minutes on two cores)
	$(call active,demo)
	snakemake --cores $(CORES) all
	ssimbad results

demo-all: install ## all rows of the main table at demo scale
	$(call active,demo-all)
	snakemake --cores $(CORES) all
	ssimbad results

ladder: install ## from EDM to SSIMBaD, one change at a time, three seeds (46 minutes on two cores)
	$(call active,demo-ladder)
	snakemake --cores $(CORES) all
	cat reports/tables/ladder.md

nfe-figure: install ## quality against network calls, for demo-all's rows
	$(call active,demo-nfe)
	snakemake --cores $(CORES) all

ddpm-figures: install ## what a DDPM of faces draws by all 1000 steps, on its way, and brings back from noise (two hours on one core)
	$(call active,demo-ddpm)
	snakemake --cores $(CORES) all
	cat reports/tables/reverse.md

scenes: install ## split attention by its modes and without its parts, on faces before busy backgrounds
	$(call active,demo-scenes)
	snakemake --cores $(CORES) all
	cat reports/tables/differences.md

chain-steps: install ## refinement through chains of 1 to 16 steps at equal training compute, three seeds
	$(call active,demo-chain-steps)
	snakemake --cores $(CORES) all
	cat reports/tables/compute.md

frontier: install ## what each lever of the demo's refined row gives for its minutes (46 minutes on two cores)
	$(call active,demo-frontier)
	snakemake --cores $(CORES) all
	python benchmarks/frontier.py

guidance: install ## guidance by the sketch and without classifiers, against none
	$(call active,demo-guidance)
	snakemake --cores $(CORES) all
	cat reports/tables/differences.md

weights: install ## the weights that come with the package, into src/ssimbad/starter (an hour and a half on two cores)
	$(call active,starter)
	snakemake --cores $(CORES) all
	rm -rf work/starter
	ssimbad export starter/finetune --half --out work/starter
	rm -rf src/ssimbad/starter
	mv work/starter src/ssimbad/starter
	cat src/ssimbad/starter/README.md

seeds: install ## the demo's rows with three seeds
	$(call active,demo-seeds)
	snakemake --cores $(CORES) all
	ssimbad results

test: install ## fast tests, with a miniature run of the whole pipeline
	python -m pytest -n $(CORES) --dist loadfile -m "not engines and not slurm and not browser and not gpu and not slow"

fuzz: install ## damaged pictures, archives, parameters, spools and weights, for ten minutes each (FUZZ_SECONDS=60: for one)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} python -m pytest --timeout 0 tests/test_fuzz.py

test-slow: install ## what takes minutes: kills and stops of trainings in several processes, the GPU benchmark on a CPU
	python -m pytest -m "slow and not slurm and not engines and not faults"

test-faults: install ## two hundred kills of the pipeline, failing and full disks, power cuts (hours; FAULTS=20: fewer kills)
	python -m pytest -v -m "faults"

test-campaigns: install ## a few minutes of what the two around it do for hours
	FAULTS=2 SOAK=4 python -m pytest -v -m "faults or soak" tests/faults -k "test_killed or long_life"

soak: install ## two hundred runs with edits in between in one checkout, into soak.csv (hours; SOAK=20: fewer runs)
	SOAK=$${SOAK:-200} SOAK_TABLE=$(CURDIR)/soak.csv python -m pytest -v -m "soak"

test-engines: install ## Snakemake, DVC and the logbook on a miniature pipeline
	python -m pytest -m "engines"

test-browser: install ## the logbook and the page in headless Chromium
	python -m pytest -m "browser"

test-slurm: install ## the pipeline and the two commonest faults on a real SLURM, installed for it (Debian, root)
	python -m pytest --durations=0 -m "slurm and not slow"

test-slurm-faults: install ## trainings on that SLURM that are requeued, cut off, shot or lose their node
	python -m pytest --durations=0 -m "slurm and slow"

coverage: install ## which lines the fast tests run, those of the processes that they start included
	python -m pytest -n $(CORES) --dist loadfile -m "not engines and not slurm and not browser and not gpu and not slow" --cov --cov-report term:skip-covered

mutants: install ## does a test notice a changed line? samplers and noise, held to 85 % (ROOMS="pairing metrics records": others)
	python .ci/mutants.py $(ROOMS)

lint: install ## what a commit has to pass, without tests: also as hooks, see CONTRIBUTING.md
	ruff check .
	ruff format --check .
	ty check
	snakefmt --check Snakefile workflow
	codespell
	python .ci/files.py
	zizmor --offline --quiet .github
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	snakemake --lint

format: install ## put the sources into their form
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

lock: ## both lock files anew from pyproject.toml (needs uv); `make lock UPGRADE=--upgrade` for newer versions
	@command -v uv >/dev/null || { echo "make lock: uv is needed: pip install uv" >&2; exit 1; }
	$(compile) --all-extras $(UPGRADE) pyproject.toml -o requirements.lock
	$(compile) --no-deps --generate-hashes requirements.lock -o requirements.hashes.lock
	sed -i -E "s/^echo \"[0-9a-f]+ /echo \"$$(sha256sum requirements.hashes.lock | cut -d ' ' -f 1) /" workflow/envs/ssimbad.post-deploy.sh

audit: install ## known vulnerabilities of the locked packages (asks over the network)
	python .ci/audit.py

sbom: install ## the locked packages with their hashes, as a bill of materials: dist/ssimbad.cdx.json
	mkdir -p dist
	cyclonedx-py requirements -i "" --pyproject pyproject.toml --output-reproducible --of JSON -o dist/ssimbad.cdx.json requirements.hashes.lock

dist: install ## what is committed as a wheel and a source archive in dist/, once the wheel has coloured a sketch elsewhere
	python .ci/dist.py

site: install ## the documentation as a site: site/index.html; nothing in it comes from elsewhere
	python docs/site.py

pictures: install ## of the pages, from the run that is here, for the documentation: docs/images (needs Chromium)
	python docs/pictures.py

plots: install ## DVC's plots as one page that needs no network: plots/index.html
	dvc plots show --out plots
	mkdir -p plots/vega
	for name in vega vega-lite vega-embed; do \
	  cp "$$(python -c 'import snakemake, pathlib; print(pathlib.Path(snakemake.__file__).parent)')/assets/data/$$name/$$name.js" plots/vega/; \
	done

report: install ## Snakemake's report with tables, figures and statistics: report.html
	snakemake --report report.html all

ui: install ## the MLflow logbook in a browser
	ssimbad ui

results: install ## tables, figures and faces on one page: reports/index.html
	ssimbad results

page: install ## colour your own sketches in a browser
	ssimbad page

status: install ## which stages are fresh, and why the others are not
	ssimbad status

clean-results: ## remove what the stages made (not the kept trainings under work/, nor files of your own)
	$(call clean,results)

clean-work: ## remove resume states and kept trainings (not files of your own)
	$(call clean,work)

clean-env: ## remove the virtual environment (not files of your own in its folder)
	@$(PYTHON) -I src/ssimbad/pipeline/environment.py $(VENV)
