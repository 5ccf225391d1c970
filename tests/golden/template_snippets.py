"""Small templates for the table of template.py: every operator, statement, filter, test and method."""
import itertools

MESSAGES = [{"role": "user", "content": "Hi <|im_end|> there"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1.0, "b": [1, 2]}}}]},
            {"role": "tool", "content": "  päd\n"}]
KWARGS = {"s": "Hello World", "e": "", "u": "Ünï日本🦜 ß", "ws": "  \t a b\n c \u00a0", "i": 7, "n": -3, "z": 0, "f": 2.5,
          "g": 1e20, "h": -0.125, "big": 12345678901234567890123, "t": True, "no": False, "none_v": None,
          "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "ld": [{"k": "x", "v": 2}, {"k": "y", "v": 1}, {"k": "X", "v": 3}],
          "d": {"b": 1, "a": [1, {"q": None}], "items": "shadow", "C": 2.0}, "nested": {"x": {"y": {"z": [10, 20]}}},
          "html": "<a href='x'>&\"</a>", "num": "42", "fl": "3.75", "bad": "4x", "csv": "a,b,,c", "el": [], "ed": {}}

VALUES = ["s", "e", "u", "i", "n", "z", "f", "g", "h", "t", "no", "none_v", "l", "ls", "d", "missing", "big", "el"]
OPERANDS = ["s", "u", "i", "n", "f", "t", "none_v", "l", "d", "missing", "el", "'o'"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]


def operators():
    for a, op, b in itertools.product(OPERANDS, BINARY, OPERANDS):
        yield "{{ %s %s %s }}" % (a, op, b)
    for a, b in itertools.product(["2", "-2", "0", "2.0", "10", "true", "1", "-1"], ["3", "0", "-1", "0.5", "62"]):
        if (a, b) in (("10", "62"), ("-2", "0.5"), ("-1", "0.5")):
            continue            # beyond 64 bits, complex
        yield "{{ (%s) ** (%s) }}" % (a, b)
    for v in VALUES:
        yield "{{ -%s }}" % v
        yield "{{ +%s }}" % v
        yield "{{ not %s }}" % v
        yield "{{ %s if %s else 'other' }}" % (v, v)
    for a, b in itertools.product(["7", "-7", "7.5", "-7.5", "0", "0.0"], ["2", "-2", "2.5", "-2.5", "3"]):
        for op in "/", "//", "%":
            yield "{{ %s %s %s }}" % (a, op, b)
    yield from """{{ 1 + 2 * 3 ** 2 }}|{{ 2 ** 3 ** 2 }}|{{ -2 ** 2 }}|{{ not 1 == 2 }}|{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 3 > 2 > 1 == 1 }}
{{ 1 ~ 2 + 3 }}|{{ 'a' ~ 1.0 ~ none ~ true ~ [1] }}|{{ 1 if 0 }}|{{ (1 if 0) is defined }}|{{ 1 if 0 else 2 if 0 else 3 }}
{{ 'a' 'b' "c" }}|{{ 'x' * 3 }}|{{ 3 * 'x' }}|{{ 'x' * -1 }}|{{ [1, 2] * 2 }}|{{ (1,) * 3 }}|{{ [1] + [2] }}|{{ (1,) + (2, 3) }}|{{ [1] + (2,) }}
{{ () }}|{{ (1,) }}|{{ (1) }}|{{ 1, 2 }}|{{ [] }}|{{ {} }}|{{ {'a': 1, 2: 'b', none: 3} }}|{{ {'a': 1, 'a': 2} }}|{{ {1: 'a', 1.0: 'b', true: 'c'} }}
{{ [1, 'a', "it's", 'q"q', '\\'"', 2.0, none, true] }}|{{ ['\\n\\t\\\\', '\\x00\\x7f', 'é', '\\u200b', '\\U0001f600'] }}
{{ 1_000 }}|{{ 0x1f }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1e3 }}|{{ 1.5e-7 }}|{{ 1e16 }}|{{ 123456789012345678 * 1.0 }}|{{ 1e15 }}|{{ 0.1 + 0.2 }}|{{ 1/3 }}|{{ 1e22 }}|{{ 1e-5 }}|{{ 0.0001 }}
{{ true + true }}|{{ true == 1 }}|{{ 1 == 1.0 }}|{{ 'a' < 'b' }}|{{ [1, 2] < [1, 3] }}|{{ (1, 2) == [1, 2] }}|{{ 'é' > 'z' }}
{{ 'a\\'b' }}|{{ "a\\"b" }}|{{ '\\x41\\u00e9\\101\\q' }}|{{ 'a\\
b' }}|{{ a.b }}|{{ missing.b }}|{{ none.b }}|{{ none_v.b is defined }}|{{ s.b }}|{{ s.b.c }}|{{ missing() }}|{{ s() }}|{{ missing['a'] }}
{{ True and False or None }}|{{ none is none }}|{{ '%s-%d' % ('a', 3) }}|{{ '%5.2f|%-5s|%05d|%x|%r' % (1.234, 'ab', 42, 255, 'q') }}|{{ '%s' % 'x' }}|{{ '%(a)s' % {'a': 1} }}|{{ '100%%' % () }}
{{ '%s %s' % ('a',) }}|{{ '%s' % ('a', 'b') }}|{{ '%d' % 'x' }}|{{ '%+d % d' % (3, 4) }}|{{ '%e %g' % (12345.678, 0.00001) }}|{{ '%10s|' % u }}|{{ '%c' % 'x' }}
{{ 9223372036854775807 }}|{{ [[[1]]] }}|{{ {'a': {'b': [1, {'c': ()}]}} }}|{{ - 1 }}|{{ - -1 }}|{{ 1 - -1 }}|{{ 'a' if missing else 'b' }}
{{ i is divisibleby 7 }}|{{ i is divisibleby(2) }}|{{ not i is odd }}|{{ i is not odd }}|{{ 5 is in [1, 5] }}|{{ 5 is not in [1, 5] }}|{{ i|string ~ f }}""".replace("\n", "|").split("|")


