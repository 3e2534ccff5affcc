# make demo   set up .venv, synthesize a person, fit an avatar, write demo/report.html
# make test   set up .venv, run every check: lint, types, spelling, tests, a smoke fit of the built wheel
#
# make bench      set up .venv with the peers, time every kernel beside them: benchmarks/results/kernels_cpu.md
# make bench-env  set up .venv-bench with PyTorch3D (Python 3.11, Linux x86-64, 5 GB), which `make bench` then includes
#
# make external   set up .venv, check exported files with the Khronos validator, three.js in Chromium, and Blender; the
#                 last two and npm have to be there (docs/export.md), what is missing is skipped aloud
#
# make viewer     bundle the viewer of report.html anew after a change of selfrecon_warp/view/page/viewer.js; needs npm
#
# torch is installed before everything else, so that this line alone decides which build it is. CPU only, a small download:
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
NODE_PACKAGES ?= gltf-validator@2.0.0-dev.3.10 three@0.187.0
PAGE := selfrecon_warp/view/page
BENCH_ARGS ?=
BENCH_PYTHON ?= python3.11

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -qq

.PHONY: demo test lint smoke external viewer bench bench-env clean

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
	cd $(VENV)/smoke && PYTHONPATH=site ../bin/python -m selfrecon_warp bench --quick --op encode --json bench.json

external: $(VENV)/installed-dev
	npm install --silent --no-audit --no-fund --prefix $(VENV)/node $(NODE_PACKAGES)
	SELFRECON_NODE_MODULES=$(VENV)/node/node_modules $(BIN)/python -m pytest -rs --log-cli-level=INFO tests/asset/test_external.py

# Versions are those of package-lock.json; the bundle is committed, so that nobody else needs npm.
viewer:
	mkdir -p $(VENV)/viewer
	cd $(PAGE) && cp package.json package-lock.json build.mjs viewer.js $(abspath $(VENV))/viewer
	cd $(VENV)/viewer && npm ci --silent --no-audit --no-fund && npm run --silent build
	cp $(VENV)/viewer/viewer.min.js $(PAGE)/viewer.min.js

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e .[dev]
	touch $@

bench: $(VENV)/installed
	$(PIP) -e .[bench]
	$(BIN)/selfrecon bench $(BENCH_ARGS)

# A wheel of PyTorch3D with compiled code exists for this Python and this torch alone; `===` because its CUDA libraries are
# missing from a local CPU build that `==` would take. It runs without a GPU. This torch needs setuptools older than 82.
bench-env:
	test -x .venv-bench/bin/python || $(BENCH_PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --disable-pip-version-check --progress-bar off -qq --only-binary :all: \
		"torch===2.12.0" easypytorch3d==0.7.9.post1 "setuptools>=77,<82"
	.venv-bench/bin/python -m pip install --disable-pip-version-check --progress-bar off -qq -e .[bench]
	.venv-bench/bin/python -c "import pytorch3d.ops, pytorch3d.renderer, selfrecon_warp.benchmarks.harness"

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
