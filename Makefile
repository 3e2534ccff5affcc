# make demo   set up .venv, synthesize a person, fit an avatar, write demo/report.html
# make test   set up .venv, run every check: lint, types, spelling, tests, a smoke fit of the built wheel
#
# torch is installed before everything else, so that this line alone decides which build it is. CPU only, a small download:
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -qq

.PHONY: demo test lint smoke clean

demo: $(VENV)/installed
	$(BIN)/selfrecon demo --out demo --overwrite

test: lint $(VENV)/installed-dev
	$(MAKE) smoke
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/typos

# The wheel, unpacked apart from the checkout and run from another folder: does it hold all it needs?
smoke: $(VENV)/installed-dev
	rm -rf $(VENV)/smoke build
	$(PIP) --no-deps --target $(VENV)/smoke/site .
	rm -rf build
	cd $(VENV)/smoke && PYTHONPATH=site ../bin/python -m selfrecon_warp demo --smoke --out demo

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e .[dev]
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
