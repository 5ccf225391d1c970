#!/usr/bin/env python3
# The style rules that a machine can check: who may include whom, where external libraries and
# dangerous calls may stand, lengths of lines, functions and files, rows that have no file and files
# that nothing builds.
#
# usage: tests/tidy.py [ROOT]       prints one line for each violation; status 1 if there are any
import re
import statistics
import sys
from pathlib import Path

COLUMNS_MAX = 100
FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 120        # a ratchet: lower it when the longest function gets shorter
FUNCTION_LINES_MEDIAN_MAX = 20

FOLDERS = ('base', 'kvstore', 'shaders', 'engine', 'server', 'tests', 'deploy', 'tools', 'docs')

# Tier -> the tiers that it may include besides itself. A file belongs to the longest name that
# begins its path. "engine" is what lies directly in that folder: engine.h; limits.h is every
# tier's.
ENGINE = ('engine/quant', 'engine/model', 'engine/text', 'engine/kv', 'engine/select',
          'engine/exec')
MAY_INCLUDE = {
    'base': (),
    'kvstore': ('base',),
    'shaders': (),
    'engine/limits.h': ('base',),
    'engine/exec/devices.h': ('base',),
    'engine/kv/homes.h': ('base',),
    'engine/quant': ('base', 'shaders'),
    'engine/model': ('base', 'shaders', 'engine/quant'),
    'engine/text': ('base', 'engine/model'),
    'engine/kv': ('base', 'kvstore', 'engine/quant', 'engine/model', 'engine/kv/homes.h'),
    'engine/select': ('base', 'shaders', 'engine/kv'),
    'engine/exec': ('base', 'shaders', 'engine/quant', 'engine/model', 'engine/kv',
                    'engine/select', 'engine/exec/devices.h', 'engine/kv/homes.h'),
    'engine/run': ('base', 'kvstore', 'shaders', 'engine') + ENGINE,
    'engine': ('base', 'engine/text', 'engine/select', 'engine/exec/devices.h',
               'engine/kv/homes.h'),
    'server': ('base',),        # and engine/engine.h with what that includes
    'server/cli': ('base', 'kvstore', 'server'),
}
EVERY_ENGINE_TIER = 'engine/limits.h'
FACADE = 'engine/engine.h'

# Headers of an external library -> the files that may include them.
# Made by the build.
GENERATED = re.compile(r'shaders/spirv_\w+\.inc')

CONFINED = {
    r'microhttpd\.h': r'server/http\w*\.[ch]',
    r'(cjson/)?cJSON\.h': r'server/(json\.[ch]|api/\w+\.[ch])',
    r'pcre2\.h': r'engine/text/[\w/]+\.[ch]',
    r'utf8proc\.h': r'engine/text/[\w/]+\.[ch]',
    r'sodium\.h': r'base/hash\.c',
    r'liburing\.h': r'kvstore/io_uring\.c',
    r'lmdb\.h': r'kvstore/index\.c',
    r'xxhash\.h': r'kvstore/format\.c',
    r'vulkan/.*': r'engine/exec/vulkan/\w+\.[ch]',
}

# Calls -> the files that may make them; tests and tools may make all but the first row.
MAIN_PROGRAMS = r'server/(main|cli)\w*\.c|server/cli/\w+\.c'
BANNED = [
    (r'(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atoll|atof|strtok|alloca)', r'(?!)'),
    (r'(getenv|secure_getenv|setenv|putenv)', r'server/config\.c'),
    (r'(printf|vprintf|puts|putchar|perror|fprintf\s*\(\s*std(out|err)|fputs)',
     r'base/log\.c|server/config\.c|' + MAIN_PROGRAMS),
    (r'_exit', MAIN_PROGRAMS + r'|kvstore/index\.c'),      # of a child process
    (r'(exit|quick_exit|abort)', MAIN_PROGRAMS),
]

# Rows of a table -> the file that each must have.
ROWS = {
    'shaders/quant.def': ('QUANT', 'engine/quant/{}.c'),
    'engine/model/arch/arch.def': ('ARCH', 'engine/model/arch/{}.c'),
    'server/routes.def': ('ROUTE', 'server/api/{}.c'),
    'server/cli/commands.def': ('COMMAND', 'server/cli/{}.c'),
}