SUBSCRIPTS = """d.a d['a'] d['items'] d.keys() d.missing d['missing'] d.get('b') d.get('x') d.get('x',5) d.b.c
d.pop d.pop('a') d.update({'a':1}) d.clear() l.append(1) l.pop() l.sort() l.index(1) l.index(9) l.count(1) l[0] l[-1] l[9] l['0'] l.0 d.a.1.q l[1.0] l[true]
s[0] s[-1] s[99] u[0] u[3] u[-1] u[5] s['x'] nested.x.y.z[1] nested['x']['y'] nested.x.y.z.0 nested.nope.y d.__class__ s.__class__.__mro__ d._x d.copy()
l[0:2] l[1:] l[:-1] l[::-1] l[::2] l[5:] l[-2:] l[:] l[2:0:-1] l[-1:0:-1] l[::0] s[1:4] s[::-1] s[::2] s[-3:] s[:-3] s[3:1] s[10:0:-3] u[2:5] u[::-1] u[::3] u[-4:-1] e[0:1] e[::-1]
(1,2,3)[1:] d[0:1] missing[0:1] i[0] range(10)[2:4] range(10)[3] range(5)[-1] d.items()|list d.keys()|list d.values()|list d.values()|length d.keys()[0]""".split()


def accesses():
    for e in SUBSCRIPTS:
        yield "{{ %s }}" % e


