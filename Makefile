# `make demo` and `make test` do all their own set-up on a fresh machine.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := config.py node training tests bench

# Byte code is kept whatever the shell says: a test run starts the node hundreds of times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format install system clean

demo: install
	$(BIN)/radnode demo

# A file is one worker's, so that what it starts is started once.
test: install-dev system
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=25 tests/stories tests/conformance tests/contracts tests/rooms

check: install-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-training.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt --requirement requirements-training.txt
	touch $@

# What the tests need of Debian or Ubuntu: a real Orthanc, DCMTK, dciodvfy, Chromium.
system:
	sh tests/install-system-packages.sh

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
