# Everything that a checkout can do. `make demo` and `make test` are the two commands to begin with.
# Each target first sets up what it needs; set-up skips what is done.

PYTHON ?= python3
PY := .venv/bin/python
ifeq ($(shell command -v $(PYTHON)),)
$(error There is no $(PYTHON). On Debian and Ubuntu: apt-get install python3)
endif
# The machine's own pulumi if it has one, else the one that set-up built, with stand-ins for what is missing beside it.
export PATH := $(shell $(PYTHON) -m tools.setup env)

# The output of `make test` reads from top to bottom, and pytest's closing line comes last.
.NOTPARALLEL:

.PHONY: help setup setup-demo setup-dev demo test lint unit kernel systems systems-whole fuzz kills faults dist release schema docs pictures commands protocol sdk bench libraries clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: setup-demo ## Watch hostnet at work, in network namespaces that are deleted at the end (as root or with sudo)
	@$(PY) -m tools.demo

test: setup lint unit kernel ## Run everything that CI runs (as root)

setup: ## Install all that is missing: what `demo` needs, the development tools, the test machines
	@$(PYTHON) -m tools.setup test

setup-demo: ## Install only what `demo` needs: nftables, QEMU, .venv, pulumi, a microVM
	@$(PYTHON) -m tools.setup demo

setup-dev: ## Install only what a change of the code needs: .venv with the development tools, the SDK generator
	@$(PYTHON) -m tools.setup dev

lint: setup-dev ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: setup-dev ## Run the tests that need neither root nor the kernel's network
	$(PY) -m pytest -q tests/unit

kernel: setup ## Run all other tests: real packets, the real pulumi, a microVM, a whole server (as root)
	@[ "$$(id -u)" = 0 ] || { echo "These tests make network namespaces: run them as root." >&2; exit 1; }
	$(PY) -m pytest -q -n 2 --dist loadgroup --ignore=tests/unit --ignore=tests/systems tests

systems: setup ## Run set-up and tests in minimal systems, a Debian 12 and a Debian 13 (as root, on a Debian)
	@$(PYTHON) -m tools.setup systems
	$(PY) -m pytest -q -n 2 --dist loadgroup tests/systems

systems-whole: setup ## Run the demo, and the tests of cli and dynamic, in the minimal systems (long)
	@$(PYTHON) -m tools.setup systems
	$(PY) -m pytest -q -n 2 --dist loadgroup tests/systems/whole.py

fuzz: setup ## Run random sequences against the model: HOSTNET_SEQUENCES (default 5000), HOSTNET_SEED (the time)
	@HOSTNET_SEQUENCES=$${HOSTNET_SEQUENCES:-5000} HOSTNET_SEED=$${HOSTNET_SEED:-$$(date +%s)} \
		$(PY) -m pytest -q -n 2 tests/netns/test_properties.py -k test_whatever

kills: setup ## Kill the plugin and pulumi at random moments: HOSTNET_MOMENTS (default 320), HOSTNET_SEED (the time)
	@HOSTNET_MOMENTS=$${HOSTNET_MOMENTS:-320} HOSTNET_SEED=$${HOSTNET_SEED:-$$(date +%s)} \
		$(PY) -m pytest -q -n 2 tests/e2e/test_kills.py

faults: setup ## Break everything at random moments: HOSTNET_MOMENTS (default 2500 for each side), HOSTNET_SEED (the time)
	@HOSTNET_MOMENTS=$${HOSTNET_MOMENTS:-2500} HOSTNET_SEED=$${HOSTNET_SEED:-$$(date +%s)} \
		$(PY) -m pytest -q -n 2 --dist loadgroup tests/netns/test_fault_matrix.py tests/ssh/test_fault_matrix.py

dist: setup-dev ## Build all that is published into dist/: wheels, npm package, Go module, plugin
	@$(PY) -m tools.dist

release: setup-dev ## Check that this commit can be released, and tag it
	@$(PY) -m tools.release --tag

schema: setup-dev ## Write schema.json from the declarations in provider/hostnet/resources
	$(PY) -m hostnet.resources.package_schema > schema.json.part
	mv schema.json.part schema.json

docs: setup-demo ## Write docs/resources from the declarations, and the listings in docs/ from new runs (as root)
	$(PY) -m hostnet.resources.reference_pages docs/resources
	$(PY) -m tools.docs_listing docs/nft.md docs/drift-and-import.md docs/cli.md

pictures: setup ## Draw docs/pictures from real runs, with a browser (as root)
	$(PY) -m tools.pictures
	$(PY) -m tools.pulumi_pictures

commands: setup-dev ## Write the shell completions and the manual page from the command line's parser
	$(PY) -m tools.command_line

protocol: setup-dev ## Write provider/hostnet/rpc/protos from the `pulumi` that constraints.txt pins
	$(PY) -m tools.protocol

sdk: schema ## Write the SDKs for Python, Node.js and Go from schema.json
	"$$($(PYTHON) -m tools.setup gensdk)" schema.json sdk tools/gensdk/overlays
	@$(PYTHON) -m tools.setup dev

bench: setup ## Measure hostnet beside a provider that does nothing and bare tools: ROWS (1,4), ROUNDS (as root)
	@$(PYTHON) -m tools.setup bench
	$(PY) -m benchmarks.run

libraries: setup ## Compare hostnet's kernel code with pyroute2 and nftables' Python bindings: TAPS, FORWARDS, ROUNDS
	$(PY) -m benchmarks.libraries

clean: ## Remove .venv, the cache and build files; Debian packages stay
	$(PYTHON) -m tools.setup clean
	rm -rf build dist .venv-plugin .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
