#!/usr/bin/env python3
# Prints the text of a streamed chat answer as it comes: server-sent events of /v1/chat/completions
# on stdin, words on stdout. Status 1 if the stream does not end as it should.
import json
import sys


def main():
    for line in sys.stdin:
        field, _, data = line.rstrip('\n').partition(': ')
        if data == '[DONE]':
            print()
            return
        if field == 'data':
            chunk = json.loads(data)
            if 'error' in chunk:
                sys.exit(f'\n{chunk["error"]["message"]}')
            for choice in chunk['choices']:
                print(choice['delta'].get('content') or '', end='', flush=True)
        elif line.strip() and not line.startswith((':', 'event:')):
            sys.exit(f'not an event stream: {line.strip()}')
    sys.exit('\nthe stream ended without [DONE]')


if __name__ == '__main__':
    main()
