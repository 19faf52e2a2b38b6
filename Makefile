# `make demo` and `make test` set up their own environment in .venv from nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 2

.PHONY: demo smoke test test-slow test-cluster gpu-check lint docs clean-demo viewer

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[workflow,dicom,slurm,test]'
	touch $@

## The whole method on synthetic CTs: minutes on a CPU.
demo: $(VENV)/installed demo/cohort
	$(BIN)/snakemake --cores $(CORES) --configfile presets/demo.yaml
	@echo
	@echo 'demo/results/report/index.html    the page of the run (with a CT viewer after make viewer)'
	@echo 'demo/results/evaluation/student   scores by case and class'
	@echo 'demo/results/completed_labels     the completed labels, and the conflicts with the originals'
	@echo 'demo/results/predictions/student  the student'"'"'s labels of the validation cases'
	@echo 'demo/results/models/student       the deployable model; on CTs of your own:'
	@echo '  $(BIN)/flare23 predict --model demo/results/models/student --input FOLDER --output FOLDER'
	@echo 'What a next run would compute:'
	@echo '  $(BIN)/flare23 status --configfile presets/demo.yaml'

demo/cohort: | $(VENV)/installed
	$(BIN)/flare23 phantoms --output $@.partial --cases 32 --validation 6 --seed 0
	mv $@.partial $@

## The chain with tiny networks on a few cases of a cohort in FLARE23's layout: make smoke COHORT=FOLDER
smoke: $(VENV)/installed
	$(BIN)/snakemake --cores $(CORES) --config smoke=true "cohort=$(COHORT)"

test: $(VENV)/installed lint
	$(BIN)/pytest -n $(CORES) -m 'not slow'

## The drills: kills at random moments, whole chains run again, the container in an environment of its own; and the
## property tests with more and other examples. With WITHIN=SECONDS no test begins later.
test-slow: $(VENV)/installed
	$(BIN)/pytest -n $(CORES) -m 'slow or hypothesis' --hypothesis-profile=thorough $(WITHIN:%=--begin-within=%)

## Drills on a SLURM of one node, which is brought up and taken down; as root, on Debian, about an hour (docs/cluster.md).
test-cluster: $(VENV)/installed
	trap 'tests/cluster/slurm.sh down' EXIT; tests/cluster/slurm.sh up --accounting && \
	PYTHONPATH=tests/helpers:benchmarks $(BIN)/python tests/cluster/drills.py --output benchmarks/results/cluster.json

## What only a GPU can show, against the CPU and nnU-Net, in ten minutes: build/gpu/gpu.json (benchmarks/gpu.py).
gpu-check: $(VENV)/installed
	PYTHON=$(BIN)/python benchmarks/gpu.sh --output build/gpu

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules

## The documentation as a site in build/site; a broken link is an error.
docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

## The page of all keys of the configuration, from its models.
docs/configuration.md: $(wildcard flare23_lib/config/*.py) scripts/configuration_docs.py | $(VENV)/installed
	$(BIN)/python scripts/configuration_docs.py

## The report's CT viewer: its library in a pinned version, through npm. Without it the report has no viewer.
viewer: vendor/niivue/niivue.js

vendor/niivue/niivue.js: scripts/fetch_viewer.py
	$(PYTHON) scripts/fetch_viewer.py $(@D)

clean-demo:
	rm -rf demo
