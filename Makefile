# `make run` and `make test` are each enough on a fresh machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := python -m pip install --quiet --disable-pip-version-check
QUICK := --no-compile # Python compiles the few modules that are imported, and no others
# and keeps them, whatever the environment says: the tests start many processes, each of which would compile torch anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test slow attack bench gpu docs lowest constraints clean

run: $(VENV)/.core
	$(BIN)/python -m ufm.flow --C 10 --N 500 --P 512

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not attack"

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow or gpu"
	$(BIN)/python -m pytest -n 2 --hypothesis-profile thorough -m "not slow and not gpu and not attack" tests/manifolds tests/ufm

# hostile command lines, kills, full disks and second writers; ATTACK_LINES and ATTACK_KILLS change the counts
attack: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "attack or not attack" tests/attack

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# the tests and timings of a CUDA device into docs/gpu.md; without one, what was not run
gpu: $(VENV)/.test
	$(BIN)/python -m benchmarks.gpu

docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# the theory and the geometry on the oldest versions that pyproject.toml allows
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(PYTHON) tests/lowest.py > $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/$(PIP) -c $(VENV)-lowest/lowest.txt -e ".[tables]" pytest hypothesis mpmath
	$(VENV)-lowest/bin/python -m pytest -W ignore::DeprecationWarning -m "not slow and not gpu" tests/manifolds tests/ufm/features tests/ufm/laws tests/ufm/tensor tests/ufm/flow

# every version of constraints.txt anew, the newest that install together, and their hashes in requirements.lock
constraints:
	$(PYTHON) -m venv $(VENV)-constraints
	$(VENV)-constraints/bin/$(PIP) -e ".[test]"
	(sed -n '1,/^#.*$$/p' constraints.txt | grep '^#'; $(VENV)-constraints/bin/python -m pip freeze --exclude-editable | grep '==' | sed 's/+cpu$$//') > $(VENV)-constraints/new.txt
	mv $(VENV)-constraints/new.txt constraints.txt
	$(VENV)-constraints/bin/$(PIP) uv
	$(VENV)-constraints/bin/uv pip compile pyproject.toml --extra test --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-header -q -c constraints.txt -o $(VENV)-constraints/new.lock
	(grep '^#' requirements.lock; grep -v '^ *#' $(VENV)-constraints/new.lock) > $(VENV)-constraints/whole.lock
	mv $(VENV)-constraints/whole.lock requirements.lock

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) $(QUICK) -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/$(PIP) $(QUICK) -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-constraints
