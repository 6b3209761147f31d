"""A remote backend: answers requests to models that another server runs, and asks what it is."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from etui.backends.base import AnswerRequest, Cancel
from etui.backends.remote._answer import RemoteAnswer, Requests, Signal
from etui.backends.remote._client import RemoteClient, RequestFailed, build_error
from etui.backends.remote._dialects import choose_dialect
from etui.backends.remote._stream_parts import read_count, read_list, read_mapping, read_text
from etui.backends.remote._votes import Election
from etui.config.backend_spec import BackendKind, BackendSpec, find_key_problem, read_key
from etui.errors import EtuiError, InvalidRequest, ModelUnavailable, RemoteFailed
from etui.events import Event
from etui.models.spec import ModelSpec
from etui.units import seconds_text

MOST_MODELS = 10_000

_OWNERS: Mapping[str, BackendKind] = {
    "llamacpp": "llama-server",
    "vllm": "vllm",
    "library": "ollama",
    "etui": "etui",
}
"""``owned_by`` in the list of models, and which kind of server writes it."""

_RUNNING = re.compile(
    r"^(?:llamacpp:requests_processing|vllm:num_requests_running)(?:\{[^}]*\})?\s+([0-9.eE+]+)",
    re.M,
)


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What a backend answered when it was asked; its name, URL and kind are from config.yaml."""

    name: str
    url: str
    kind: BackendKind
    reachable: bool = False
    key_accepted: bool | None = None  # Whether it took the key; None if that is not known
    latency_seconds: float | None = None
    """Time of the request for the list of models; None if it was not answered."""
    server: str | None = None  # Its name and version; None if it does not say
    models: tuple[str, ...] = ()
    detected: BackendKind | None = None  # The kind that it seems to be; None if that cannot be seen
    problem: str = ""  # What is wrong, in one line; empty if nothing is


async def probe(
    client: RemoteClient, spec: BackendSpec, seconds: float, clock_ns: Callable[[], int]
) -> RemoteStatus:
    """Ask a backend for its models and its version, at the same time."""
    listed, version = await asyncio.gather(
        _list_models(client, seconds, clock_ns), _read_version(client, spec.kind, seconds)
    )
    facts: dict[str, Any] = {"name": spec.name, "url": spec.url, "kind": spec.kind}
    if isinstance(listed, RequestFailed):
        failure = listed.failure
        answered = failure.status is not None
        refused = failure.status in (401, 403)
        problem = f"it refused the key: {failure.what}" if refused else failure.what
        key = False if refused else None
        return RemoteStatus(**facts, reachable=answered, key_accepted=key, problem=problem)
    document, latency = listed
    entries = [read_mapping(entry) for entry in read_list(document.get("data"))[:MOST_MODELS]]
    models = tuple(name for entry in entries if (name := read_text(entry.get("id"))))
    owners = (read_text(entry.get("owned_by")).lower() for entry in entries)
    detected = next((_OWNERS[owner] for owner in owners if owner in _OWNERS), None)
    if detected is None and version is not None and spec.kind != "openai":
        detected = spec.kind
    problem = "" if "data" in document else "the answer of /models is not a list of models"
    if not problem and spec.kind != "openai":
        if detected is not None and detected != spec.kind:
            problem = f"it seems to be {detected}, not {spec.kind}: fix `kind` in config.yaml"
        elif version is None and spec.kind != "etui":
            problem = f"it does not answer as {spec.kind} does: fix `kind` in config.yaml"
    return RemoteStatus(
        **facts,
        reachable=True,
        key_accepted=True if spec.key_env else None,
        latency_seconds=latency,
        server=version,
        models=models,
        detected=detected,
        problem=problem,
    )


async def count_running(client: RemoteClient, kind: BackendKind, seconds: float) -> int | None:
    """Count the requests that a server is answering now; None if it does not say."""
    try:
        match kind:
            case "llama-server":
                return await _count_slots(client, seconds)
            case "vllm":
                return _find_running(await client.fetch_text("//metrics", seconds=seconds))
            case "etui":
                return read_count((await client.fetch("//meter", seconds=seconds)).get("running"))
    except RequestFailed:
        pass
    return None


async def _count_slots(client: RemoteClient, seconds: float) -> int | None:
    try:
        slots = read_list(json.loads(await client.fetch_text("//slots", seconds=seconds)))
        if slots:
            return sum(read_mapping(slot).get("is_processing") is True for slot in slots)
    except (RequestFailed, ValueError, RecursionError):
        pass  # started with --no-slots
    return _find_running(await client.fetch_text("//metrics", seconds=seconds))


def _find_running(metrics: str) -> int | None:
    found = _RUNNING.findall(metrics)
    try:
        return read_count(round(sum(float(value) for value in found))) if found else None
    except (ValueError, OverflowError):
        return None


