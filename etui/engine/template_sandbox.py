"""A Jinja environment for untrusted chat templates, and the process that renders them.

A template is a program: Jinja's sandbox keeps it away from Python's internals, but not from endless
loops, deep nesting or texts of any size. So this file is run as a script in a process of its own
(:mod:`etui.engine.template_process` starts it), whose limits the kernel enforces:

- CPU time of one request, by a profiling timer that kills the process;
- memory, by the size of its address space;
- files, of which it can write none, and core dumps.

Inside, an allow-list of the filters and string methods that chat templates use, and checks of
``*``, ``**``, ``+`` and ``%``, turn most mistakes into a message before they reach a limit.

The script imports only the standard library and jinja2. Requests and replies are JSON documents,
each behind its length in four bytes. A request has the ``id`` of a template, its ``source`` to
compile it, and ``variables`` to render it; a reply has ``text``, or the ``kind`` of an error and a
``message``. The process ends when its standard input is closed, so it ends with its parent.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.0
"""CPU time of a request, which others that need a text wait for."""

MEMORY_BYTES = 512_000_000
"""Memory that a request may take in addition to the interpreter's."""

SOURCE_CHARACTERS = 1_000_000
OUTPUT_CHARACTERS = 8_000_000

LENGTH = struct.Struct(">I")
"""Length of a message in bytes, sent before it."""

LIMIT, RAISED = "limit", "raised"
"""Kinds of errors; any other kind is the name of an exception."""

_FILTER_NAMES = (
    "abs capitalize count d default dictsort e escape first float groupby indent int items join "
    "last length list lower map max min reject rejectattr replace reverse round safe select "
    "selectattr sort string sum title tojson trim unique upper"
)
_METHOD_NAMES = (
    "capitalize count endswith find get index isalnum isalpha isdigit islower isspace isupper "
    "items join keys lower lstrip partition removeprefix removesuffix replace rfind rpartition "
    "rsplit rstrip split splitlines startswith strip strftime title upper values"
)
_FILTERS = frozenset(_FILTER_NAMES.split())
_METHODS = frozenset(_METHOD_NAMES.split())
_FILENAME = "<chat template>"
_WIDE_FORMAT = re.compile(r"\*|\d{4,}")


Render = Callable[[Mapping[str, Any]], Iterator[str]]
"""Renders a template with variables, in pieces."""


class LimitExceeded(Exception):
    """A request exceeded a limit on time, memory or text length."""


class TemplateRaised(Exception):
    """The template called ``raise_exception`` with this message."""


def compile_template(source: str) -> Render:
    """Compile a source into a function that renders; jinja2.TemplateError if it is not valid."""
    if len(source) > SOURCE_CHARACTERS:
        raise LimitExceeded(f"it has {len(source)} characters, more than {SOURCE_CHARACTERS}")
    environment = _build_environment()
    code = environment.compile(source, name=_FILENAME, filename=_FILENAME)
    template = environment.template_class.from_code(environment, code, environment.globals)
    return lambda variables: template.generate(**variables)