COMMENT = {'.c': '//', '.h': '//', '.inc': '//', '.def': '//', '.glsl': '//', '.py': '#',
           '.sh': '#'}
# What nobody else's machine has. Written in pieces, since this file is checked too.
FORBIDDEN = ['/' + 'work/', '.' + 'library', '../' + 'shared', 'TO' + 'DO', 'FIX' + 'ME']

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')


class Report:
    def __init__(self):
        self.count = 0

    def __call__(self, path, line, text):
        print(f'{path}:{line}: {text}' if line else f'{path}: {text}')
        self.count += 1


def tier_of(path):
    matches = [t for t in MAY_INCLUDE if path == t or path.startswith(t + '/')]
    return max(matches, key=len, default=None)


def includes_of(text):
    """[(line number, quoted name or None, bracketed name or None)]"""
    lines = enumerate(text.split('\n'), 1)
    return [(n, m[1], m[2]) for n, line in lines if (m := INCLUDE.match(line))]


def behind(header, sources):
    """header and everything in this tree that it includes."""
    seen, todo = set(), [header]
    while todo:
        name = todo.pop()
        if name in sources and name not in seen:
            seen.add(name)
            todo += [quoted for _, quoted, _ in includes_of(sources[name]) if quoted]
    return seen


def check_includes(sources, report):
    facade = behind(FACADE, sources)
    for path, text in sources.items():
        tier = tier_of(path)
        for line, quoted, bracketed in includes_of(text):
            if bracketed:
                for library, where in CONFINED.items():
                    if tier and re.fullmatch(library, bracketed) and not re.fullmatch(where, path):
                        report(path, line, f'<{bracketed}> may be included only by {where}')
            elif tier:
                check_include(path, line, tier, quoted, facade, sources, report)


def check_include(path, line, tier, name, facade, sources, report):
    if name not in sources:
        if GENERATED.fullmatch(name):
            return
        report(path, line, f'"{name}" is no file of this tree (names start at the root)')
        return
    other = tier_of(name)
    allowed = other == tier or other in MAY_INCLUDE[tier]
    allowed |= tier.startswith('engine') and name == EVERY_ENGINE_TIER
    allowed |= tier.startswith('server') and name in facade
    if not allowed:
        report(path, line, f'{tier} may not include {name}')


def bare_code(text):
    """C without comments and the contents of strings, lines kept."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(m):
        return '""' if m[0][0] == '"' else '0' if m[0][0] == "'" else '\n' * m[0].count('\n')
    return token.sub(blank, text)


def check_calls(path, code, report):
    free = path.startswith(('tests/', 'tools/'))
    for number, (call, where) in enumerate(BANNED):
        if (free and number > 0) or re.fullmatch(where, path):
            continue
        for m in re.finditer(rf'(?<![\w.>]){call}\s*\(', code):
            report(path, code.count('\n', 0, m.start()) + 1, f'{m[1]} may not be called here')
    for m in re.finditer(r'\btypedef\s+(struct|union)\b', code):
        report(path, code.count('\n', 0, m.start()) + 1, f'no typedef of a {m[1]}')


def function_lengths(code):
    """[(first line, lines)] of function bodies: a brace alone at the left margin opens one."""
    found, start = [], None
    for n, line in enumerate(code.split('\n'), 1):
        if line.rstrip() == '{':
            start = n
        elif line.startswith('}') and start:
            found.append((start, n - start + 1))
            start = None
    return found


def check_functions(codes, report):
    lengths = []
    for path, code in codes.items():
        for line, n in function_lengths(code):
            lengths.append(n)
            if n > FUNCTION_LINES_MAX:
                report(path, line, f'a function of {n} lines, more than {FUNCTION_LINES_MAX}')
    median = statistics.median(lengths) if lengths else 0
    if median > FUNCTION_LINES_MEDIAN_MAX:
        report('.', 0, f'the median function has {median} lines, more than '
                       f'{FUNCTION_LINES_MEDIAN_MAX}')
    return f'{len(lengths)} functions, median {median:g} lines, longest {max(lengths, default=0)}'


def check_text(path, text, report):
    lines = text.split('\n')
    is_wide = path.endswith(('.md', '.tsv')) or path.startswith('tests/golden/')   # texts and data
    for n, line in enumerate(lines, 1):
        if '\t' in line and not path.endswith('.tsv'):
            report(path, n, 'a tab')
        if line != line.rstrip():
            report(path, n, 'blanks at the end')
        if len(line) > COLUMNS_MAX and not is_wide:
            report(path, n, f'{len(line)} columns, more than {COLUMNS_MAX}')
        for word in FORBIDDEN:
            if word in line:
                report(path, n, f'"{word}" does not belong here')
    if len(lines) > FILE_LINES_MAX + 1:
        report(path, 0, f'{len(lines) - 1} lines, more than {FILE_LINES_MAX}')
    if not text.endswith('\n') or text.endswith('\n\n'):
        report(path, len(lines), 'must end with one newline')
    first = lines[1] if lines[0].startswith('#!') and len(lines) > 1 else lines[0]
    comment = '#' if lines[0].startswith('#!') else COMMENT.get(Path(path).suffix)
    if comment and not first.startswith((comment, '"""')):
        report(path, 1, 'must open with a comment that says what the file is')


