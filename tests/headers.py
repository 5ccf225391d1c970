#!/usr/bin/env python3
# Compiles every header of the tree alone, and twice in a row: a header needs nothing before it and
# guards itself.
#
# usage: tests/headers.py ROOT COMPILER...
import subprocess
import sys
from pathlib import Path

FOLDERS = ('base', 'kvstore', 'engine', 'server', 'tests')
# psabi: vector types that are only ever used with the flags of their own source files.
FLAGS = ['-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-Wno-psabi',
         '-fsyntax-only', '-xc', '-']


def main():
    root, compiler = Path(sys.argv[1]), sys.argv[2:]
    headers = sorted(h.relative_to(root) for f in FOLDERS for h in (root / f).rglob('*.h'))
    failed = 0
    for header in headers:
        include = f'#include "{header}"\n' * 2
        run = subprocess.run([*compiler, '-I', root, *FLAGS], input=include, text=True,
                             capture_output=True)
        if run.returncode != 0:
            print(f'{header} does not compile alone:\n{run.stderr}')
            failed += 1
    print(f'{len(headers)} headers, {failed} do not compile alone')
    sys.exit(failed != 0 or not headers)


if __name__ == '__main__':
    main()
