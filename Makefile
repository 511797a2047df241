# make run    create the environment, install, and serve on 127.0.0.1:8000
# make test   all the tests, JOBS at once (4; JOBS=0: in one process)
# make check  formatting, lint, types, import rules, tests: what must be green before a commit
# make hooks  from now on git commits only what passes formatting, lint, types and import rules
# make attack  faults, floods, strangers' pages and mutated requests against a running gateway: five minutes
# make clients  coding agents, frameworks and Open WebUI, installed apart; ARGS="codex open_webui": some of them
# make bench  this gateway beside nginx, llama-swap (LLAMA_SWAP names its binary) and no proxy at all
# make bench-scheduler  the planner beside other schedulers, simulated
# make bench-prompts  two models that do not fit together, with long conversations: prompts saved or read again
# make trial  two pretended GPUs, real servers, four clients, for a minute; ARGS=--stay: until Ctrl-C, for the page
# make drift  what a build of llama-server allocates differently: ARGS=/path/to/llama-server
# make bench-headers  the reader of GGUF headers beside the gguf package's

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 4
TYPESCRIPT ?= npx --yes --package typescript@5.9.3 tsc

.PHONY: run setup test check hooks lint attack clients bench bench-headers bench-prompts bench-scheduler drift trial clean

run: $(VENV)/installed
	$(BIN)/python run.py $(ARGS)

setup: $(VENV)/installed-test

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-logo
	@$(TYPESCRIPT) --version >/dev/null 2>&1 || { echo "the page's types are not checked: npx cannot run TypeScript"; exit 0; }; \
	$(TYPESCRIPT) --project proxy/page/jsconfig.json

check: lint test

hooks: $(VENV)/installed-test
	git config core.hooksPath .ci/hooks

attack: $(VENV)/installed-test
	$(BIN)/python -m tests.attack $(ARGS)

clients: $(VENV)/installed-test
	$(BIN)/python -m tests.conformance.clients $(ARGS)

bench: $(VENV)/installed-test
	$(BIN)/python -m tests.bench $(ARGS)

bench-headers: $(VENV)/installed-test
	$(BIN)/python -m tests.bench.headers

bench-scheduler: $(VENV)/installed-test
	$(BIN)/python -m tests.bench.scheduler $(ARGS)

bench-prompts: $(VENV)/installed-test
	$(BIN)/python -m tests.bench.prompts $(ARGS)

drift: $(VENV)/installed-test
	$(BIN)/python -m tests.drift $(ARGS)

trial: $(VENV)/installed-test
	$(BIN)/python -m tests.trial $(ARGS)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
