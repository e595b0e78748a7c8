# `make run` and `make test` are each enough on a fresh machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test slow bench docs clean

run: $(VENV)/.installed
	$(BIN)/python -m ufm.flow --C 10 --N 500 --P 512

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m "slow or gpu"

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	$(BIN)/python -m compileall -q ufm manifolds sims
	touch $@

clean:
	rm -rf $(VENV)
