# Short names for the README's commands. `make check` is what a change must pass.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: check format test slow mutate smoke gpu docs shape words

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

# whether the tests find faults in the core; `make mutate ARGS='--jobs 2'` takes half the time
mutate: $(BIN)/harness
	$(BIN)/python tests/tools/mutate.py $(ARGS)

smoke: $(BIN)/harness
	$(BIN)/harness study ablations/studies/smoke.yaml

# the generated blocks of README.md and docs/
docs: $(BIN)/harness
	$(BIN)/python docs/tools/generate.py

# files, lines and imports, beside those of another ref: make shape AGAINST=main
shape: $(BIN)/harness
	$(BIN)/python docs/tools/shape.py $(if $(AGAINST),--against $(AGAINST))

# words that the project does not use, with what to write instead
words:
	$(PYTHON) docs/tools/words.py

# most of its time is compiling, which `make gpu ARGS='-n 12'` spreads over processes
gpu:
	$(PYTHON) -m pytest -m gpu tests/model $(ARGS)