@cache
def _create_sandbox_class() -> type[ImmutableSandboxedEnvironment]:
    """Create the class once; jinja2 is imported only when a template is compiled."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "+", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Check the operands before the operation."""
            _check_operands(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def wrap_str_format(self, value: Any) -> None:
            """Disable ``str.format``, whose widths can create texts of any size."""

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            """Allow only listed methods of the built-in types."""
            if isinstance(obj, (str, bytes, list, tuple, dict)) and callable(value):
                return attr in _METHODS and super().is_safe_attribute(obj, attr, value)
            return super().is_safe_attribute(obj, attr, value)

        def call(self, context: Any, func: Any, /, *args: Any, **kwargs: Any) -> Any:
            """Check the length of the result before ``replace`` and ``join``."""
            owner = getattr(func, "__self__", None)
            if isinstance(owner, str) and func.__name__ in ("replace", "join"):
                _check_growth(func.__name__, owner, args)
            return super().call(context, func, *args, **kwargs)

    def _check_operands(operator: str, left: Any, right: Any) -> None:
        if operator == "**" and not (_small(left, 1 << 32) and _small(right, 64)):
            raise SecurityError("the power is too large for a chat template")
        if operator == "*":
            size = _length(left) * _length(right)
            if size > OUTPUT_CHARACTERS:
                raise SecurityError("the repetition is too long for a chat template")
        if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise SecurityError("the format is too wide for a chat template")

    return Sandbox


def _small(value: Any, most: int) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= most


def _length(value: Any) -> int:
    """Return the size of a factor of ``*``: the length of a sequence, or the number itself."""
    if isinstance(value, (str, list, tuple)):
        return len(value) or 1
    return int(abs(value)) if isinstance(value, int) and abs(value) > 1 else 1


def _check_growth(name: str, owner: str, args: tuple[Any, ...]) -> None:
    if name == "join" and args and isinstance(args[0], (list, tuple)):
        size = len(owner) * len(args[0]) + sum(len(str(item)) for item in args[0])
    elif name == "replace" and len(args) >= 2:
        size = len(owner) + owner.count(str(args[0])) * len(str(args[1]))
    else:
        return
    if size > OUTPUT_CHARACTERS:
        raise LimitExceeded(f"it would create a text of {size} characters")


def _build_environment() -> ImmutableSandboxedEnvironment:
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """Ignore ``{% generation %}``, which marks the assistant's part for training."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            """Parse the block as its plain content."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    # Without the optimizer nothing is computed at compile time: what is too much, or an error, is
    # found when the template is rendered.
    environment = _create_sandbox_class()(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[loopcontrols, Generation],
    )
    filters = {name: environment.filters[name] for name in _FILTERS if name in environment.filters}
    environment.filters.clear()
    environment.filters.update(filters, tojson=_tojson, replace=_replace)
    allowed = {name: environment.globals[name] for name in ("range", "namespace", "dict")}
    environment.globals.clear()
    environment.globals.update(
        allowed,
        raise_exception=_raise,
        strftime_now=lambda form: datetime.now().strftime(str(form)[:200]),
    )
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    """Write JSON without HTML escapes, unlike Jinja's own filter: models were trained on it."""
    value = list(value) if isinstance(value, Iterator) else value  # of the filter `map`
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=min(indent, 8) if indent else None)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    whole = str(text)
    _check_growth("replace", whole, (old, new))
    return whole.replace(old, new, count)


def _raise(message: str) -> None:
    raise TemplateRaised(str(message)[:500])


def _answer(request: Mapping[str, Any], templates: dict[int, Render]) -> str:
    number = request["id"]
    if "source" in request:
        templates[number] = compile_template(request["source"])
    if "variables" not in request:
        return ""
    pieces: list[str] = []
    length = 0
    for piece in templates[number](request["variables"]):
        pieces.append(piece)
        length += len(piece)
        if length > OUTPUT_CHARACTERS:
            raise LimitExceeded(f"it wrote more than {OUTPUT_CHARACTERS} characters")
    return "".join(pieces)


def describe_memory(most_bytes: int) -> str:
    """Say that a request took too much memory."""
    return f"it took more than {most_bytes // 1_000_000} MB of memory"


def read_message(stream: IO[bytes]) -> Any:
    """Read a message; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    length = LENGTH.unpack(head)[0]
    body = stream.read(length)
    return json.loads(body) if len(body) == length else None


def write_message(stream: IO[bytes], message: object) -> None:
    """Write a message and flush it."""
    body = json.dumps(message).encode()
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


def set_timer(seconds: float) -> None:
    """Let the kernel kill this process after so much CPU time; 0 stops the timer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_process(memory_bytes: int) -> None:
    """Limit the address space of this process, and let it write no file and no core dump."""
    if hasattr(signal, "SIGPROF"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        import resource
    except ImportError:
        return  # the parent's limits remain
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, _address_space() + memory_bytes),
    ):
        try:
            hard = resource.getrlimit(limit)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(limit, (most, most))
        except (OSError, ValueError):
            continue  # macOS limits no address space; the parent watches the memory


def _address_space() -> int:
    """Return the bytes of this process's address space; a guess where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 256_000_000


def main() -> None:
    """Render for the parent on standard input and output; the arguments are the limits."""
    _build_environment()  # imports jinja2 before the limits apply
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    limit_process(memory_bytes)
    templates: dict[int, Render] = {}
    while (request := read_message(sys.stdin.buffer)) is not None:
        set_timer(seconds)
        try:
            reply = {"text": _answer(request, templates)}
        except LimitExceeded as error:
            reply = {"kind": LIMIT, "message": str(error)}
        except MemoryError:
            reply = {"kind": LIMIT, "message": describe_memory(memory_bytes)}
        except TemplateRaised as error:
            reply = {"kind": RAISED, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            reply = {"kind": type(error).__name__, "message": str(error)[:500]}
        write_message(sys.stdout.buffer, reply)
        set_timer(0.0)


if __name__ == "__main__":
    main()
