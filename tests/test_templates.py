from __future__ import annotations

import pytest

from reconciler.templates import MAX_TEMPLATE_CHARACTERS, TemplateFailedError, render

SCOPE = {
    "image": {"name": "shop", "engine": "postgres"},
    "params": {"region": "eu", "tables": "a,b"},
}


def test_fills_in_the_values_in_scope_and_keeps_the_rest_as_written() -> None:
    source = "-- {{ image.name }}\nDELETE FROM t WHERE region <> '{{ params.region }}';\n"

    assert render(source, SCOPE) == "-- shop\nDELETE FROM t WHERE region <> 'eu';\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in range(3) %}{{ i }};{% endfor %}", "0;1;2;"),
        ("{% for i in range(6) if i % 2 %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "1,3,5"),
        ("{% for k, v in params.items() %}{{ k }}={{ v }} {% endfor %}", "region=eu tables=a,b "),
        ("{{ 'x' ~ 1 ~ params.region }}", "x1eu"),
        ("{{ params.region | upper | replace('E', 'ee') }}", "eeU"),
        ("{{ [1, 2] | join(', ') }}", "1, 2"),
        ("{% macro twice(t) %}{{ t }}{{ t }}{% endmacro %}{{ twice('ab') }}", "abab"),
        (
            "{% set n = namespace(sum=0) %}{% for i in range(4) %}{% set n.sum = n.sum + i %}{% endfor %}{{ n.sum }}",
            "6",
        ),
        ("{{ params.get('none', 'default') }}", "default"),
        ("{{ params.absent | default('x') }}", "x"),
        ("{% if params.region == 'eu' %}yes{% else %}no{% endif %}", "yes"),
    ],
)
def test_ordinary_templates_render(source: str, expected: str) -> None:
    assert render(source, SCOPE) == expected


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("ok\n{{ clone.name }}", 2, "'clone' is undefined"),
        ("a\nb\n{{ params.regoin }}", 3, "regoin"),
        ("a\n{% if %}", 2, "Expected an expression"),
        ("a\n\n{% include 'x' %}", 3, "cannot include"),
        ("{% import 'x' as y %}", 1, "cannot include"),
        ("{% extends 'x' %}", 1, "cannot include"),
        ("a\n{{ 1 // 0 }}", 2, "division"),
        ("\n{% for i in range(2) %}\n{{ i.x }}\n{% endfor %}", 3, "x"),
    ],
)
def test_an_error_names_its_line_and_what_is_wrong(source: str, line: int, words: str) -> None:
    with pytest.raises(TemplateFailedError) as caught:
        render(source, SCOPE)

    assert caught.value.line == line
    assert words in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ image.__class__ }}",
        "{{ range.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ('%s' | format)('x') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ params.update({'a': 'b'}) }}",
        "{% set _reconciler_step = 1 %}",
        "{% macro _reconciler_step() %}{% endmacro %}",
        "{{ lipsum() }}",
        "{{ cycler }}",
    ],
)
def test_the_sandbox_gives_nothing_but_values(source: str) -> None:
    with pytest.raises(TemplateFailedError):
        render(source, SCOPE)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
        "{% for a in range(1000000000) %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** 10 ** 64 }}",
        "{{ 10 ** 100000 }}",
        "{% set n = namespace(v=3) %}{% for i in range(90) %}{% set n.v = n.v * n.v %}{% endfor %}{{ n.v }}",
        "{% set n = namespace(v='xx') %}{% for i in range(90) %}{% set n.v = n.v ~ n.v %}{% endfor %}",
        "{% set n = namespace(v='xx') %}{% for i in range(90) %}{% set n.v = n.v + n.v %}{% endfor %}",
        "{% set n = namespace(v='xx') %}{% for i in range(90) %}{% set n.v = n.v.replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(v='xx') %}{% for i in range(90) %}{% set n.v = n.v | replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(v=[1]) %}{% for i in range(90) %}{% set n.v = [n.v, n.v] %}{% endfor %}{{ n.v }}",
        "{% set n = namespace(v=[1]) %}{% for i in range(90) %}{% set n.v = [n.v] * 2 %}{% endfor %}",
        "{% set v = [1] %}{{ v | string }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(50000) %}{{ 'x' * 1 }}{% endfor %}",
        "x" * (MAX_TEMPLATE_CHARACTERS + 1),
        "{% for a in range(90000) %}" + "x" * 1000 + "{% endfor %}",
        "(" * 5000 + "{{" + "(" * 5000,
    ],
)
def test_a_template_that_grows_without_bound_is_refused(source: str) -> None:
    with pytest.raises(TemplateFailedError):
        render(source, SCOPE)
