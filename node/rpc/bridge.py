"""grpc.aio on a thread of its own, joined to trio by two queues.

gRPC's servers run on asyncio, the node on trio. A call that needs the node is put into a queue that trio empties in one
go; answers come back the same way. So a burst of calls costs each side one wake-up, not one a call. Measured against a
synchronous server, trio's guest mode and a process of its own, this was fastest where many calls are in flight.

Plain functions run between two steps of the node: several in one call see one state. Coroutines run in a task of their
own and are cancelled when whoever called gives up.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from trio_typing import TaskStatus

T = TypeVar("T")

MAX_JOBS_A_TURN: Final = 64
"""A flood of calls takes turns with the node's own work instead of holding it up."""


class ShuttingDown(Exception):
    """The node does not take the call any more, or ended before the answer."""


class App(Protocol):
    """What runs on the asyncio thread."""

    async def start(self) -> None:
        """Returns when it serves; raises where it cannot."""
        ...

    async def stop(self) -> None:
        """Returns when all is closed, within a bounded time."""
        ...


class _Job:
    __slots__ = ("arguments", "cancelled", "coroutine", "function", "future", "scope")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], coroutine: bool) -> None:
        self.function = function
        self.arguments = arguments
        self.coroutine = coroutine
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.scope: trio.CancelScope | None = None
        self.cancelled = False


class Bridge:
    """Made on the trio thread, used from the asyncio thread by `call` and `run`, from trio by `post`."""

    def __init__(self, fatal: tuple[type[BaseException], ...] = ()) -> None:
        """`fatal`: broken invariants of the node. Such an exception answers its call and then ends `serve`."""
        self._fatal = fatal
        self._inward: deque[_Job] = deque()
        self._outward: deque[Callable[[], object]] = deque()
        self._armed = False
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._fault: BaseException | None = None
        self._ended = trio.Event()
        self._started = False
        self._stopping = False
        self._released = False
        self._stop: asyncio.Event | None = None

    # On the asyncio thread.

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs a plain function on the trio thread."""
        answer: T = await self._ask(_Job(function, arguments, coroutine=False))
        return answer

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Runs a coroutine function in a task on the trio thread; cancelled with its caller."""
        answer: T = await self._ask(_Job(function, arguments, coroutine=True))
        return answer

    async def _ask(self, job: _Job) -> Any:
        if not self._open:
            raise ShuttingDown
        self._push(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            if job.coroutine:
                self._push(job)
            raise

    def _push(self, job: _Job) -> None:
        self._inward.append(job)
        self._wake_trio()

    def _wake_trio(self) -> None:
        if self._token is None:
            raise RuntimeError("the bridge is used before `serve`")
        try:
            self._token.run_sync_soon(self._take_in, idempotent=True)
        except trio.RunFinishedError:
            self._fail_all()

    def _fail_all(self) -> None:
        while self._inward:
            future = self._inward.popleft().future
            if not future.done():
                future.set_exception(ShuttingDown())

    def fail(self, fault: BaseException) -> None:
        """Ends `serve` on the trio side with a fault that the asyncio side found."""
        if self._token is not None:
            self._token.run_sync_soon(self._break, fault)

    # On the trio thread.

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Runs a plain function on the asyncio thread, soon. Dropped once that thread is gone."""
        self._send(lambda: function(*arguments))

    def _take_in(self) -> None:
        for _ in range(min(len(self._inward), MAX_JOBS_A_TURN)):
            job = self._inward.popleft()
            if job.scope is not None:
                job.scope.cancel()
            elif not job.cancelled:
                self._begin(job)
        if self._inward:
            self._wake_trio()

    def _begin(self, job: _Job) -> None:
        if not job.coroutine:
            self._answer(job, outcome.capture(job.function, *job.arguments))
            return
        job.scope = trio.CancelScope()
        if self._nursery is None or self._released:
            self._answer(job, outcome.Error(ShuttingDown()))
        else:
            self._nursery.start_soon(self._run_job, job, job.scope)

    async def _run_job(self, job: _Job, scope: trio.CancelScope) -> None:
        result: outcome.Outcome[Any] = outcome.Error(ShuttingDown())
        try:
            with scope:
                result = outcome.Value(await job.function(*job.arguments))
        except Exception as fault:  # whatever it is belongs to whoever called
            result = outcome.Error(fault)
        finally:
            self._answer(job, result)

    def _answer(self, job: _Job, result: outcome.Outcome[Any]) -> None:
        if isinstance(result, outcome.Error) and isinstance(result.error, self._fatal):
            self._break(result.error)
        self._send(lambda: _settle(job.future, result))

    def _break(self, fault: BaseException) -> None:
        if self._fault is None:
            self._fault = fault
        self._ended.set()

    def _send(self, deliver: Callable[[], object]) -> None:
        self._outward.append(deliver)
        if not self._armed and self._loop is not None:
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._take_out)
            except RuntimeError:
                self._outward.clear()

    # On the asyncio thread again.

    def _take_out(self) -> None:
        self._armed = False
        while self._outward:
            self._outward.popleft()()

    # Life.

    async def serve(self, app: App, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the app until cancelled, or until it or the node breaks; what it cannot start with is raised.

        Cancelled, it lets the app stop first, while calls in flight still get their answers; then their tasks end.
        """
        self._token = token = trio.lowlevel.current_trio_token()
        ready, joined, release = trio.Event(), trio.Event(), trio.Event()

        def started() -> None:
            self._started = True
            ready.set()

        def thread() -> None:
            try:
                asyncio.run(self._main(app, started))
            except BaseException as fault:  # it is raised on the other side
                token.run_sync_soon(self._break, fault)
            finally:
                self._open = False
                token.run_sync_soon(ready.set)
                token.run_sync_soon(joined.set)

        worker = threading.Thread(target=thread, name="grpc", daemon=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._keep_jobs, release)
            worker.start()
            try:
                await ready.wait()
                if self._started:
                    task_status.started()
                    await self._ended.wait()
            finally:
                with trio.CancelScope(shield=True):
                    self._stop_app()
                    await joined.wait()
                    worker.join()
                release.set()
        if self._fault is not None:
            raise self._fault

    async def _main(self, app: App, started: Callable[[], None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._open = True
        await app.start()
        if self._token is not None:
            self._token.run_sync_soon(started)
        if not self._stopping:
            await self._stop.wait()
        await app.stop()

    def _stop_app(self) -> None:
        self._stopping = True
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _keep_jobs(self, release: trio.Event, *, task_status: TaskStatus[None]) -> None:
        """A place for tasks that outlives the cancellation of `serve` until the app has stopped."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await release.wait()
                self._released = True
                self._nursery.cancel_scope.cancel()


def _settle(future: asyncio.Future[Any], result: outcome.Outcome[Any]) -> None:
    if future.done():
        return
    if isinstance(result, outcome.Error):
        future.set_exception(result.error)
    else:
        future.set_result(result.unwrap())
