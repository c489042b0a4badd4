# make setup | swarm | test | check | conformance | fuzz | fuzz-frames | mutants | coverage | nightly | proto
# README.md says what each is for.
#
# TORCH and PYTHON3 choose another build of torch or another Python: see deploy/setup.sh.

PYTHON = .venv/bin/python
READY = .venv/ready
PROTOC = PATH=.venv/bin:$$PATH $(PYTHON) -m grpc_tools.protoc
ARGS ?=
TESTS ?= tests
SEEDS ?= 1..200
SLICE ?= 1..1
JOBS ?= 2
RUNS ?= 1000000
VECTORS ?= ../shared/vectors/demo
BY_FILE = --dist loadfile --no-loadscope-reorder  # the longest not last
ALONE = not swarm and not wan and not monitoring and not containers
# Files in which such a mark is: to collect all tests takes 15 s.
MARKED = $(or $(sort $(shell grep -rlE "mark\.($(1))\b" --include="test_*.py" $(TESTS) 2>&-)),$(TESTS))

# Where it is set, each of a thousand processes compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup swarm test check conformance fuzz fuzz-frames mutants coverage nightly proto

setup: $(READY)

ifneq ($(TORCH),)
ifneq ($(TORCH),$(shell cat $(READY) 2>/dev/null))
.PHONY: $(READY)  # another build of torch than the one that is there
endif
endif

CODEC = $(wildcard node/demo_node/native/*.[ch] node/demo_node/native/build.py deploy/build_codec.py)

$(READY): deploy/setup.sh deploy/constraints.txt pyproject.toml $(CODEC)
	PYTHON3="$(PYTHON3)" TORCH="$(TORCH)" bash deploy/setup.sh

swarm: $(READY)  ## four real nodes on this machine train one model
	@.venv/bin/demo-node swarm $(ARGS)

test: $(READY)  ## the whole suite: what needs no other node first, then real swarms
	@echo "tier 1 of 4: what takes seconds"
	$(PYTHON) -m pytest $(TESTS) -n 2 $(BY_FILE) -m "not slow and $(ALONE)" || [ $$? -eq 5 ]  # 5: none
	@echo "tier 2 of 4: what takes longer, and a slice of the night's simulations"
	$(if $(filter tests,$(TESTS)),.venv/bin/demo-node simulate --seeds $(SLICE) &) night=$$!; \
	    $(PYTHON) -m pytest $(call MARKED,slow) -n 2 $(BY_FILE) -m "slow and $(ALONE)"; slow=$$?; \
	    wait $$night && { [ $$slow -eq 0 ] || [ $$slow -eq 5 ]; }
	@echo "tier 3 of 4: real nodes over loopback sockets"
	@$(PYTHON) -m pytest $(call MARKED,swarm) -n 2 $(BY_FILE) -m "swarm and not monitoring" \
	    || [ $$? -eq 5 ]
	@echo "tier 4 of 4: networks of our own, Prometheus and Alertmanager, a compose swarm on an engine"
	@$(PYTHON) -m pytest $(call MARKED,wan|monitoring|containers) -n 3 $(BY_FILE) -rs \
	    -m "wan or monitoring or containers" || [ $$? -eq 5 ]  # three: most of it is waiting
	@bash deploy/install-tools.sh --check || \
	    echo "tier 4 skipped the tests that need them: sudo bash deploy/install-tools.sh"

check: $(READY)  ## style, types, import contracts, stubs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- '*/pb/*'

conformance: $(READY)  ## our DeMo against vectors of the public reference
	$(PYTHON) -m tests.conformance $(VECTORS)

fuzz: $(READY)  ## bytes that no honest peer sends, for both readers of payloads
	$(PYTHON) -m tests.fuzz_payload --runs $(RUNS) $(ARGS)

fuzz-frames: $(READY)  ## the same for all other frames that peers send
	$(PYTHON) -m tests.fuzz_frames --runs $(RUNS) $(ARGS)

mutants: $(READY)  ## does the simulator see mistakes that are planted into the sources?
	$(PYTHON) -m tests.mutants $(ARGS)

coverage: $(READY)  ## how much of protocol/ do simulations alone come to?
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m tests.simulate.everything
	$(PYTHON) -m coverage run -m pytest tests/sim -q --timeout 600
	$(PYTHON) -m coverage combine -q
	$(PYTHON) -m coverage report --show-missing --skip-covered

nightly: $(READY)  ## everything at once, 100 nodes and 200 rounds, with 200 seeds
	.venv/bin/demo-node simulate --seeds $(SEEDS) --jobs $(JOBS)

proto: $(READY)  ## the protobuf stubs, which are checked in
	$(PROTOC) -Idemo_protocol/pb=proto/demo/v1 --python_out=protocol --mypy_out=quiet:protocol \
	    proto/demo/v1/wire.proto
	$(PROTOC) -Idemo_node/control/pb=proto/demo/v1 --python_out=node --grpc_python_out=node \
	    --mypy_out=quiet:node --mypy_grpc_out=quiet:node proto/demo/v1/control.proto
	$(PROTOC) -Idemo_node/trainer/pb=proto/demo/v1 --python_out=node --grpc_python_out=node \
	    --mypy_out=quiet:node --mypy_grpc_out=quiet:node proto/demo/v1/trainer.proto
