"""A Jinja environment for untrusted chat templates, with limits on time, memory and output.

Jinja's sandbox prevents access to Python's internals and changes to the template's arguments. It
does not prevent endless loops or excessive memory use, so this module adds:

- a deadline, checked by a trace function at every line of the compiled template and at every
  Python function it calls; this needs no second thread or process, and nothing keeps running;
- an allow-list of the filters and string methods that chat templates use; those that can enlarge
  a text are checked before the call, as are ``*``, ``**``, ``+`` and ``%``;
- a limit on the growth of the process's memory, checked in the same trace function, for all other
  operations (``~`` in a loop at most doubles a text between two checks);
- limits on the length of the source and of the output.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2.0
SOURCE_CHARACTERS = 1_000_000
OUTPUT_CHARACTERS = 8_000_000
GROWTH_BYTES = 512_000_000
_MEMORY_CHECK_SECONDS = 0.005  # reading the memory takes some 20 us, too long for every line

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


class TemplateLimit(Exception):
    """The template exceeded a limit on time, memory or text length."""


class TemplateRaised(Exception):
    """The template called ``raise_exception`` with this message."""


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Limit the time and memory of template code that runs in the block.

    Raises:
        TemplateLimit: The code ran longer than ``seconds``, or took too much memory.
    """
    import psutil

    resident = psutil.Process().memory_info
    started = checked = time.monotonic()
    most = resident().rss + GROWTH_BYTES

    def check(frame: FrameType, _event: str, _arg: object) -> Callable[..., Any] | None:
        nonlocal checked
        now = time.monotonic()
        if now > started + seconds:
            raise TemplateLimit(f"it ran for more than {seconds:g} s")
        if now > checked + _MEMORY_CHECK_SECONDS:
            checked = now
            if resident().rss > most:
                raise TemplateLimit(f"it took more than {GROWTH_BYTES // 1_000_000} MB of memory")
        return check if frame.f_code.co_filename == _FILENAME else None

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


def compile_template(source: str) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    """Compile ``source`` into a function that renders in pieces; call it inside ``limited``.

    Raises:
        jinja2.TemplateError: The source is not a valid template.
        TemplateLimit: The source is too long.
    """
    if len(source) > SOURCE_CHARACTERS:
        raise TemplateLimit(f"it has {len(source)} characters, more than {SOURCE_CHARACTERS}")
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
        raise TemplateLimit(f"it would create a text of {size} characters")


def _build_environment() -> ImmutableSandboxedEnvironment:
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """Ignore ``{% generation %}``, which marks the assistant's part for training."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            """Parse the block as its plain content."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    # The optimizer would run filters at compile time, where the limits do not apply.
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
    environment.globals.update(allowed, raise_exception=_raise, strftime_now=_strftime_now)
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    """Write JSON without HTML escapes, unlike Jinja's own filter: models were trained on it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=min(indent, 8) if indent else None)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    whole = str(text)
    _check_growth("replace", whole, (old, new))
    return whole.replace(old, new, count)


def _raise(message: str) -> None:
    raise TemplateRaised(str(message)[:500])


def _strftime_now(format_: str) -> str:
    return datetime.now().strftime(str(format_)[:200])
