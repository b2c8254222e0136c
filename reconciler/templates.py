"""Rendering of SQL templates (``*.sql.j2``), which are untrusted input.

Called by :mod:`reconciler.state.resolve`. Jinja2 in its immutable sandbox, with strict
undefined names, and only the values of the caller in scope. A template cannot read
files, include others, or call anything but a few harmless functions; the number of
its steps, the length of its text and of its values are bounded, so the same template
renders, or is refused, on every host.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from reconciler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType

    from jinja2.runtime import Context

MAX_TEMPLATE_CHARACTERS = 1_000_000
MAX_OUTPUT_CHARACTERS = 16_000_000
MAX_VALUE_ITEMS = 1_000_000
MAX_STEPS = 200_000
MAX_RANGE = 100_000
_RESERVED = "_reconciler"
_STEP = f"{_RESERVED}_step"
_CONCAT = f"{_RESERVED}_concat"
_FILENAME = "<template>"
_MAX_EXPONENT = 64
_MAX_NUMBER_BITS = 512
_CACHED_TEMPLATES = 2048
_CHAINED_METHODS = frozenset({"get", "items", "keys", "values", "lower", "upper", "strip", "startswith", "endswith"})
_FILTERS = (
    "abs capitalize count d default dictsort e escape first float groupby int items join last length list lower map "
    "max min reject rejectattr replace reverse round select selectattr sort string sum title trim truncate unique upper"
)
"""Those that only reshape what they are given. ``center``, ``indent``, ``format`` or ``batch`` make much of little;
``join``, ``replace`` and ``string`` can as well, and are bounded below."""


class TemplateFailedError(InputError):
    """A template cannot be rendered; ``line`` is 1-based within the template."""

    reason = "TemplateFailed"

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def render(source: str, scope: Mapping[str, object]) -> str:
    """Return the text of a template with ``scope`` filled in.

    Raises:
        TemplateFailedError: a syntax error, an unknown name, something that the sandbox
            refuses, or a bound that was reached.

    """
    try:
        return _rendered(_compiled(source), scope)
    except TemplateFailedError:
        raise
    except TemplateSyntaxError as error:
        raise TemplateFailedError(error.message or "syntax error", error.lineno) from error
    except UndefinedError as error:
        hint = f"in scope are {', '.join(sorted(scope))}"
        raise TemplateFailedError(f"{error.message} ({hint})", _line(error)) from error
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise TemplateFailedError(str(error)[:500] or type(error).__name__, _line(error)) from error
    except RecursionError as error:
        raise TemplateFailedError("macros call each other without end, or it is nested too deeply", 1) from error


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, made narrower: what may be called is listed, and every operator that can grow a value is watched."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//"})
    intercepted_unops = frozenset[str]()

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            auto_reload=False,
            finalize=_scalar,
        )
        self.filters = {name: self.filters[name] for name in _FILTERS.split()}
        self.filters["replace"] = _replace
        self.filters["join"] = _join
        self.filters["string"] = _text
        self.globals = {"range": _range, "namespace": Namespace, "dict": dict, _CONCAT: _concat}

    def is_safe_callable(self, obj: Any) -> bool:  # noqa: ANN401 - as in the base class
        if isinstance(obj, Macro | LoopContext) or isinstance(getattr(obj, "__self__", None), LoopContext):
            return True
        if any(obj is known for known in self.globals.values()) or isinstance(obj, _Steps):
            return True
        owner = getattr(obj, "__self__", None)
        return type(owner) in {str, dict} and getattr(obj, "__name__", "") in _CHAINED_METHODS

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in the base class
        if isinstance(obj, Macro):
            context.resolve(_STEP)()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - as in the base class
        del context
        if operator == "%" and not isinstance(left, int | float):
            raise SecurityError("'%' works on numbers only; use {{ }} to put values into text")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError("'*' works on numbers only")
        if operator == "**" and not (_bounded(abs(left)) and abs(right) <= _MAX_EXPONENT):
            raise SecurityError("the numbers of '**' are too large")
        return _bounded(self.binop_table[operator](left, right))


class _Steps:
    """Counts loop turns and calls of one rendering."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def __call__(self) -> str:
        self._left -= 1
        if self._left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")
        return ""


