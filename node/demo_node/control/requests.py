"""Counts what was asked over the control socket, and what came of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from demo_node.observer import Figure

Context = grpc.aio.ServicerContext[Any, Any]


class RequestCounts(grpc.aio.ServerInterceptor):
    """Sees every request of a server.

    ok: answered. refused: not, by the caller's doing or the node's state; it was told why, or did
    not wait. failed: a bug of ours.
    """

    def __init__(self) -> None:
        self._results: Counter[str] = Counter()

    def figures(self) -> Iterator[Figure]:
        """For the metrics."""
        for result, total in self._results.items():
            yield Figure("demo_control_requests_total", total, (result,))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, counted. Methods take one message and give one, or a stream."""
        handler = await continuation(handler_call_details)
        if handler is None:  # another version's method
            self._results["refused"] += 1
            return None
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._count_stream(handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._count_answer(handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _count_answer(
        self, answer: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def counted(request: Any, context: Context) -> Any:
            with self._counting(when_left="refused"):
                return await answer(request, context)

        return counted

    def _count_stream(
        self, answer: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def counted(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._counting(when_left="ok"):  # who watches goes when he has seen enough
                async for message in answer(request, context):
                    yield message

        return counted

    @contextmanager
    def _counting(self, *, when_left: str) -> Iterator[None]:
        """`when_left`: what it counts as when the caller goes before the end."""
        result = "failed"
        try:
            yield
            result = "ok"
        except grpc.aio.AbortError:
            result = "refused"
            raise
        except (asyncio.CancelledError, GeneratorExit):
            result = when_left
            raise
        finally:
            self._results[result] += 1
