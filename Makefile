# People, pre-commit and CI call the same targets. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

.DEFAULT_GOAL := help
.PHONY: help install ui demo test test-browser test-all core-imports check format bench bench-peers bench-quantized ruler constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(STAMP) ## build .venv with the `assistant` command; does nothing when nothing changed

# torch goes first, by its pin, so that no other requirement picks a build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: Python 3.10 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e '.[train,ui,dev]'
	@touch $@

ui: $(STAMP) ## start the chat page in a browser
	$(BIN)/assistant ui

demo: $(STAMP) ## ask the default model about the bundled photograph
	$(BIN)/assistant ask assistant/assets/demo.jpg -q "What is in the picture?"

test: $(STAMP) ## the fast tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not gpu and not network and not browser"

test-browser: $(STAMP) ## the chat page in a headless Chromium; screenshots go to tests/ui/screenshots
	$(BIN)/python -m pytest -n 0 -m browser

test-all: $(STAMP) ## every test that this machine can run
	$(BIN)/python -m pytest

core-imports: $(STAMP) ## import every module with the core dependencies alone
	$(BIN)/python -m pytest -q tests/test_core_imports.py

check: $(STAMP) ## format, lint, types and the direction of imports; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMP) ## load, first token, tokens a second and peak memory of the default model
	$(BIN)/python benchmarks/default.py

bench-peers: $(STAMP) $(PEERS_STAMP) ## ours beside OpenFlamingo and Idefics, in one run
	$(BIN)/python benchmarks/peers.py

# OpenFlamingo needs an older transformers. What it asks for beside that, an older torch, open_clip and torchvision, it
# does not get: its model alone is imported.
$(PEERS_STAMP): benchmarks/peers/requirements.txt constraints.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS) || { rm -rf $(PEERS); \
		echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PEERS)/bin/python -m pip install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PEERS)/bin/python -m pip install -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --no-deps open-flamingo==2.0.1
	@touch $@

bench-quantized: $(STAMP) ## the default in bfloat16, 8 and 4 bits: bytes, speed, and whether it says the same
	$(BIN)/python benchmarks/quantized.py

ruler: $(STAMP) ## every task of `assistant eval` on its test set, in one go
	$(BIN)/python benchmarks/ruler.py --set test

constraints: ## write constraints.txt from what .venv holds
	$(BIN)/python .ci/constraints.py > constraints.new && mv constraints.new constraints.txt

clean: ## remove the virtual environments and what the tools keep
	rm -rf $(VENV) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
