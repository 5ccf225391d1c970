#!/usr/bin/env python3
# Sixty-four streams at once, each equal to the same request alone: text and log-probabilities,
# whatever else is in the batch, however prompts are cut, and with and without the prefix cache.
#
# usage: tests/http_streams.py GODWITD
import sys
import threading

from http_util import Daemon, parse_events

STREAMS = 64


def body(i):
    words = ['the', 'river', 'of', 'small', 'green', 'stones', 'sings', 'about', 'winter', 'bread']
    text = ' '.join(words[(i * 7 + k * (i % 5 + 1)) % len(words)] for k in range(3 + i * 5 % 40))
    more = [{'temperature': 0}, {'temperature': 0.8, 'seed': i}, {'temperature': 1.2, 'seed': i,
            'top_p': 0.9, 'top_k': 40}, {'temperature': 0, 'godwit': {'attention': 'topk',
                                                                      'budget': 128}}][i % 4]
    if i % 3 == 0:
        more['frequency_penalty'] = 0.5
    if i % 8 == 1:
        more['logprobs'] = 2
    if i % 16 == 7:                     # long enough to leave a full block behind
        text = f'{text} ' * 4
    return {'prompt': f'{i}: {text}', 'max_tokens': 3 + i % 5, 'stream': True, 'ignore_eos': True,
            **more}


def ask(d, i):
    status, _, text = d.request('POST', '/v1/completions', body(i), timeout_s=240)
    assert status == 200, text
    events = parse_events(text)
    assert events[-1] == '[DONE]'
    return [e['choices'][0] for e in events[:-1]]


def together(d):
    got = [None] * STREAMS

    def one(i):
        got[i] = ask(d, i)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(STREAMS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return got


def text_of(choices):
    return ''.join(c['text'] for c in choices)


def compare(got, want, what):
    bad = 0
    for i, w in want.items():
        if got[i] != w:
            bad += 1
            print(f'{what}: stream {i} differs:\n  {text_of(got[i] or [])!r}\n  {text_of(w)!r}')
    return bad


def main():
    # The first daemon has one sequence at a time and no cache; those of the second share batches.
    with Daemon('--ctx', '1024', '--no-prefix-cache', '--seqs-max', '1', device='cpu') as d:
        want = {i: ask(d, i) for i in range(STREAMS)}
    with Daemon('--ctx', '1024', '--max-step-ms', '40', device='cpu') as d:
        first, again = together(d), together(d)
        assert d.metric('prefix_cache_hits_total') > 0
    bad = compare(first, want, 'together') + compare(again, dict(enumerate(first)), 'again')
    assert all(len(c) >= 4 for c in first) and len({text_of(c) for c in first}) > STREAMS / 2
    print(f'{STREAMS} streams alone, together and together again: {bad} differ')
    sys.exit(bad != 0)


if __name__ == '__main__':
    main()
