# make demo    the small model that ships, exported and asked, offline
# make test    every test
# make lint    ruff and mypy
#
# Each builds its own environment in .venv when it is missing or out of date. On Linux `test` has a second one in
# .venv-gpu, with the engine for GPUs; what it tests needs no GPU (tests/fake_cuda).

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
GPU_VENV := .venv-gpu
# The engine for GPUs is there for one kind of machine; elsewhere its tests are skipped.
GPU_INSTALLED := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(GPU_VENV)/.installed)

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(VENV)/bin/paligemma-onnx demo

test: $(INSTALLED) $(GPU_INSTALLED)
	$(VENV)/bin/pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy | tee $(VENV)/mypy.log; test "$${PIPESTATUS[0]}" = 0
	@# mypy finds the packages through the links in typings/; where links were not checked out it looks at nothing.
	@grep -Eq 'no issues found in [0-9]{2,} source files' $(VENV)/mypy.log

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,export,dev]'
	@touch $@

$(GPU_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-* build *.egg-info

SHELL := bash
