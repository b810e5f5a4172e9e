# Short names for the README's commands. `make check` is what a change must pass.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: check format test slow smoke gpu

$(BIN)/harness: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

check: $(BIN)/harness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/harness
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(BIN)/harness
	$(BIN)/python -m pytest -n auto --dist loadgroup

slow: $(BIN)/harness
	$(BIN)/python -m pytest -m slow

smoke: $(BIN)/harness
	$(BIN)/harness study ablations/studies/smoke.yaml

# most of its time is compiling, which `make gpu ARGS='-n 12'` spreads over processes
gpu:
	$(PYTHON) -m pytest -m gpu tests/model $(ARGS)