FILTERS = """upper lower title capitalize trim length count first last list string int float abs round reverse sort unique min max sum join safe escape e
items dictsort tojson wordcount indent default d center batch(2) slice(2) map select reject forceescape urlencode truncate format groupby attr('a') random_no""".split()
FILTER_CALLS = """s|replace('o','0') s|replace('o','0',1) s|replace('','-') e|replace('','-') u|replace('日','x') i|replace(7,8) s|trim('Hd') s|trim(chars='H') ws|trim s|default('x') missing|default('x') missing|d missing|default
e|default('x') e|default('x',true) none_v|default('x') none_v|default('x',boolean=true) missing.a|default('x') num|int bad|int bad|int(5) fl|int fl|float bad|float bad|float(1.5) 'ff'|int(0,16) '0x1f'|int(0,16) '0b11'|int(0,2) ' 12 '|int '1_000'|int '-5'|int '1e3'|float 'nan'|float 'inf'|float '1e400'|float
2.5|round 3.5|round 2.675|round(2) 2.675|round(1,'floor') 2.675|round(1,'ceil') 1234.5|round(-2) 7|round 1e300|round(2) -2.5|round(method='ceil') 0.5|round f|int g|int h|abs n|abs 1.0|int 2.9|int -2.9|int
l|sort l|sort(reverse=true) l|sort(true) ls|sort ls|sort(case_sensitive=true) ld|sort(attribute='v') ld|sort(attribute='k,v') ld|sort(attribute='k',reverse=true) d|dictsort d|dictsort(true) d|dictsort(by='value') ed|dictsort d|dictsort(reverse=true) d|dictsort(false,'nope') {'b':2,'a':1,'C':0}|dictsort {'b':2,'a':1,'C':0}|dictsort(true) {'b':2,'a':1}|dictsort(by='value') {'b':2,'a':1}|dictsort(false,'value',true)
l|join l|join(',') ls|join('-') ld|join(',',attribute='k') ld|join(attribute='v') s|join('.') u|join('|') d|join(',') l|first l|last e|first e|last s|first u|last el|first el|last d|first d|last l|reverse s|reverse u|reverse l|reverse|list l|length d|length e|length u|length missing|length i|length none_v|length
ls|unique ls|unique|list ls|unique(true)|list l|min l|max ls|min ls|max ls|max(true) ld|max(attribute='v') el|min l|sum ld|sum(attribute='v') l|sum(start=10) el|sum ls|sum [[1],[2]]|sum(start=[])
ld|map(attribute='k')|list ld|map(attribute='nope')|list ld|map(attribute='nope',default='-')|list ls|map('upper')|list ls|map('replace','a','_')|join l|map('string')|join ld|map(attribute='k')|map('upper')|join(',') nested|map('upper')|list l|map(attribute=0)|list [[1,2],[3,4]]|map(attribute=1)|list [[1,2],[3,4]]|map('first')|list ls|map('nope')|list ls|map()|list l|map
l|select|list l|select('odd')|list l|reject('odd')|list l|select('gt',1)|list l|select('in',[1,3])|list ld|selectattr('v')|list ld|selectattr('v','equalto',2)|list ld|selectattr('k','in',['x'])|map(attribute='v')|list ld|rejectattr('v','gt',1)|list ld|selectattr('nope','defined')|list ld|rejectattr('nope','defined')|list|length ls|select('nope')|list ld|selectattr()|list el|select('odd')|list missing|selectattr('a')|list
d|tojson l|tojson s|tojson u|tojson ws|tojson html|tojson t|tojson none_v|tojson f|tojson g|tojson big|tojson d|tojson(indent=2) d|tojson(indent=0) el|tojson(indent=2) ed|tojson(indent=4) {'a':[],'b':{}}|tojson(indent=1) d|tojson(ensure_ascii=true) u|tojson(ensure_ascii=true) u|tojson(true) d|tojson(separators=(',',':')) d|tojson(sort_keys=true) {'b':1,'a':2}|tojson(sort_keys=true,indent='--') {1:2,none:3,true:4,1.5:5}|tojson (1,2)|tojson missing|tojson range(3)|tojson '\\x00\\x1f\\x7f/\\\\"'|tojson messages|tojson messages[1].tool_calls[0].function.arguments|tojson nested|tojson(none,2)
s|indent 'a\\nb\\n\\nc'|indent 'a\\nb\\n\\nc'|indent(2) 'a\\nb\\n\\nc'|indent(2,true) 'a\\nb\\n\\nc'|indent(2,true,true) 'a\\nb'|indent('>>') 'a\\nb\\n'|indent(1) 'a\\r\\nb'|indent(3) i|indent html|escape html|e|length html|safe|length html|escape|escape html|forceescape html|safe+'<' html|escape~'<' ('<'|safe)+'>' ('<b>'|escape).replace('b','<') ('<'|safe)|string html|escape|upper [html|safe] ('<'|safe)|tojson ('a'|safe)*2 ('%s'|safe)%'<' ('<'|safe).join(['<','>'])
s|center(20) s|center(3) s|wordcount u|wordcount s|truncate(5) s|truncate(8,true) s|truncate(8,false,'..') s|truncate(5,leeway=0) 'foo bar baz qux'|truncate(9) 'foo bar baz qux'|truncate(9,true) 'foo bar baz qux'|truncate(11) 'foo bar baz qux'|truncate(11,false,'...',0)
[1,2,3,4,5]|batch(2)|list [1,2,3,4,5]|batch(2,0)|list [1,2,3,4,5]|slice(3)|list [1,2,3,4,5]|slice(3,0)|list ld|groupby('k')|list ld|groupby('k',case_sensitive=true)|list ld|groupby('nope',default=1)|list '%s-%s'|format(1,2) '%(a)s'|format(a=1) s|urlencode u|urlencode d|attr('a') d|attr('get') d|items|list d|items missing|items|list s|title|lower u|upper u|lower u|capitalize u|title 'ǆ ﬁ ŉ'|upper 'ΑΣ ΑΣΑ'|lower 'hello-world (foo) [bar]'|title "it's"|title
s|upper|lower|title 3|string|length s|list u|list d|list missing|list i|list range(3)|list none_v|list s|nope s|upper() s|upper(1) s|replace('a') s|int s|float d|int l|abs [3,1]|sort|first {'a':1}|items|first none_v|upper none_v|trim t|lower f|string|length d|string l|string i|string missing|upper missing|trim missing|int missing|float missing|round missing|string missing|join missing|first missing|sort missing|tojson""".split()


