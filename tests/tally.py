#!/usr/bin/env python3
# Adds up meson's test logs: the tests that failed by name, then "N passed, N failed, N skipped".
# Status 1 if a test failed or there was none.
#
# usage: tests/tally.py LOG...              (BUILD_FOLDER/meson-logs/*.json)
import json
import sys
from pathlib import Path

PASSED = ('OK', 'EXPECTEDFAIL')
SKIPPED = ('SKIP',)


def main():
    passed = failed = skipped = 0
    for log in map(Path, sys.argv[1:]):
        folder = log.parent.parent
        results = [json.loads(line) for line in log.open()] if log.exists() else []
        if not results:
            print(f'FAILED {folder.name}: no test ran ({log.name})')
            failed += 1
        for test in results:
            passed += test['result'] in PASSED
            skipped += test['result'] in SKIPPED
            if test['result'] not in PASSED + SKIPPED:
                print(f'FAILED {folder.name}: {test["name"]} ({test["result"]})')
                failed += 1
            elif test['result'] in SKIPPED:
                print(f'skipped {folder.name}: {test["name"]}')
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(failed != 0 or passed == 0)


if __name__ == '__main__':
    main()
