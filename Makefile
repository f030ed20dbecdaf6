# make demo      export the model in the repository and answer about a scene, offline
# make check     the quick tests, under a minute
# make test      every test but the longest, under five minutes on two cores
# make test-all  every test, also those of the CUDA provider on a fake CUDA runtime
# make test-web  the JavaScript driver, and other JavaScript runtimes, in Node and headless Chromium; needs node and npm
# make test-gpu  the tests that need an NVIDIA GPU
# make lint      ruff, the length of files, and mypy
# make docs      build the documentation site in build/docs, with every warning an error
#
# Each target creates the virtual environment .venv if it is missing or older than pyproject.toml. `test-all` and
# `test-gpu` also create .venv-gpu, with onnxruntime-gpu; only `test-gpu` needs a GPU (tests/fake_cuda/README.md).

SHELL := bash
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
GPU_VENV := .venv-gpu
# onnxruntime-gpu and the fake CUDA runtime exist for one platform; elsewhere the CUDA tests are skipped.
GPU_INSTALLED := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(GPU_VENV)/.installed)
NODE_PACKAGES := web/node_modules/.package-lock.json tests/web/node_modules/.package-lock.json
WORKERS ?= 2
PYTEST := $(VENV)/bin/pytest
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder  # tests/conftest.py orders the files
ARGS ?=
MAX_LINES := 300

.PHONY: demo check test test-all test-web test-gpu lint docs clean

demo: $(INSTALLED)
	$(VENV)/bin/paligemma-onnx demo

check: $(INSTALLED)
	$(PYTEST) $(PARALLEL) -m "not slow and not full and not cuda and not gpu and not web" $(ARGS)

test: $(INSTALLED)
	$(PYTEST) $(PARALLEL) -m "not full and not cuda and not gpu and not web" $(ARGS)

test-all: $(INSTALLED) $(GPU_INSTALLED)
	$(PYTEST) -m cuda
	$(PYTEST) $(PARALLEL) -m "not cuda and not gpu and not web" $(ARGS)

test-web: $(INSTALLED) $(NODE_PACKAGES)
	npm test --prefix web
	$(PYTEST) $(PARALLEL) -m web tests/web $(ARGS)

test-gpu: $(INSTALLED) $(GPU_INSTALLED)
	$(PYTEST) -m gpu

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@git ls-files '*.py' '*.ts' | xargs wc -l | awk '$$1 > $(MAX_LINES) && $$2 != "total" {print $$2 ": " $$1 " lines, the limit is $(MAX_LINES)"; long = 1} END {exit long}'
	$(VENV)/bin/mypy | tee $(VENV)/mypy.log; test "$${PIPESTATUS[0]}" = 0
	@# mypy finds the packages through the links in typings/; if the links are missing it checks nothing.
	@grep -Eq 'no issues found in [0-9]{2,} source files' $(VENV)/mypy.log

docs: $(INSTALLED)
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "open build/docs/index.html"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,export,dev]'
	@touch $@

$(GPU_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu]'
	@touch $@

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	npm ci --prefix $* --ignore-scripts --no-audit --no-fund
	@touch $@

clean:
	rm -rf tests/web/node_modules web/node_modules web/build web/dist $(VENV) .venv-* build *.egg-info
