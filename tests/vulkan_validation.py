#!/usr/bin/env python3
# Runs Vulkan tests under the Khronos validation layer, core and synchronisation checks: the tests
# pass, and the layer has nothing to say.
#
# usage: tests/vulkan_validation.py PROGRAM...      (exit status 77 without the layer or a device)
import os
import subprocess
import sys

LAYER = 'VK_LAYER_KHRONOS_validation'
SETTINGS = {
    'VK_INSTANCE_LAYERS': LAYER,
    'VK_LAYER_ENABLES': 'VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT',
    'VK_LOADER_DEBUG': 'layer',         # says whether the layer is in
}
COMPLAINTS = ('Validation Error', 'Validation Warning', 'VUID-', 'SYNC-HAZARD')
SKIPPED = 77
COLUMNS_SHOWN = 1500
LINES_SHOWN = 20


def environment():
    env = {**os.environ, **SETTINGS}
    # The layer's own leaks are nobody's here.
    env['ASAN_OPTIONS'] = ':'.join(filter(None, (env.get('ASAN_OPTIONS'), 'detect_leaks=0')))
    return env


def validate(program):
    """0: clean, 1: not, 77: nothing was validated."""
    run = subprocess.run([program], env=environment(), text=True, errors='replace',
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = run.stdout.split('\n')
    is_in = any(LAYER in line and 'nsert' in line for line in lines)
    said = [line for line in lines if line and 'LAYER:' not in line]
    complaints = [line for line in said if any(c in line for c in COMPLAINTS)]
    is_bad = complaints or run.returncode not in (0, SKIPPED)
    for line in (complaints[:LINES_SHOWN] or said[-LINES_SHOWN:]) if is_bad else ():
        print(line[:COLUMNS_SHOWN])
    print(f'{program}: status {run.returncode}, {len(complaints)} complaints'
          f'{"" if is_in else ", the layer is not installed"}')
    if is_bad:
        return 1
    return 0 if is_in and run.returncode == 0 else SKIPPED


def main():
    results = [validate(program) for program in sys.argv[1:]]
    sys.exit(1 if 1 in results else 0 if 0 in results else SKIPPED)


if __name__ == '__main__':
    main()