def filters():
    for v, f in itertools.product(VALUES, FILTERS):
        if (f, v) in (("reverse", "d"), ("map", v), ("select", v), ("reject", v), ("items", v)) or f.startswith(("batch", "slice")):
            continue            # prints an address
        if f in ("reverse", "unique") and v in ("l", "ls", "d", "s", "u", "e", "el", "missing"):
            continue
        if v == "big" and f in ("round", "abs") or v == "g" and f == "int" or v == "big" and f == "int":
            continue            # integers beyond 64 bits
        if f == "unique" or (f, v) in (("items", "l"), ("reverse", "missing")):
            continue            # a generator that nobody reads: no error, and an address
        if f in ("truncate", "urlencode") and v not in ("s", "e", "u"):
            continue
        yield "{{ %s|%s }}" % (v, f)
    for e in FILTER_CALLS:
        if e in ("l|reverse", "ls|unique", "l|map", "g|int", "d|items", "1e300|round(2)", "d|attr('get')"):
            continue
        yield "{{ %s }}" % e


TESTS = """defined undefined none boolean true false integer float number string mapping sequence iterable callable escaped odd even lower upper""".split()


def tests():
    for v, t in itertools.product(VALUES + ["range(3)", "range", "d.items()", "d.items", "l|map('string')", "namespace(a=1)", "s|safe"], TESTS):
        if v == "big" and t in ("odd", "even"):
            continue
        yield "{{ %s is %s }}" % (v, t)
        yield "{{ %s is not %s }}" % (v, t)
    for v, t, o in itertools.product(["i", "s", "l", "f", "missing"], ["eq", "equalto", "ne", "lt", "gt", "le", "ge", "greaterthan", "lessthan", "sameas", "in", "divisibleby"], ["7", "'Hello World'", "[7]", "2.5", "none"]):
        if t == "sameas" and o != "none":
            continue            # identity of equal values is Python's business
        yield "{{ %s is %s(%s) }}" % (v, t, o)
    yield from ("{{ 1 is nope }}", "{{ i is defined and i is number or x }}", "{{ s is string is defined }}", "{{ 'trim' is filter }}", "{{ 'nope' is filter }}", "{{ 'odd' is test }}",
                "{{ none is sameas none }}", "{{ d.a is defined and d.q is not defined }}", "{{ x is defined and x.y }}", "{% if not tools is defined %}a{% else %}b{% endif %}")


