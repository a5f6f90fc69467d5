# Everything a checkout can do. Each target sets up what it needs first; what is there already is skipped.

PYTHON ?= python3
PY := .venv/bin/python
# The machine's own pulumi where there is one, else the one that `setup` built, and stand-ins for what is missing.
export PATH := $(shell $(PYTHON) -m tools.setup env)

# The lines of `make test` are one story, with pytest's closing line last.
.NOTPARALLEL:

.PHONY: help setup demo test lint unit kernel fuzz sdk schema docs bench fleet latency clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

setup: ## Install what is missing: Debian packages, .venv, pulumi, the test machines
	@$(PYTHON) -m tools.setup

demo: setup ## See hostnet at work, in throw-away network namespaces
	@$(PY) -m tools.demo

test: setup lint unit kernel ## Everything that CI checks

lint: setup ## Style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: setup ## The tests that need neither root nor kernel
	$(PY) -m pytest -q tests/unit

kernel: setup ## All other tests: real packets, the real pulumi, a microVM, a whole server
	$(PY) -m pytest -q -n 2 --dist loadgroup --ignore=tests/unit tests

fuzz: setup ## Random sequences against the model: HOSTNET_SEQUENCES (5000), HOSTNET_SEED (the time)
	@HOSTNET_SEQUENCES=$${HOSTNET_SEQUENCES:-5000} HOSTNET_SEED=$${HOSTNET_SEED:-$$(date +%s)} \
		$(PY) -m pytest -q -n 2 tests/netns/test_properties.py -k test_whatever

schema: setup ## schema.json from the resources' own types
	$(PY) -m hostnet.resources.package_schema > schema.json.part
	mv schema.json.part schema.json

docs: setup ## docs/resources from the same types, and the listings in docs/ from runs of their commands (as root)
	$(PY) -m hostnet.resources.reference_pages docs/resources
	$(PY) -m tools.docs_listing docs/nft.md docs/drift-and-import.md

sdk: schema ## The SDKs for Python, Node.js and Go from schema.json
	"$$($(PYTHON) -m tools.setup gensdk)" schema.json sdk tools/gensdk/overlays
	@$(PYTHON) -m tools.setup

bench: setup ## Compare hostnet with a no-op provider, in one run
	$(PY) -m benchmarks.run

fleet: setup ## The same for 50 hosts over SSH in one program: HOSTS, TAPS, FORWARDS, ROUNDS
	$(PY) -m benchmarks.fleet

latency: setup ## How long a host takes that is far away: RTTS (milliseconds), CREATES, ROUNDS
	$(PY) -m benchmarks.latency

clean: ## Remove .venv and the cache
	$(PYTHON) -m tools.setup clean
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
