# make demo   a resnet18 learns handwritten digits in front of you; the pictures and the model end in ./demo
# make test   the whole test suite, as .ci/run runs it (ARGS="-k loop" for a part of it)
# make bench  measure minifast and its peers, in .venv-bench, and write benchmarks/RESULTS.md (ARGS="--only loop")
# make bench-quick   three minutes of it, without peers, printed only
# make test-slow     what takes minutes: five-seed accuracies, every start method of workers, benchmarks
# make test-plugins  published packages that import fastai, unedited (they are many: in .venv-plugins)
# make test-elsewhere   the suite backwards, and a part of it in another locale and time zone, as an ordinary user, on one core (ARGS=locale)
# make test-faults   kills processes and damages files: resumes to the same bits, whole saves, hostile files
# make test-dist     several processes train as one: 2, 3 and 4 of them, and how equal they are; the rest is in test-slow
# make test-nbs   executes all notebooks of nbs/ (ARGS="-k resume" for one); `make nbs` stores what they print and draw (ARGS=07)
# make test-gpu   what differs on a GPU; without one each test says why it is skipped
# make docs   the documentation site, in build/docs/index.html: a warning or an argument that nothing explains is an error, and the code of its pages runs
# make test-browser  notebooks in JupyterLab and the documentation, in headless Chromium; pictures in build/browser
# make test-newcomer   in an empty environment, the documents' own commands: train on a folder, write a plugin, resume
# make test-mutants  puts faults into the code, to see whether the tests notice (SEED=1 N=300 draws; FAULTS=1: the list)
# make dist       builds the wheel and the source archive, and runs the tests on the installed wheel
# make pythons    the same with every Python at hand, and a part of the tests
#
# Each command makes .venv and installs what it needs by itself, once; a change of setup.cfg installs again.
# All paths are relative, so the checkout may lie under a path with spaces.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test test-slow test-plugins test-elsewhere test-faults test-dist test-nbs nbs test-gpu test-browser test-newcomer test-mutants bench bench-quick docs dist pythons generated clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

demo: $(STAMP)-alone
	@$(BIN)/python -m minifast demo --out demo $(ARGS)

# A process a core, four at most; ARGS="-n 0" for one, which a debugger can stop in.
test: $(STAMP)-test
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(STAMP)-test
	@$(BIN)/python -m pytest -m slow $(ARGS)

# A missing package is a failure here, and not a test that is passed over.
test-plugins: .venv-plugins/.installed
	@.venv-plugins/bin/python -m pytest -m plugins $(ARGS)

test-elsewhere: $(STAMP)-test
	@$(BIN)/python -m tools.elsewhere $(ARGS)

test-faults: $(STAMP)-test
	@$(BIN)/python -m pytest -m "faults or tally" $(ARGS)

test-dist: $(STAMP)-test
	@$(BIN)/python -m pytest tests/distributed -m "not slow" -rP -q -n 2 --dist loadfile $(ARGS)

test-nbs: $(STAMP)-test
	@$(BIN)/python -m pytest tests/test_nbs.py -m "notebooks or not notebooks" $(ARGS)

nbs: $(STAMP)-test
	@$(BIN)/python tools/run_notebooks.py $(ARGS)

# One process: what is allocated on the GPU is measured.
test-gpu: $(STAMP)-test
	@$(BIN)/python -m pytest -m gpu $(ARGS)

test-browser: $(STAMP)-browser docs
	@command -v chromium > /dev/null || echo "There is no chromium here: apt-get install chromium"
	@$(BIN)/python -m pytest -m browser $(ARGS)

test-newcomer: $(STAMP)-test
	@$(BIN)/python -m pytest -m newcomer $(ARGS)

SEED ?= 1
N ?= 300
test-mutants: $(STAMP)-mutants
	@$(BIN)/python -m tools.mutants $(if $(FAULTS),--faults,--seed $(SEED) --n $(N)) $(ARGS)

bench: .venv-bench/.installed
	@.venv-bench/bin/python -m benchmarks $(ARGS)

bench-quick: $(STAMP)-test
	@$(BIN)/python -m benchmarks --quick $(ARGS)

# From scratch: what has not changed would not be warned about again.
docs: $(STAMP)-docs
	@$(BIN)/python -m pytest tests/test_docs.py tests/test_architecture.py -m "docs or not docs" -k "test_docs or docstrings" -q
	@$(BIN)/python -m sphinx --fresh-env --write-all --fail-on-warning --nitpicky --keep-going --quiet docs build/docs
	@echo "The site is build/docs/index.html"

# Environments of their own, which go again.
dist pythons:
	@$(PYTHON) tools/dist.py $(if $(filter pythons,$@),--pythons) $(ARGS)

# The peers bring many packages: they stay out of .venv.
.venv-bench/.installed: setup.cfg pyproject.toml
	@echo "Installing minifast and its peers into .venv-bench (once; this takes minutes)"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".[peers]"
	@touch $@

.venv-plugins/.installed: setup.cfg pyproject.toml
	@echo "Installing minifast and published callbacks into .venv-plugins (once; this takes minutes)"
	@$(PYTHON) -m venv .venv-plugins
	@.venv-plugins/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".[test-plugins]"
	@touch $@

# For developers, what is written by scripts: the list and drawing of rooms in docs/, after a room or an import came or
# went, and the schema of exports, after its table changed.
generated: $(STAMP)-test
	@$(BIN)/python tools/make_architecture.py
	@$(BIN)/python tools/make_schema.py

$(STAMP)-%: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing minifast into .venv (once; PyTorch is large, this can take minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".$(patsubst %,[%],$(filter-out alone,$*))"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else \
	    f"minifast needs Python 3.10 or newer, {sys.executable} is {v[0]}.{v[1]}; name another: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .venv-bench .venv-plugins .mutants build dist minifast.egg-info demo
