# make run      the application with its own PostgreSQL and RabbitMQ; nothing is installed on the system
# make test     the whole test suite, from nothing
# make check    ruff, mypy, import-linter, deptry, and then:
# make coverage the tests that run in pytest's own processes, measured
# make storm    messages under deaths of everything, until each is accounted for: SEED=7 MESSAGES=50000
# make fuzz     the running API asked for everything its document allows, and more: SEED=7 EXAMPLES=500
# make bench    the measurements in bench/, side by side with what people use instead

SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
LOCAL := .local
UV := $(shell command -v uv 2>/dev/null || echo $(LOCAL)/uv/bin/uv)
RUN := $(VENV)/bin/python
PYTEST_ARGS ?=

PARALLEL := --numprocesses 4 --dist worksteal
# What is not measured: tests of other processes, and those that take their time and reach hardly a line that others don't.
# Measured, the tests that are left take twice the time on Python 3.11.
UNMEASURED := attacks bench contract crash e2e quarantine embedded/test_debian.py embedded/test_rabbitmq.py \
	schedule/test_cron_oracle.py schedule/test_storm.py test_docs.py test_shipping.py

export UV_PROJECT_ENVIRONMENT := $(VENV)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, every process of the tests would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test storm fuzz check coverage format bench setup clean

run: setup
	@exec env DEBUG=true $(RUN) app.py --roles api,consume,schedule

test: setup
	@$(RUN) -m pytest $(PARALLEL) $(PYTEST_ARGS)

storm: setup
	@env SEED="$(or $(SEED),$$(date +%s))" MESSAGES="$(or $(MESSAGES),20000)" $(RUN) -m pytest -n0 -s tests/crash/test_storm.py

fuzz: setup
	@env SEED="$(or $(SEED),$$(date +%s))" EXAMPLES="$(or $(EXAMPLES),200)" $(RUN) -m pytest -n0 -s tests/contract

check: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m deptry .
	$(MAKE) coverage

coverage: setup
	@$(RUN) -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered $(addprefix --ignore=tests/,$(UNMEASURED)) $(PYTEST_ARGS)

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: setup
	@$(UV) sync --quiet --locked --compile-bytecode --extra embedded --extra granian --extra redis --group bench --python $(PYTHON)
	@$(RUN) -m bench.http
	@$(RUN) -m bench.messages
	@$(RUN) -m bench.relay
	@$(RUN) -m bench.footprint
	@$(RUN) -m bench.schedule
	@$(RUN) -m bench.memory

# The environment as uv.lock has it, and a RabbitMQ that can be started.
setup: $(VENV)/.ready
	@$(RUN) -m roles.embedded.fetch --directory $(LOCAL)

$(VENV)/.ready: pyproject.toml uv.lock | $(UV)
	@$(UV) sync --quiet --locked --compile-bytecode --extra embedded --extra granian --extra redis --python $(PYTHON)
	@touch $@

# uv into a directory of its own: an externally managed Python (PEP 668) stays as it is. Without the venv module,
# which Debian packages apart, pip can still install into a directory.
$(LOCAL)/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	@mkdir -p $(LOCAL)
	@rm -rf $(LOCAL)/uv
	@$(PYTHON) -m venv $(LOCAL)/uv >/dev/null 2>&1 && $(LOCAL)/uv/bin/python -m pip install --quiet uv \
	|| { rm -rf $(LOCAL)/uv; $(PYTHON) -m pip install --quiet --target $(LOCAL)/uv uv; } \
	|| { echo "neither 'python3 -m venv' nor 'python3 -m pip' works: install uv, or the package python3-venv" >&2; exit 1; }

clean:
	rm -rf $(VENV) $(LOCAL) .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