def _rendered(code: CodeType, scope: Mapping[str, object]) -> str:
    template = Template.from_code(_ENVIRONMENT, code, {**_ENVIRONMENT.globals, _STEP: _Steps()})
    parts: list[str] = []
    length = 0
    for part in template.root_render_func(template.new_context(dict(scope))):
        length += len(part)
        if length > MAX_OUTPUT_CHARACTERS:
            raise SecurityError(f"its text has more than {MAX_OUTPUT_CHARACTERS:,} characters")
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=_CACHED_TEMPLATES)
def _compiled(source: str) -> CodeType:
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateFailedError(
            f"the template has {len(source):,} characters; the limit is {MAX_TEMPLATE_CHARACTERS:,}", 1
        )
    tree = _ENVIRONMENT.parse(source)
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise TemplateFailedError("templates cannot include, import or extend other files", node.lineno)
    for named in tree.find_all((nodes.Name, nodes.Macro)):
        name = str(getattr(named, "name", ""))
        if name.startswith(_RESERVED):
            raise TemplateFailedError(f"the name {name} is reserved", named.lineno)
    _count_loops(tree)
    _watch_concatenation(tree)
    return _ENVIRONMENT.compile(tree, name="template", filename=_FILENAME)


def _count_loops(tree: nodes.Template) -> None:
    """Let every turn of every loop take a step: nested loops without output would run for ever."""
    for loop in list(tree.find_all(nodes.For)):
        step = nodes.Call(nodes.Name(_STEP, "load"), [], [], None, None, lineno=loop.lineno)
        loop.body.insert(0, nodes.Output([step], lineno=loop.lineno))
        if loop.test is not None:
            loop.test = nodes.And(nodes.Compare(step, [nodes.Operand("eq", nodes.Const(""))]), loop.test)


def _watch_concatenation(tree: nodes.Template) -> None:
    """Make ``~`` a call that is bounded; the compiler offers no other way in."""
    for parent in [tree, *list(tree.find_all(nodes.Node))]:
        for field, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, field, _concatenation(value))
            elif isinstance(value, list):
                value[:] = [_concatenation(item) if isinstance(item, nodes.Concat) else item for item in value]


def _concatenation(node: nodes.Concat) -> nodes.Call:
    return nodes.Call(nodes.Name(_CONCAT, "load"), list(node.nodes), [], None, None, lineno=node.lineno)


def _scalar(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Refuse to print collections: a list of lists of lists prints a text that grows without bound."""
    if isinstance(value, list | tuple | dict | set | frozenset | range):
        raise SecurityError("only single values can be printed; use join() or a loop for several")
    return value


def _text(value: object) -> str:
    return str(_scalar(value))


def _bounded(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    if isinstance(value, int) and value.bit_length() > _MAX_NUMBER_BITS:
        raise SecurityError("a number is too large")
    if isinstance(value, str | list | tuple) and len(value) > MAX_VALUE_ITEMS:
        raise SecurityError(f"a value has more than {MAX_VALUE_ITEMS:,} characters or items")
    return value


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise SecurityError(f"range() gives more than {MAX_RANGE:,} numbers")
    return numbers


def _concat(*parts: object) -> str:
    return str(_bounded("".join(map(_text, parts))))


def _join(values: Any, separator: str = "", attribute: str | None = None) -> str:  # noqa: ANN401 - any iterable
    items = [_text(item if attribute is None else _ENVIRONMENT.getattr(item, attribute)) for item in values]
    if sum(map(len, items)) + len(separator) * len(items) > MAX_VALUE_ITEMS:
        raise SecurityError(f"join() gives more than {MAX_VALUE_ITEMS:,} characters")
    return separator.join(items)


def _replace(text: object, old: str, new: str, count: int = -1) -> str:
    whole = _text(text)
    turns = whole.count(old) if count < 0 else min(count, whole.count(old))
    if len(whole) + turns * len(new) > MAX_VALUE_ITEMS:
        raise SecurityError(f"replace() gives more than {MAX_VALUE_ITEMS:,} characters")
    return whole.replace(old, new, count)


def _line(error: BaseException) -> int:
    """Return the template's line at which an error of rendering came up."""
    line = 1
    trace = error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template):
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


_ENVIRONMENT = _Environment()
