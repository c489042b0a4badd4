PYTHON ?= .venv/bin/python
PROTOC = $(PYTHON) -m grpc_tools.protoc
BIN = $(dir $(PYTHON))

.PHONY: proto
proto:  ## regenerate the checked-in protobuf stubs
	PATH=$(BIN):$$PATH $(PROTOC) -Idemo_protocol/pb=proto/demo/v1 --python_out=protocol --mypy_out=protocol \
	    proto/demo/v1/wire.proto
	PATH=$(BIN):$$PATH $(PROTOC) -Idemo_node/control/pb=proto/demo/v1 --python_out=node --grpc_python_out=node \
	    --mypy_out=node --mypy_grpc_out=node proto/demo/v1/control.proto
	PATH=$(BIN):$$PATH $(PROTOC) -Idemo_node/trainer/pb=proto/demo/v1 --python_out=node --grpc_python_out=node \
	    --mypy_out=node --mypy_grpc_out=node proto/demo/v1/trainer.proto