def is_named(file, mesons):
    """Does a meson.build of the file's folder or one above it have its name, or that of its row?"""
    name = re.sub('^(t|fuzz)_', '', file.stem)
    texts = [mesons[folder] for folder in file.parents if folder in mesons]
    if file.parent.name == 'tools':     # benchmarks are built with the tests
        texts = mesons.values()
    return any(re.search(rf'\b{re.escape(name)}\b', text) for text in texts)


def check_rows(root, sources, report):
    """Every row has its file; every C file is built; every header is included."""
    built = set()
    for table, (macro, pattern) in ROWS.items():
        for row in re.findall(rf'^{macro}\((\w+)', sources.get(table, ''), re.M):
            file = pattern.format(row)
            built.add(file)
            if file not in sources:
                report(table, 0, f'the row {row} has no {file}')
    mesons = {m.parent: m.read_text() for m in root.rglob('meson.build')}
    included = {quoted for text in sources.values() for _, quoted, _ in includes_of(text)}
    for path in sources:
        if path.endswith('.c') and path not in built and not is_named(root / path, mesons):
            report(path, 0, 'nothing builds this file')
        is_loose = path not in included and path not in ROWS
        if path.endswith(('.h', '.def', '.inc')) and is_loose:
            report(path, 0, 'nothing includes this file')


def read_tree(root):
    """Path -> text of the files that the rules are for."""
    kept = {'.c', '.h', '.inc', '.def', '.py', '.sh', '.glsl', '.comp', '.md', '.tsv', '.build',
            '.txt'}
    files = [f for folder in FOLDERS for f in sorted((root / folder).rglob('*'))]
    files += [f for f in root.iterdir() if f.name in ('up', 'check') or f.suffix in kept]
    files += [root / '.ci' / 'run']
    tree = {}
    for file in files:
        path = file.relative_to(root).as_posix()
        is_script = file.suffix == '' and file.is_file() and file.read_bytes()[:2] == b'#!'
        is_data = path.startswith('tests/') and '/' in path[6:] and file.suffix in ('.txt', '.tsv')
        if file.is_file() and (file.suffix in kept or is_script) and not is_data:
            tree[path] = file.read_text()
    return tree


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    report = Report()
    tree = read_tree(root)
    sources = {p: t for p, t in tree.items() if p.endswith(('.c', '.h', '.inc', '.def'))}
    codes = {p: bare_code(t) for p, t in sources.items()}
    for path, text in tree.items():
        check_text(path, text, report)
    check_includes(sources, report)
    for path, code in codes.items():
        check_calls(path, code, report)
    summary = check_functions(codes, report)
    check_rows(root, sources, report)
    print(f'{len(tree)} files, {summary}: {report.count} violations')
    sys.exit(report.count != 0)


if __name__ == '__main__':
    main()