METHODS = """s.split() s.split('o') s.split('o',1) ws.split() ws.split(' ') csv.split(',') csv.split(',',2) csv.rsplit(',',1) ws.rsplit(none,1) csv.split(',',maxsplit=1) e.split() e.split(',') csv.split('') u.split('本')
ws.strip() ws.lstrip() ws.rstrip() s.strip('Hd') s.lstrip('Hel') s.rstrip('dl') u.strip('Üß') s.strip('') s.startswith('He') s.startswith('x') s.startswith(('x','He')) s.endswith('ld') s.endswith(('a','d')) s.startswith('l',2) s.startswith('') s.endswith('lo',0,5) s.startswith(1)
s.replace('l','L') s.replace('l','L',1) s.replace('','.') s.replace('l','') u.replace('ï','i') s.replace('l','L',0) s.replace('l','L',-1) s.upper() s.lower() s.title() s.capitalize() s.swapcase() u.upper() u.lower() u.title() u.capitalize() u.casefold() "they're bill's".title() 'ab1cd'.title()
s.find('o') s.find('o',5) s.find('zz') s.rfind('o') s.index('o') s.index('zz') u.find('本') u.rfind('🦜') u.index('日') s.find('') s.rfind('') s.find('o',-3) s.count('l') s.count('') u.count('') e.count('') 'aaaa'.count('aa') s.count('l',4) s.count('o',0,5)
','.join(ls) ', '.join(l) ''.join([]) '-'.join('abc') '-'.join(d) 'a\\nb\\r\\nc\\x0bd'.splitlines() 'a\\nb\\n'.splitlines(true) e.splitlines() ws.splitlines() s.removeprefix('Hello') s.removeprefix('x') s.removesuffix('World') s.partition(' ') s.partition('x') csv.rpartition(',') s.rpartition('x') s.partition('')
s.ljust(15) s.rjust(15,'*') s.center(16) s.center(15,'-') 'ab'.center(5) 'abc'.center(6) num.zfill(5) '-5'.zfill(4) s.zfill(3) 'a\\tb'.expandtabs() 'a\\tb'.expandtabs(4) s.isdigit() num.isdigit() '²'.isdigit() '²'.isdecimal() '½'.isnumeric() e.isdigit() s.isalpha() 'abc'.isalpha() 'é日'.isalpha() 'a1'.isalnum() ws.isspace() ' \\t'.isspace() e.isspace() 'ABC'.isupper() 'aBC'.isupper() 'abc1'.islower() '1'.islower() s.isascii() u.isascii() e.isascii()
'{}-{}'.format(1,'a') '{0}{1}{0}'.format('a','b') '{x}'.format(x=5) '{:>5}|{:<5}|{:^5}'.format('a','b','c') '{:05d}|{:+d}|{:x}|{:,}'.format(42,42,255,1234567) '{:.2f}|{:8.3f}|{:e}|{:%}'.format(3.14159,2.5,12345.678,0.25) '{{}}'.format() '{0.a}'.format(d) '{0[a]}'.format(d) '{0[1]}'.format(l) '{!r}'.format('a') '{:*^9}'.format('mid') '{'.format() '}'.format() '{}'.format() '{z}'.format() '{:g}'.format(1e10) '{}'.format(1.0) '{}'.format(none) '{:5}|'.format(true) '{:b}'.format(5) '{:#x}'.format(255) '{:s}'.format('a') '{:.2}'.format('abc')
s.nope() s.encode() s.join d.get d.items(1) d.get() d.get([]) d.keys()|join d.has_key('a') l.copy() l.extend([1]) (1,2,1).count(1) (1,2).index(2) range(5).index(3) s.upper().lower().split()[0] s.__len__() s.format_map({}) 'a'.maketrans d.items()|length d.values()|list d.items()|first|first""".split()


def methods():
    # an expression goes on over a blank while its brackets are open
    glued = ""
    for word in METHODS:
        glued = f"{glued} {word}" if glued else word
        if glued.count("(") == glued.count(")") or glued.startswith("'{0}{"):
            if glued not in ("s.join", "d.get", "'a'.maketrans", "s.encode()", "s.format_map({})"):
                yield "{{ %s }}" % glued
            glued = ""


