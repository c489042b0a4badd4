# make setup | swarm | test | check | conformance | mutants | proto      (README.md says what each is for)
#
# TORCH and PYTHON3 choose another build of torch or another Python: see deploy/setup.sh.

PYTHON = .venv/bin/python
READY = .venv/ready
PROTOC = PATH=.venv/bin:$$PATH $(PYTHON) -m grpc_tools.protoc
ARGS ?=
TESTS ?= tests
VECTORS ?= ../shared/vectors/demo

.PHONY: setup swarm test check conformance mutants proto

setup: $(READY)

$(READY): deploy/setup.sh deploy/constraints.txt pyproject.toml
	PYTHON3="$(PYTHON3)" TORCH="$(TORCH)" bash deploy/setup.sh

swarm: $(READY)  ## four real nodes on this machine train one model
	@.venv/bin/demo-node swarm $(ARGS)

test: $(READY)  ## the whole suite: what needs no other node first, then real swarms
	@echo "tier 1 of 3: one process, or two"
	$(PYTHON) -m pytest $(TESTS) -m "not swarm and not monitoring" || [ $$? -eq 5 ]  # 5: there are none
	@echo "tier 2 of 3: real nodes over loopback sockets"
	$(PYTHON) -m pytest $(TESTS) -m "swarm and not monitoring" || [ $$? -eq 5 ]
	@echo "tier 3 of 3: Prometheus, Alertmanager, Grafana's schema"
	$(PYTHON) -m pytest $(TESTS) -m monitoring -rs || [ $$? -eq 5 ]
	@bash deploy/install-tools.sh --check || \
	    echo "tier 3 skipped the tests that need them: sudo bash deploy/install-tools.sh"

check: $(READY)  ## style, types, import contracts, stubs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- '*/pb/*'

conformance: $(READY)  ## our DeMo against vectors of the public reference
	$(PYTHON) -m tests.conformance $(VECTORS)

mutants: $(READY)  ## does the simulator see mistakes that are planted into the sources?
	$(PYTHON) -m tests.mutants $(ARGS)

proto: $(READY)  ## the protobuf stubs, which are checked in
	$(PROTOC) -Idemo_protocol/pb=proto/demo/v1 --python_out=protocol --mypy_out=quiet:protocol \
	    proto/demo/v1/wire.proto
	$(PROTOC) -Idemo_node/control/pb=proto/demo/v1 --python_out=node --grpc_python_out=node \
	    --mypy_out=quiet:node --mypy_grpc_out=quiet:node proto/demo/v1/control.proto
	$(PROTOC) -Idemo_node/trainer/pb=proto/demo/v1 --python_out=node --grpc_python_out=node \
	    --mypy_out=quiet:node --mypy_grpc_out=quiet:node proto/demo/v1/trainer.proto
