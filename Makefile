# make demo [VOICE=human]   the main job, offline, on what ships with idiolect
# make test                 all tests and linters;  make quick: those without torch that start no programs
# make threats              take each defence away in turn: its test has to notice
# make fuzz                 5,000 questions to the server, made from its OpenAPI document; 10,000 damaged exports to their readers
# make client-wheel         dist/idiolect_client-*.whl: what an app needs to pull, without the daemon
# make setup [TORCH=cpu|cuda|rocm]
VOICE ?= synthetic
TORCH ?=
PY := .venv/bin/python

.PHONY: client-wheel demo test tests quick threats fuzz lint format bench setup setup-dev clean

demo: setup
	$(PY) -m daemon.cli demo --voice $(VOICE)

# Some tests wait for clocks and sockets, so three processes fill two cores; none starts threads of its own.
tests quick: export OMP_NUM_THREADS = 1

# The linters need one core for half a minute: they run beside the tests.
test: setup-dev
	@$(MAKE) --no-print-directory -j 2 lint tests

tests:
	$(PY) -m pytest -q -n 3 --dist worksteal

quick: setup-dev
	$(PY) -m pytest -q -n 3 --dist worksteal -m "not torch and not whispercpp and not slow"

threats: setup-dev
	$(PY) -m tests.threats

fuzz: setup-dev
	$(PY) -m tests.daemon.sync.fuzzing
	$(PY) -m tests.exporters.fuzzing

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PY) -m mypy

format: setup-dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench:
	@TORCH=$(TORCH) sh ./setup.sh dev,peers
	for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(PY) -m benchmarks.$$(basename $$file .py) || exit 1; done

client-wheel: setup
	rm -rf build/client && mkdir -p build/client dist
	cp -r idiolect LICENSE clients/python/pyproject.toml clients/python/README.md build/client
	cd build/client && $(CURDIR)/$(PY) -c "from setuptools import build_meta; build_meta.build_wheel('../../dist')"

setup:
	@TORCH=$(TORCH) sh ./setup.sh train,whispercpp

setup-dev:
	@TORCH=$(TORCH) sh ./setup.sh dev

clean:
	rm -rf .venv build dist *.egg-info demo-home-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