STATEMENTS = r"""
{% for x in l %}{{ x }},{% endfor %}
{% for x in [] %}{{ x }}{% else %}none{% endfor %}
{% for x in missing %}{{ x }}{% else %}none{% endfor %}
{% for x in i %}{{ x }}{% endfor %}
{% for x in none_v %}{{ x }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }};{% endfor %}
{% for c in u %}[{{ c }}]{% endfor %}
{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }} {% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }}{{ loop.last }} {% endfor %}
{% for x in l if x > 9 %}{{ x }}{% else %}empty{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}<{{ loop.nextitem }} {% endfor %}
{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}
{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}
{% for x in l|map('string') %}{{ x }}{{ loop.last }}{{ loop.length }}{% endfor %}
{% for x in l %}{% for y in ls %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% for x in l %}{% set outer = loop %}{% for y in ls %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for x in [1, [2, [3]], 4] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}
{% for x in l %}{{ loop(x) }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}
{% for x in l %}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}|{% endfor %}
{% break %}
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for x in l %}{% set z = x %}{% endfor %}{{ z }}
{% set a = 1 %}{% for x in l %}{{ a }}{% set a = x %}{{ a }} {% endfor %}{{ a }}
{% set ns = namespace(n=0) %}{% for x in l %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}
{% set ns = namespace() %}{% set ns.a = [1] %}{{ ns.a }}{{ ns.b }}{{ ns.b is defined }}
{% set ns = namespace({'q': 1}, r=2) %}{{ ns.q }}{{ ns.r }}{{ ns['q'] }}{{ ns }}
{% set ns = namespace(_a=1) %}
{% set d.x = 1 %}
{% set nope.x = 1 %}
{% set ns = namespace(found=false) %}{% for m in messages if not ns.found %}{{ m.role }}{% set ns.found = true %}{% endfor %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = [1, 2, 3] %}{{ a }}
{% set (a, b) = (1, 2) %}{{ a + b }}
{% set a = 1, 2 %}{{ a }}
{% set x %}block {{ i }}{% endset %}[{{ x }}]{{ x|length }}
{% set x | upper %}block {{ i }}{% endset %}{{ x }}
{% set x | replace('b', 'c') | title %}block{% endset %}{{ x }}
{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}
{% if i > 5 %}a{% elif i > 3 %}b{% else %}c{% endif %}
{% if z %}a{% elif e %}b{% elif missing %}c{% elif el %}d{% elif none_v %}e{% else %}f{% endif %}
{% if t %}{% set q = 1 %}{% endif %}{{ q }}
{% if no %}{% set q = 1 %}{% endif %}{{ q is defined }}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c=5) }}|{{ m(b=1, a=2) }}
{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}{{ m(1, 2) }}
{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(b=1) }}
{% macro m(a) %}[{{ a is defined }}]{% endmacro %}{{ m() }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ m(*[1, 2, 3]) }}{{ m(**{'a': 9}) }}
{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}body{{ i }}{% endcall %}
{% macro m(x) %}{{ caller(x, 2) }}{% endmacro %}{% call(a, b) m(5) %}{{ a }}-{{ b }}{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro m() %}{{ q }}{% endmacro %}{% set q = 7 %}{{ m() }}
{% macro m() %}{% set q = 7 %}{% endmacro %}{{ m() }}{{ q is defined }}
{% set q = 1 %}{% macro m() %}{{ q }}{% set q = 7 %}{{ q }}{% endmacro %}{{ m() }}{{ q }}
{% macro m() %} a {% endmacro %}[{{ m()|trim }}][{{ m() | length }}]{{ m() ~ 'x' }}
{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}
{% macro m(x) %}{% for y in x %}{{ loop.index }}{% endfor %}{% endmacro %}{% for x in l %}{{ m([1, 2]) }}{{ loop.index }}{% endfor %}
{{ m is defined }}{% macro m() %}{% endmacro %}{{ m is defined }}{{ m is callable }}
{% filter upper %}abc {{ s }}{% endfilter %}
{% filter replace('a', 'b') | upper %}abc{% endfilter %}
{% filter trim %}  a  {% endfilter %}|
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% with a = 1 %}{% with b = a + 1 %}{{ b }}{% endwith %}{% endwith %}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% generation %}abc{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}
{% for x in l %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}
{%- generation -%} a {%- endgeneration -%} b
{% raw %}{{ x }}{% y %}{% endraw %}
{%- raw -%}  a {{ }} {%- endraw -%}  b
  {% raw %}
  x
  {% endraw %}
 y
{% print i, s %}
{# comment {{ x }} #}a{#- b -#} c
a {#- x #} b {# y -#} c
{{ range(5)|list }}{{ range(2, 5)|list }}{{ range(5, 0, -2)|list }}{{ range(3) }}{{ range(0)|list }}{{ range(1, 9, 3) }}
{{ range() }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ 3 in range(5) }}{{ range(3) == range(3) }}{{ range(3)|sum }}{{ range(3)|length }}
{{ dict(a=1, b=[2]) }}{{ dict([('a', 1)]) }}{{ dict(d)|length }}{{ dict({'a': 1}, a=2) }}
{% set j = joiner('|') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}
{{ raise_exception('told you: ' ~ i) }}
{{ raise_exception(missing) }}
{% if no %}{{ raise_exception('x') }}{% endif %}ok
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %A %j %p %y %%') }}
{{ strftime_now('%-d %B') }}{{ strftime_now('') }}|{{ strftime_now('%f%z%Z') }}
{{ messages[0].content }}{{ messages[1].content }}{{ messages[-1].content|trim }}{{ messages|length }}
{{ messages[1].tool_calls[0].function.arguments|tojson }}{{ messages[1]['tool_calls'][0]['function']['name'] }}
{{ tools }}{{ tools is none }}{{ tools is defined }}{{ documents }}{{ add_generation_prompt }}{{ bos_token }}{{ eos_token }}
{{ undefined_fn('x') }}
{{ s
   |upper
 }}{{
 i }}
{{- s -}}  x  {{- i -}}
  {%- if t %}  a  {%- endif %}  b
  {%+ if t %}
 a
  {%+ endif +%}
 b
  {% if t %}
  a
  {% endif %}
b
x {% if t %} y {% endif %} z
x\t{% if t -%}

  y

{%- endif %}

z
{% if t %}

a

{% endif %}


b

{{ s }}
{{ i }}

{% set x = 1 %}
{% set y = 2 %}
{{ x }}{{ y }}

{% set x = {'a': [1, 2, {'b': 3}],
   'c': (1,)} %}
{{ x.a[2].b }}
{% for m in messages %}
    {%- if m.role == 'user' %}
        {{- '<|user|>' + m.content }}
    {%- elif m.role == 'assistant' and m.tool_calls is defined %}
        {{- '<|call|>' ~ m.tool_calls[0].function.name }}
    {%- else %}
        {{- m.content | trim }}
    {%- endif %}
{%- endfor %}
{% for m in messages %}{% if loop.first and m['role'] != 'system' %}S{% endif %}{{ m['role'] }}{% if not loop.last %}, {% endif %}{% endfor %}
{{ 'a' if t }}{{ 'a' if no }}{{ ('a' if no) ~ 'b' }}
{{ x if x is defined else 'nope' }}
{{ (messages | selectattr('role', 'equalto', 'user') | list)[0].content }}
{{ messages | map(attribute='role') | join(',') }}
{{ messages | map(attribute='content') | select('string') | list | length }}
{% set out = [] %}{% set _ = out.append(1) %}{{ out }}
{% set parts = 'a|b|c'.split('|') %}{{ parts[-1] }}{{ parts | length }}
{% set content = messages[0]['content'] %}{% if '<|im_end|>' in content %}{{ content.split('<|im_end|>')[-1].lstrip() }}{% endif %}
{%- macro t(x) -%}{%- if x is mapping -%}{ {%- for k in x -%}{{ k }}:{{ t(x[k]) }},{%- endfor -%} }{%- elif x is string -%}{{ x }}{%- elif x is sequence -%}[{%- for y in x -%}{{ t(y) }},{%- endfor -%}]{%- else -%}{{ x }}{%- endif -%}{%- endmacro -%}{{ t(d) }}{{ t(nested) }}
{% set x = [1, 2, 3] %}{% set x = x + [4] %}{{ x }}{% set x = x[1:] %}{{ x|join }}
{% set ns = namespace(last=-1) %}{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}{% if m.role == 'user' and ns.last == -1 %}{% set ns.last = index %}{% endif %}{% endfor %}{{ ns.last }}
{{ d.items() | list | length }}{{ d | items | list }}{% for k, v in d|items %}{{ k }}{% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}
{% endif %}
{% if t %}
{% for x in %}{% endfor %}
{{ }}
{{ a b }}
{{ 'abc }}
{{ (1 }}
{{ 1) }}
{{ [1, 2 }}
{% nope %}
{% set 1 = 2 %}
{% set x.y.z = 2 %}
{% macro m(a=1, b) %}{% endmacro %}
{{ f(a=1, 2) }}
{{ 1 is }}
{{ s| }}
{{ a..b }}
{{ {'a' 1} }}
{{ 1 if }}
{% if %}{% endif %}
{# open
{% raw %} open
{{ $ }}
{{ a ! b }}
{% for x in l %}a{% endif %}
{% set x = %}
{{ not }}
{% do 1 %}
{{ l[ }}
{{ "\xZZ" }}
}} %} #} plain { { % # text
{ {{ '{' }} }}
{{ '{{ x }}' }}{{ "%}" }}
{{ {'a': {'b': 1}}.a.b }}{{ {'a': {'b': {}}}}}
{%if t%}x{%endif%}{{i}}{#c#}{%-if t-%} y {%-endif-%} z
a
""".split("\n")


