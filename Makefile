# Each target does its own set-up: a .venv with pinned packages. Needs Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Two tests at a time with a thread each, a file's tests in one process: its fixtures are made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test check clean

demo: $(INSTALLED)
	$(BIN)/whet demo

test: $(INSTALLED)
	$(PYTEST) -m "not integration and not end_to_end" --ignore=tests/backends --ignore=tests/export
	$(PYTEST) -m "integration or end_to_end"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_architecture.py

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "whet needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt --editable '.[torch,quantized,mlx,documents,parquet,gguf,calibrate,http,ray,harness,bench,dev]'
	touch $(INSTALLED)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
