# make demo    the small model that ships, exported and asked, offline
# make test    every test
# make lint    ruff and mypy
#
# Each builds its own environment in .venv when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(VENV)/bin/paligemma-onnx demo

test: $(INSTALLED)
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

clean:
	rm -rf $(VENV) .venv-* build *.egg-info

SHELL := bash