MULTI = [
    "  {% raw %}\n  x\n  {% endraw %}\n y", "{{ s\n   |upper\n }}{{\n i }}", "  {%+ if t %}\n a\n  {%+ endif +%}\n b",
    "  {% if t %}\n  a\n  {% endif %}\nb", "x {% if t %} y {% endif %} z", "x\t{% if t -%}\n\n  y\n\n{%- endif %}\n\nz",
    "{% if t %}\n\na\n\n{% endif %}\n\n\nb\n\n{{ s }}\n{{ i }}\n\n", "{% set x = 1 %}\n{% set y = 2 %}\n{{ x }}{{ y }}\n",
    "{% set x = {'a': [1, 2, {'b': 3}],\n   'c': (1,)} %}\n{{ x.a[2].b }}\n", "a\r\nb\rc\n{% if t %}\r\nd{% endif %}\r\n",
    "{{ 'a\r\nb' }}", "\n", "", " ", "\n\n", "{{ s }}\n", "{% if t %}\n", "  {# c #}\nx", "  {# c #} y\nx", "x  {# c #}\ny", "\n  {#- c -#}  \n y",
    "a\n  {{ i }}\n  b", "  {{ i }}", " {% if t %} {% if t %} x {% endif %} {% endif %} ", "\t{% if t %}\u00a0{% endif %}\u2003{%- if t %}.{% endif %}",
    "{% for x in l %}\n  {{ x }}\n{% endfor %}\nend", "{% for x in l -%}\n  {{ x }}\n{%- endfor %}\nend", "{%- for x in l %}\n  {%- if x %}\n    {{- x }}\n  {%- endif %}\n{%- endfor -%}\n",
    "{% if t %}a{% endif %}\n\n\n{%- if t %}b{% endif +%}\nc", "{% raw -%}  \n x {%- endraw %}\n y", "{%- raw %}\n{{ x }}\n{%- endraw +%}\n y",
    "{{ '''a''' }}", "{{ 'a' \n 'b' }}", "{{ [\n1,\n2,\n] }}", "{{ dict(\n a=1,\n) }}", "{{ x\n.y }}", "{{ d\n.a }}",
]


def statements():
    yield from (line for line in STATEMENTS if line.strip())
    yield from MULTI


def snippets():
    seen = set()
    for s in itertools.chain(accesses(), filters(), methods(), statements(), tests(), operators()):
        if s not in seen:
            seen.add(s)
            yield s
