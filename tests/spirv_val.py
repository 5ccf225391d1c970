#!/usr/bin/env python3
# Every SPIR-V module of a build passes spirv-val, for the Vulkan version that its own version
# needs. The modules are the C headers that the GLSL compiler wrote; a spirv-val beside that
# compiler knows all that it writes, and goes before the system's.
#
# usage: tests/spirv_val.py COMPILER_FOLDER HEADER...      (exit status 77 without spirv-val)
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

MAGIC = 0x07230203
VULKAN_OF = {0x10500: 'vulkan1.2', 0x10600: 'vulkan1.3'}
SKIPPED = 77


def words_of(header):
    """The module in a header: what stands between its braces."""
    body = header.read_text().partition('{')[2].partition('}')[0]
    return [int(word, 16) for word in re.findall(r'0x[0-9a-fA-F]+', body)]


def complaint(spirv_val, words):
    """What is wrong with a module, or nothing."""
    if len(words) < 5 or words[0] != MAGIC:
        return 'not a SPIR-V module'
    if words[1] not in VULKAN_OF:
        return f'unexpected SPIR-V version {words[1]:#x}'
    run = subprocess.run([spirv_val, '--target-env', VULKAN_OF[words[1]], '-'],
                         input=struct.pack(f'={len(words)}I', *words),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return run.stdout.decode(errors='replace').strip() or (run.returncode and 'refused')


def main():
    folder, headers = sys.argv[1], [Path(p) for p in sys.argv[2:]]
    spirv_val = shutil.which('spirv-val', path=os.pathsep.join((folder, os.environ['PATH'])))
    if not spirv_val:
        print('skipped: there is no spirv-val here (package spirv-tools)')
        sys.exit(SKIPPED)
    n_bad = 0
    for header in headers:
        if said := complaint(spirv_val, words_of(header)):
            print(f'{header.name}: {said}')
            n_bad += 1
    print(f'{len(headers)} modules, {n_bad} refused by {spirv_val}')
    sys.exit(n_bad != 0 or not headers)


if __name__ == '__main__':
    main()