async def _list_models(
    client: RemoteClient, seconds: float, clock_ns: Callable[[], int]
) -> tuple[dict[str, Any], float] | RequestFailed:
    begin_ns = clock_ns()
    try:
        document = await client.fetch("models", seconds=seconds)
    except RequestFailed as error:
        return error
    return document, (clock_ns() - begin_ns) / 1e9


async def _read_version(client: RemoteClient, kind: BackendKind, seconds: float) -> str | None:
    places: Mapping[str, tuple[str, str]] = {
        "llama-server": ("//props", "build_info"),
        "vllm": ("//version", "version"),
        "ollama": ("//api/version", "version"),
        "etui": ("//health", "version"),
    }
    if kind not in places:
        return None
    path, key = places[kind]
    try:
        document = await client.fetch(path, seconds=seconds)
    except RequestFailed:
        return None
    found = read_text(document.get(key))[:100]
    return f"{kind} {found}" if found else None


class Circuit:
    """The breaker of one backend; safe from any thread.

    After some failures in a row it is open and nothing goes through, until some time has passed:
    then one request is let through, whose result closes or opens it again.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        failures_to_open: int = 3,
        open_seconds: float = 30.0,
    ) -> None:
        self._clock = clock
        self._most = failures_to_open
        self._open_seconds = open_seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def lets_through(self) -> bool:
        """Whether :meth:`admit` would let a request through now; asking changes nothing."""
        with self._lock:
            return self._opened_at is None or (self._left() <= 0.0 and not self._trying)

    @property
    def seconds_left(self) -> float:
        """Seconds until a request is let through again; 0 if one is let through now."""
        with self._lock:
            return 0.0 if self._opened_at is None else max(0.0, self._left())

    def admit(self) -> bool:
        """Return whether a request may go through; in the half-open state only the first one.

        A request that was let through has to report its result, or call :meth:`release`.
        """
        with self._lock:
            if self._opened_at is None:
                return True
            if self._trying or self._left() > 0.0:
                return False
            self._trying = True
            return True

    def succeed(self) -> None:
        """Report that the backend has answered: the circuit closes."""
        with self._lock:
            self._failures, self._opened_at, self._trying = 0, None, False

    def fail(self) -> None:
        """Report that the backend could not be reached or broke off its answer."""
        with self._lock:
            self._failures += 1
            if self._trying or self._failures >= self._most:
                self._opened_at = self._clock()
            self._trying = False

    def release(self) -> None:
        """Report that a request ended without saying anything about the backend (a cancel)."""
        with self._lock:
            self._trying = False

    def _left(self) -> float:
        assert self._opened_at is not None
        return self._opened_at + self._open_seconds - self._clock()


T = TypeVar("T")

_CLOSE_SECONDS = 10.0


class IoThread:
    """An event loop in a thread of its own, started at its first use and after each close."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()  # a signal may cancel while this thread holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._start())

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop: at once there, else soon, and not if the loop has ended."""
        if self._thread is threading.current_thread():
            function()
            return
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what runs, run a last coroutine, and end the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_end_tasks(last), loop).result(_CLOSE_SECONDS)
        except TimeoutError:
            pass  # the thread is a daemon and holds nothing that has to be saved
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_SECONDS)
            if not thread.is_alive():
                loop.close()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                run = self._loop.run_forever
                self._thread = threading.Thread(target=run, name=self._name, daemon=True)
                self._thread.start()
            return self._loop


async def _end_tasks(last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if last is not None:
        await last()


PROBE_SECONDS = 3.0


class RemoteBackend:
    """Backend that asks a server over HTTP.

    Several answers run at a time. Requests run on the event loop of one thread, which starts with
    the first request and ends with :meth:`close`; the next request starts it again.
    """

    def __init__(
        self,
        spec: BackendSpec,
        *,
        environ: Mapping[str, str] = os.environ,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        build_client: Callable[[BackendSpec, str | None], RemoteClient] = RemoteClient,
    ) -> None:
        self.spec = spec
        self.circuit = Circuit(lambda: clock_ns() / 1e9)
        self._environ = environ
        self._clock_ns = clock_ns
        self._build_client = build_client
        self._io = IoThread(f"remote {spec.name}")
        self._dialect = choose_dialect(spec.kind)
        self._lock = threading.Lock()
        self._client: RemoteClient | None = None
        self._status: RemoteStatus | None = None
        self._answered_by: str | None = None
        self.last_energy: Mapping[str, Any] | None = None

    @property
    def is_available(self) -> bool:
        """Whether a request would be sent now: the circuit is not open, and the key is there."""
        return self.circuit.lets_through and not self._find_key_problem()

    @property
    def server(self) -> str | None:
        """Kind and version of the server, from :meth:`describe` or the last answer; None before."""
        described = self._status.server if self._status is not None else None
        return described or self._answered_by

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        """Answer a request; closing the iterator ends the answer.

        Raises:
            ModelUnavailable: The server surely has not begun it, so that a fallback can answer.
            RemoteFailed: The server failed, and may have computed something.
            InvalidRequest: The server cannot do what is asked, or refused it.
        """
        if request.pictures:
            what = f"pictures are not sent to the backend {self.spec.name}"
            raise InvalidRequest(what, "choose a model of this machine with `mmproj`", "messages")
        cancel = Cancel() if cancel is None else cancel
        self._admit()
        self.last_energy = None
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        running = self._io.submit(self._run(request, cancel, events.put))
        running.add_done_callback(lambda _future: events.put(None))
        try:
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise self._report(request, event)
                yield event
            if running.cancelled():
                raise RemoteFailed(f"the backend {self.spec.name} was closed")
            running.result()  # raises a bug of this program
            if not cancel.cancelled():
                self.circuit.succeed()
        finally:
            running.cancel()
            cancel.listen()
            self.circuit.release()  # if nothing was reported

    async def _run(
        self, request: AnswerRequest, cancel: Cancel, put: Callable[[Event | BaseException], None]
    ) -> None:
        requests = Requests(self._open_client(), self._dialect, self._clock_ns)
        answer = RemoteAnswer(request, self._dialect, requests, self._clock_ns)

        def signal(kind: Signal) -> None:
            self._io.call(lambda: requests.signal(kind))

        cancel.listen(lambda: signal("cancel"), lambda: signal("end thinking"))
        try:
            self._dialect.check(request.arm)
            several = request.arm.reasoning == "vote" or request.options.count > 1
            run = Election(answer).run() if several else answer.run()
            async with aclosing(run) as events:  # type: ignore[type-var]
                async for event in events:
                    self._note(answer)  # before its last event
                    put(event)
        except (EtuiError, RequestFailed) as error:
            put(error)
        finally:
            self._note(answer)
            await requests.close_all()

    def _note(self, answer: RemoteAnswer) -> None:
        """Note what an answer says of its server, and of the joules there."""
        self.last_energy = answer.energy
        if answer.server:
            self._answered_by = (
                f"{self.spec.kind} {answer.server.removeprefix(f'{self.spec.kind}-')}"
            )

    def _report(self, request: AnswerRequest, error: BaseException) -> BaseException:
        """Tell the circuit of an error, and return the one to raise."""
        if not isinstance(error, RequestFailed):
            return error
        if error.failure.counts:
            self.circuit.fail()
        else:
            self.circuit.succeed()
        name = request.model.remote_name or request.model.name
        return build_error(self.spec, error.failure, name, error.tries)

    def check_serves(self, model: ModelSpec) -> None:
        """Check that the server serves a model, which it loads with the first answer.

        Raises:
            ModelUnavailable: The server cannot be reached, or does not serve the model.
        """
        status = self.describe()
        if status.latency_seconds is None:
            raise ModelUnavailable(
                f"the backend {self.spec.name} cannot answer: {status.problem}",
                f"start the server at {self.spec.url}",
            )
        name = model.remote_name or model.name
        if status.models and name not in status.models:
            raise ModelUnavailable(
                f"the backend {self.spec.name} does not serve {name}",
                "see what it serves: etui models list",
            )

    def describe(self, seconds: float = PROBE_SECONDS) -> RemoteStatus:
        """Ask the server what it is and what it serves; never raises."""

        async def ask() -> RemoteStatus:
            return await probe(self._open_client(), self.spec, seconds, self._clock_ns)

        if problem := self._find_key_problem():
            status = RemoteStatus(self.spec.name, self.spec.url, self.spec.kind, problem=problem)
        else:
            status = self._io.submit(ask()).result()
        self._status = status
        return status

    def running_requests(self, seconds: float = PROBE_SECONDS) -> int | None:
        """Ask the server how many requests it is answering now; None if it does not say."""

        async def ask() -> int | None:
            return await count_running(self._open_client(), self.spec.kind, seconds)

        return None if self._find_key_problem() else self._io.submit(ask()).result()

    def close(self) -> None:
        """End running answers and close every connection; safe to call more than once."""
        with self._lock:
            client, self._client = self._client, None
        self._io.close(client.close if client is not None else None)

    def _find_key_problem(self) -> str:
        return find_key_problem(self.spec.key_env, self._environ)

    def _open_client(self) -> RemoteClient:
        """Return the client; called on the event loop, to which its connections belong."""
        with self._lock:
            if self._client is None:
                self._client = self._build_client(
                    self.spec, read_key(self.spec.key_env, self._environ)
                )
            return self._client

    def _admit(self) -> None:
        if problem := self._find_key_problem():
            raise ModelUnavailable(
                f"the backend {self.spec.name} cannot be asked: {problem}",
                f"set it, or fix `key_env` of {self.spec.name} in config.yaml",
            )
        if not self.circuit.admit():
            left = self.circuit.seconds_left
            raise ModelUnavailable(
                f"the backend {self.spec.name} failed several times in a row, so it is not asked "
                f"for {seconds_text(left)}",
                f"start the server at {self.spec.url}, and ask again",
            )
