# Everything starts here. `make run` and `make test` install what is missing and say so; `make install` is for a laptop.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-radio lint install uninstall bench portal clean

run: $(VENV)/.ready  ## the main job in the network laboratory, told live; RADIO=1: on the air, in a virtual machine
	@lab/install-missing
	@$(BIN)/python -m $(if $(RADIO),lab.radio.story,lab.story)

test: $(VENV)/.ready lint  ## every tier that can run here; the others are skipped with the reason printed
	@lab/install-missing
	@$(BIN)/python -m pytest -n 2 --dist loadfile -rs

test-radio: $(VENV)/.ready  ## real Wi-Fi in a virtual machine, which the first run builds; 3 to 8 minutes
	@$(BIN)/python -m lab.radio.machine
	@RADIO=1 $(BIN)/python -m pytest -rs -o faulthandler_timeout=0 tests/radio

lint: $(VENV)/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || true
	@$(BIN)/python -m mypy
	@$(BIN)/python -m mypy --platform darwin policies ipc cli daemon/*.py
	@PORTAL_DEBUG=true $(BIN)/python -m mypy --config-file portal/mypy.ini
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.ready  ## alone, on an idle machine
	@for file in bench/bench_*.py; do $(BIN)/python -m bench.$$(basename $$file .py) || exit 1; done

install:  ## the daemon on this machine, as a service of systemd or launchd
	@if [ "$$(uname)" = Darwin ]; then $(PYTHON) -I launchd/install.py; else systemd/install; fi

uninstall:  ## takes it away again; the machine is open afterwards
	@if [ "$$(uname)" = Darwin ]; then $(PYTHON) -I launchd/uninstall.py; else systemd/uninstall; fi

$(VENV)/.ready: requirements-dev.lock pyproject.toml lab/install-missing
	@lab/install-missing
	@echo "making $(VENV) with the packages pinned in requirements-dev.lock"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.venv-portal/.ready: requirements-portal.lock
	@$(PYTHON) -m venv --clear .venv-portal
	@.venv-portal/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-portal.lock
	@touch $@

portal: .venv-portal/.ready  ## the web service with an embedded database, demo data and a mail box, on 127.0.0.1:8000
	@portal/deploy/development .venv-portal/bin/python

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
