"""What went wrong in the trainer, as the node process sees it."""

import grpc

from demo_node.ports import LearnerLost
from demo_node.trainer.settings import DoesNotFit, UnknownState
from demo_protocol.errors import ConfigError, LocalFault, Reject


def to_error(error: grpc.aio.AioRpcError) -> Exception:
    """The exception to raise for a failed call; server.py chose the code."""
    text = error.details() or ""
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return UnknownState(text)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return Reject(text)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return ConfigError(text)
        case grpc.StatusCode.OUT_OF_RANGE:
            return DoesNotFit(text)
        case grpc.StatusCode.ABORTED:
            return LearnerLost(f"the trainer ran out of memory ({text})")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return LearnerLost(f"the trainer died ({text})")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return LearnerLost("the trainer does not answer any more")
        case _:
            return LocalFault(f"trainer: {text}")
