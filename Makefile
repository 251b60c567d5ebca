# What the documentation tells people to run. Every target sets up .venv by itself and needs only make and Python 3.11 or 3.12.

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
VENV ?= .venv
ENCODER ?= mlclip-lite
PRETRAINED ?=
TOOLS ?= mlclip mlclip-export mlclip-serve mlclip-client mlclip-bench
COMMANDS ?= docs/commands
WORKERS ?= 2
BIN := $(VENV)/bin

.PHONY: help demo test test-slow test-faults check fix docs docs-commands bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/ready  ## train two heads, serve them with Triton, classify the demo's test images
	$(BIN)/python demo/run.py --encoder $(ENCODER) $(if $(PRETRAINED),--pretrained $(PRETRAINED))

test: $(VENV)/ready  ## run the tests to run before every commit, with a real Triton server (7 minutes on 2 cores)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(VENV)/ready  ## run the other tests: the whole documentation, long jobs, killed processes, Ray
	$(BIN)/python -m pytest -m slow

test-faults: $(VENV)/ready  ## run the tests of damage, dead processes, hostile images and full disks, slow or not
	$(BIN)/python -m pytest -m faults

check: $(VENV)/ready  ## lint, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/ready  ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: docs-commands  ## write docs/commands from the commands themselves, and the tables of docs/results.md
	$(BIN)/mlclip-bench tables docs/results.md

docs-commands: $(VENV)/ready
	@mkdir -p $(COMMANDS)
	@for tool in $(TOOLS); do \
	  $(BIN)/typer $${tool//-/_}.cli utils docs --name $$tool --output $(COMMANDS)/$$tool.md || exit 1; \
	done

bench: $(VENV)/ready  ## measure how the cost of heads grows with the number of classes: runs/scaling/report.md
	$(BIN)/mlclip-bench --classes 46,80,1000

clean:  ## remove what demo and test have made
	rm -rf $(VENV) runs features demo/labels.parquet demo/predictions.png

$(VENV)/ready: pyproject.toml client/pyproject.toml serve/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and \
	  f"mlclip needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make $(MAKECMDGOALS) PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --group dev -e ./client -e ./serve -e .
	@touch $@
