#!/usr/bin/env python3
"""Writes goldens.json: what Python's Jinja renders with the settings of the transformers library.

    pip install jinja2
    python3 make_chat_goldens.py

Templates are the files in templates/ and the snippets below. `smollm2.jinja` and `qwen2.5-coder.jinja` come from the
models' files (Apache License 2.0); the others are written for these tests.
"""

import json
import pathlib
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime(2026, 3, 7, 9, 5, 2)


class Generation(jinja2.ext.Extension):
    """The tag around what the model wrote; without a mask to make it changes nothing."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(source, messages, options, add_generation_prompt, bos, eos):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    return environment.from_string(source).render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        bos_token=bos,
        eos_token=eos,
        **options,
    )


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


HELLO = [user("Hello, how are you?")]
TALK = [
    system("  Be brief.\n"),
    user("What is 2+2?  "),
    assistant("4"),
    user("\n And 3+3? Grüße, 日本 🙂 <|im_end|> <b>&amp;</b> \"x\" 'y' \\ "),
]
THOUGHTS = [
    system("Think."),
    user("One?"),
    assistant("<think>\nLet me see.\n</think>\n\nIt is one."),
    user("Two?"),
    assistant("<think>\nAgain.\n</think>\n\nIt is two."),
]
TOOL_TALK = [
    user("Weather?"),
    {"role": "tool", "content": "sunny"},
    {"role": "tool", "content": "warm"},
    assistant("Nice."),
]

# name of the template's file, conversations, options
FILES = {
    "smollm2": [(HELLO, {}), (TALK, {}), (TALK[:3], {})],
    "qwen2.5-coder": [(HELLO, {}), (TALK, {}), (TOOL_TALK, {})],
    "thinking": [
        (HELLO, {}),
        (HELLO, {"enable_thinking": False}),
        (HELLO, {"enable_thinking": True}),
        (TALK, {}),
        (THOUGHTS, {}),
        (THOUGHTS[:4], {"enable_thinking": False}),
        ([user("a"), assistant("b"), user("<tool_response>\nx\n</tool_response>"), assistant("c")], {}),
        ([system("alone")], {}),
        ([user("a"), {"role": "tool", "content": "b"}], {}),
    ],
    "alternating": [
        (HELLO, {}),
        (TALK, {}),
        (TALK[1:3], {}),
        ([user("a"), user("b")], {}),
        ([assistant("a")], {}),
    ],
    "headers": [(HELLO, {}), (TALK, {}), (TALK, {"date_string": "1 Jan 2025"})],
    "roles": [(HELLO, {}), (TALK, {})],
}

DATA = {
    "n": None,
    "t": True,
    "i": -7,
    "big": 12345678901234567890,
    "f": 1.0,
    "g": 1e-05,
    "h": 1e16,
    "s": "a\"b\\c\n\t\x01\x7f<&>'é日🙂/\u2028",
    "l": [1, [2, []], {}, "x"],
    "m": {"z": 1, "a": {"y": [True, None], "b": 0.1}},
}
TEXTS = {
    "s": "  Hello, wOrld! \n\tthe  end\x1f ",
    "u": "Straße ÀÉ İstanbul",
    "e": "",
    "lines": "one\ntwo\r\nthree\rfour\x0bfive\x85six\n",
    "path": "a,b,,c",
    "word": "banana",
}

# snippet, options
SNIPPETS = [
    ("{{ d | tojson }}", {"d": DATA}),
    ("{{ d | tojson(indent=2) }}", {"d": DATA}),
    ("{{ d | tojson(indent=4, sort_keys=true) }}", {"d": DATA}),
    ("{{ d.m | tojson(separators=(',', ':')) }}", {"d": DATA}),
    ("{{ d | tojson(ensure_ascii=true) }}", {"d": DATA}),
    ("{{ d.l | tojson(indent=0) }}|{{ 'x' | tojson }}|{{ 1.5 | tojson }}", {"d": DATA}),
    ("{{ d.m | tojson(indent='--') }}", {"d": DATA}),
    ("{{ x.y | tojson }}", {"x": {}}),
    ("{{ {'b': 1, 'a': (1, 2)} | tojson }} {{ {1: 2, none: 3 } | tojson }}", {}),
    # text of values
    ("{{ d.n }} {{ d.t }} {{ d.i }} {{ d.f }} {{ d.big }} {{ d.l }} {{ d.m }}", {"d": DATA}),
    ("{{ d.g }} {{ d.h }} {{ 0.1 + 0.2 }} {{ 3 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }}", {"d": DATA}),
    ("{{ ['it\\'s', \"q\\\"\", 'a\\n', 'b\\\\', 'é'] }} {{ (1, 'a') }} {{ (1,) }}", {}),
    ("{{ 'a' ~ none ~ true ~ 1 ~ 1.0 ~ [1, 'x'] ~ x.y }}", {"x": {}}),
    ("{{ d.l | string }} {{ true | string }} {{ d.n | string }}", {"d": DATA}),
    ("{{ undefined_thing }}|{{ undefined_thing is defined }}|{{ undefined_thing or 'no' }}|{{ undefined_thing | default('d') }}", {}),
    ("{{ d.missing }}|{{ d['missing'] is undefined }}|{{ d.l[9] is defined }}", {"d": DATA}),
    ("{{ undefined_thing.more }}", {}),
    ("{% for x in undefined_thing %}x{% else %}none{% endfor %}{{ undefined_thing | length }}", {}),
    # string methods
    ("[{{ s.strip() }}][{{ s.lstrip() }}][{{ s.rstrip() }}][{{ s | trim }}]", TEXTS),
    ("{{ word.strip('ban') }}|{{ word.lstrip('ba') }}|{{ word.rstrip('an') }}|{{ word.strip(none) }}|{{ word | trim('b') }}", TEXTS),
    ("{{ s.split() }} {{ s.split(none, 1) }} {{ s.rsplit(none, 1) }} {{ s.split(maxsplit=2) }} {{ e.split() }}", TEXTS),
    ("{{ path.split(',') }} {{ path.split(',', 1) }} {{ path.rsplit(',', 1) }} {{ path.rsplit(',') }} {{ e.split(',') }} {{ path.split(sep=',', maxsplit=0) }}", TEXTS),
    ("{{ path.partition(',') }} {{ path.rpartition(',') }} {{ path.partition('x') }} {{ path.rpartition('x') }}", TEXTS),
    ("{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ e.splitlines() }} {{ lines.splitlines(keepends=false) | length }}", TEXTS),
    ("{{ word.startswith('ba') }} {{ word.startswith(('x', 'b')) }} {{ word.endswith('na') }} {{ word.startswith('an', 1) }} {{ word.endswith('an', 0, 3) }} {{ e.startswith('') }}", TEXTS),
    ("{{ word.replace('a', 'o') }} {{ word.replace('a', 'o', 2) }} {{ word.replace('', '-') }} {{ word | replace('an', 'AN', 1) }} {{ word | replace('a', '') }}", TEXTS),
    ("{{ word.find('n') }} {{ word.find('n', 3) }} {{ word.rfind('n') }} {{ word.find('x') }} {{ word.index('a') }} {{ word.rindex('a') }} {{ word.count('an') }} {{ word.count('a', 2) }} {{ word.count('') }} {{ word.find('a', -2) }}", TEXTS),
    ("{{ word.index('x') }}", TEXTS),
    ("{{ 'ΣΊΣΥΦΟΣ ΑΣ'.lower() }}|{{ 'Σς'.casefold() }}|{{ u.lower() }}|{{ u.upper() }}|{{ u.title() }}|{{ u.capitalize() }}|{{ u.swapcase() }}|{{ u.casefold() }}", TEXTS),
    ("{{ s.title() }}|{{ s | title }}|{{ s | capitalize }}|{{ s | upper }}|{{ s | lower }}|{{ \"they're bill's\".title() }}|{{ \"they're bill's (x)\" | title }}", TEXTS),
    ("{{ word.removeprefix('ba') }} {{ word.removesuffix('na') }} {{ word.removeprefix('x') }}", TEXTS),
    ("{{ ', '.join(['a', 'b']) }}|{{ ''.join([]) }}|{{ ['a', 1, none] | join('-') }}|{{ [{'n': 1}, {'n': 2}] | join(',', attribute='n') }}", TEXTS),
    ("{{ word.ljust(9, '.') }}|{{ word.rjust(9) }}|{{ word.center(9, '*') }}|{{ word.center(10, '*') }}|{{ 'ab'.center(5, '-') }}|{{ 'abc'.center(6, '-') }}|{{ '-7'.zfill(5) }}|{{ '7'.zfill(3) }}", TEXTS),
    ("{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' \t'.isspace() }} {{ 'AB1'.isupper() }} {{ 'ab'.islower() }} {{ ''.isalpha() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }} {{ 'é'.isascii() }} {{ '٣'.isdecimal() }}", {}),
    ("{{ '{} and {}'.format('a', 1) }} {{ '{1}{0}{{}}'.format('a', 'b') }} {{ '{x}'.format(x=true) }} {{ '%s-%d' | format('a', 3) }}", {}),
    ("{{ word[0] }}{{ word[-1] }}|{{ word[1:3] }}|{{ word[:-2] }}|{{ word[::-1] }}|{{ word[::2] }}|{{ word[10:] }}|{{ word[-3:] }}", TEXTS),
    ("{{ 'a' in word }} {{ 'x' not in word }} {{ word is string }} {{ word | length }} {{ u | length }} {{ word * 2 }} {{ 'a' < 'b' }}", TEXTS),
    ("{{ ' x ' ~ 1 + 2 }}|{{ '-' * 5 }}|{{ not word }}|{{ e or 'empty' }}|{{ 'a' if e else 'b' }}|{{ 'a' if e }}|", TEXTS),
    # dictionaries
    ("{% for k, v in d.m.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in d.m | items %}{{ k }};{% endfor %}", {"d": DATA}),
    ("{% for k, v in d.m | dictsort %}{{ k }}{% endfor %}{% for k, v in {'b': 1, 'A': 2, 'c': 0} | dictsort %}{{ k }}{% endfor %}{% for k, v in {'b': 1, 'a': 2} | dictsort(by='value', reverse=true) %}{{ k }}{% endfor %}{% for k, v in {'b': 1, 'A': 2} | dictsort(true) %}{{ k }}{% endfor %}", {"d": DATA}),
    ("{{ d.get('i') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ d.get('n', 5) }} {{ d.m.keys() | list }} {{ d.m.values() | list }} {{ 'm' in d }} {{ d.m.items() | list }}", {"d": DATA}),
    ("{% for k in d.m %}{{ k }}{% endfor %} {{ d.m | list }} {{ d.m | length }} {{ dict(a=1, b='x') }}", {"d": DATA}),
    ("{{ d.update({'x': 1}) }}", {"d": DATA}),
    ("{{ d.m.pop('a') }}", {"d": DATA}),
    # lists
    ("{{ [1, 2, 3][::-1] }} {{ [1, 2, 3][1:] }} {{ [1, 2, 3][-1] }} {{ [1, 2] + [3] }} {{ [1, 2, 2].count(2) }} {{ [1, 2].index(2) }} {{ [3, 1] | sort }} {{ 2 in [1, 2] }}", {}),
    ("{{ [1, 2].append(3) }}", {}),
    ("{{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ [1, 2, 3] | sum }} {{ [1, 5, 3] | max }} {{ [4, 5, 3] | min }} {{ [1, 2, 3] | reverse | list }} {{ ['b', 'A', 'a'] | unique | list }} {{ 'abc' | list }} {{ 'abc' | reverse }}", {}),
    ("{{ ms | map(attribute='role') | join(',') }} {{ ms | selectattr('role', 'equalto', 'user') | list | length }} {{ ms | rejectattr('role', 'eq', 'user') | map(attribute='content') | list }} {{ [1, 2, 3, 4] | select('odd') | list }} {{ ['a', 'b'] | map('upper') | list }} {{ ms | selectattr('x') | list }}", {"ms": TALK[:3]}),
    ("{{ (ms | selectattr('role', 'in', ['user', 'system']) | list)[-1].content }} {{ ms | groupby('role') | map('first') | list }}", {"ms": TALK[:3]}),
    ("{{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3, 0, -1) | list }} {{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | slice(2) | list }}", {}),
    # other filters
    ("{{ '3' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '1.5' | float }} {{ 2.567 | round(1) }} {{ 2.5 | round }} {{ -3 | abs }} {{ 42 | string ~ 'x' }} {{ ' a b ' | wordcount }}", {}),
    ("{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb\n\nc' | indent(2, true) }}|{{ 'a\n\nb\n' | indent(2, blank=true) }}|{{ 'a\nb' | indent('>>') }}|{{ 'a\nb' | indent(width=1, first=true) }}", {}),
    ("{{ '<b>&\"\\'' | escape }} {{ '<b>' | e }} {{ '<b>' | safe }} {{ '<b>' }}", {}),
    ("{{ none | default('x') }} {{ none | default('x', true) }} {{ '' | default('x', boolean=true) }} {{ false | d('x') }}", {}),
    ("{{ 'abcdefghij klm' | truncate(8) }}", {}),
    # tests
    ("{{ m is mapping }} {{ l is mapping }} {{ l is iterable }} {{ 'x' is iterable }} {{ m is iterable }} {{ 1 is iterable }} {{ l is sequence }} {{ 'x' is sequence }} {{ m is sequence }} {{ 1 is sequence }}", {"m": {}, "l": []}),
    ("{{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ true is boolean }} {{ 1 is integer }} {{ 1.0 is float }} {{ none is none }} {{ 'x' is string }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 3 is odd }} {{ 4 is divisibleby(2) }} {{ 'a' is in 'abc' }} {{ 1 is eq 1 }} {{ true is integer }}", {}),
    ("{{ 'a' == 'a' }} {{ 1 == 1.0 }} {{ [1] == [1] }} {{ {'a': 1} == {'a': 1} }} {{ none == false }} {{ 1 == true }} {{ '1' == 1 }} {{ 1 < 2 < 3 }}", {}),
    # statements
    ("{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}", {}),
    ("{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.index0 }} {% endfor %}", {}),
    ("{% for x in ['a', 'b', 'b'] %}{{ loop.previtem }}-{{ loop.nextitem }}-{{ loop.cycle('x', 'y') }}-{{ loop.changed(x) }} {% endfor %}", {}),
    ("{% for x in [1, [2, 3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}", {}),
    ("{% set ns = namespace(n=0, s='') %}{% for x in [1, 2] %}{% set ns.n = ns.n + x %}{% set ns.s = ns.s ~ x %}{% endfor %}{{ ns.n }}{{ ns.s }}", {}),
    ("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}", {}),
    ("{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}block {{ a }}{% endset %}{{ t }}{% with z = 5 %}{{ z }}{% endwith %}", {}),
    ("{% macro m(a, b='d', c=none) %}{{ a }}{{ b }}{{ c }}{{ caller() if caller else '' }}{% endmacro %}{{ m(1) }} {{ m(1, c=2) }} {% call m(3) %}in{% endcall %}", {}),
    ("{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", {}),
    ("{% filter upper %}abc{% endfilter %}{% raw %}{{ x }}{% endraw %}{# no #}", {}),
    ("  {% if true %}\n    a\n  {%- endif +%}\n  b {%- if true -%}  c  {%- endif %}\n\n{{ 1 }}\n{{ 2 -}}\n  d\n", {}),
    ("line\n\t{% set x = 1 %}\n  {# c #}\nend\n\n", {}),
    ("{% generation %}\n  g\n{% endgeneration %}\n{%- generation -%} h {%- endgeneration -%} i", {}),
    ("{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %d %b %j %y %p %I %a %%') }}", {}),
    ("{{ raise_exception('no: ' ~ 1) }}", {}),
    ("{{ bos_token }}a{{ eos_token }}{{ bos_token + 'x' }}", {}),
    ("{{ 'a' 'b' }}|{{ \"\\u00e9\\x41\\t\\101\" }}", {}),
    ("{{ 1 if x is defined and x else 2 }} {{ x.y.z is defined }} {{ (x.y or {}).z is defined }}", {"x": {"y": None}}),
    ("{{ messages[0]['content'] | replace('<', '[') }} {{ messages | length }} {{ messages[-1].role }} {{ (messages | last)['role'] }} {{ messages[1:] | length }}", {}),
    ("{{ 10 | string | length }} {{ 'x' is defined and 'y' is not none }} {{ [] is none }} {{ {} | length == 0 }} {{ -1 }} {{ 1_000 }} {{ 1e3 }} {{ 5 % 3 }}", {}),
]


def case(name, template, source, messages, options, add_generation_prompt=True):
    golden = {"name": name, "template": template, "messages": messages, "options": options,
              "add_generation_prompt": add_generation_prompt}
    try:
        golden["text"] = render(source, messages, options, add_generation_prompt, "<bos>", "<eos>")
    except jinja2.exceptions.TemplateError as error:
        refused = type(error) is jinja2.exceptions.TemplateError
        golden["refused" if refused else "error"] = str(error)
    except Exception as error:  # What Python itself refuses is an error here too.
        golden["error"] = f"{type(error).__name__}: {error}"
    return golden


def main():
    goldens = []
    for name, conversations in FILES.items():
        source = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        for number, (messages, options) in enumerate(conversations):
            for prompt in (True, False):
                label = f"{name} {number}{' with prompt' if prompt else ''}"
                goldens.append(case(label, f"{name}.jinja", source, messages, options, prompt))
    for number, (snippet, options) in enumerate(SNIPPETS):
        golden = case(f"snippet {number}", None, snippet, HELLO, options)
        goldens.append(golden | {"source": snippet})
    lines = ",\n".join(json.dumps(golden, ensure_ascii=True) for golden in goldens)
    (HERE / "goldens.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
