#!/usr/bin/env python3
# Makes docs/benchmarks.md: godwit, llama.cpp and ik_llama.cpp on the same GGUF files, measured in
# turn in one run, each figure the best of several. Makes the virtual environment that it needs.
#
# usage: tools/bench_peers.py [--models smollm2,gemma3,qwen2.5-coder] [--rounds 3] [--out FILE]
import argparse
import datetime
import json
import subprocess
import time
from pathlib import Path

from model_shape import Shape
from venvs import ROOT, commit, machine, model_file, python_of, release_build

MODELS = {'smollm2': 'SmolLM2-135M Q4_1', 'gemma3': 'Gemma 3 270M Q4_K_M',
          'qwen2.5-coder': 'Qwen2.5-Coder-0.5B'}
PEERS = {'llama.cpp': 'llama', 'ik_llama.cpp': 'ik'}
DECODE_TOKENS = 32
MEMORY_BYTES_PER_S = 22e9       # what two cores of the machine of the issue read

# (title, what, numbers for the peers, further options of ours, goal as a ratio to the better peer)
FIGURES = [
    ('prefill 512, t/s', 'prefill', (512,), (), 1.0),
    ('prefill 2048, t/s', 'prefill', (2048,), (), 1.0),
    ('decode at 0, t/s', 'decode', (0,), (), 1.0),
    ('decode at 4k, t/s', 'decode', (4096,), (), 1.5),
    ('decode at 8k, topk 1024 (peers: dense), t/s', 'decode', (8000,),
     ('--attention', 'topk', '--budget', '1024'), 3.0),
    ('load to first token, s', 'load', (), (), 1.0),
]


def run_json(command):
    """The last line of a command's output as JSON, or None if it failed."""
    run = subprocess.run([str(c) for c in command], text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
    lines = run.stdout.strip().split('\n')
    return json.loads(lines[-1]) if run.returncode == 0 and lines[-1].startswith('{') else None


def ours(godwit, model, what, numbers, options):
    if what == 'load':
        start = time.monotonic()
        done = run_json([godwit, 'run', model, '--raw', '-p', 'Once upon a time there was a bird',
                         '-n', '1', '--ctx', 2048, '--json'])
        return time.monotonic() - start if done else None
    if what == 'prefill':
        sizes = ['--prefill', numbers[0], '--decode', 0, '--depth', 0]
    else:
        sizes = ['--prefill', 0, '--decode', DECODE_TOKENS, '--depth', numbers[0]]
    found = run_json([godwit, 'bench', model, *sizes, '--streams', 1, '--json', *options])
    return found and tokens_per_s(found, what)


def tokens_per_s(found, what):
    return found[what][0]['tokens_per_s']


def theirs(python, peer, model, what, numbers):
    """The better of with and without flash attention; None if both fail."""
    extra = (DECODE_TOKENS,) if what == 'decode' else ()
    results = [run_json([python, ROOT / 'tools/peer.py', PEERS[peer], model, '--flash', flash,
                         '--repeat', 1, what, *numbers, *extra]) for flash in (0, 1)]
    values = [r[what] for r in results if r]
    return better(what, values)


def better(what, values):
    values = [v for v in values if v]
    return (min if what == 'load' else max)(values, default=None)


def measure(godwit, python, model, rounds):
    """{title: {program: figure}}; programs take turns, so that they share the machine's moods."""
    found = {}
    for title, what, numbers, options, _ in FIGURES:
        values = {'godwit': [], **{p: [] for p in PEERS}}
        for _ in range(rounds):
            values['godwit'].append(ours(godwit, model, what, numbers, options))
            for peer in PEERS:
                values[peer].append(theirs(python, peer, model, what, numbers))
        found[title] = {p: better(what, v) for p, v in values.items()}
        print(f'{Path(model).name}: {title}: {found[title]}', flush=True)
    return found


def ratio(what, figures):
    """How many times better ours is than the better peer."""
    peer = better(what, [figures[p] for p in PEERS])
    if not peer or not figures['godwit']:
        return None
    return peer / figures['godwit'] if what == 'load' else figures['godwit'] / peer


def bound(shape, what, numbers, options, figure):
    """What a figure comes to, in bytes or operations a second."""
    if what == 'decode':
        budget = int(options[3]) if options else None
        moved = shape.weight_bytes + shape.kv_bytes(numbers[0], budget)
        return (f'{moved / 1e6:.0f} MB a token, {moved * figure / 1e9:.1f} GB/s = '
                f'{moved * figure / MEMORY_BYTES_PER_S:.0%} of 22 GB/s')
    if what == 'prefill':
        # Only the last row needs logits.
        return f'{2 * (shape.multiplications - shape.head) * figure / 1e9:.0f} int8 Gop/s'
    return ''


def table(found, shape):
    yield ('| | godwit | ' + ' | '.join(PEERS)
           + ' | ratio to the better | goal | godwit is bound by |')
    yield '|---|---|---|---|---|---|---|'
    for title, what, numbers, options, goal in FIGURES:
        figures = found[title]
        cells = [f'{figures[p]:.4g}' if figures[p] else '-' for p in ('godwit', *PEERS)]
        r = ratio(what, figures)
        ours = figures['godwit']
        by = bound(shape, what, numbers, options, ours) if ours else ''
        yield (f'| {title} | ' + ' | '.join(cells) + f' | {f"{r:.2f}" if r else "-"} | {goal:g} | '
               f'{by} |')


PAGE = '''# Speed

Made by `tools/bench_peers.py` on {date}, {machine}, commit {commit}. The peers are
`llama-cpp-python` built for this machine and the prebuilt `ik-llama-cpp-python`, CPU only, each
with and without flash attention: the better counts. Programs take turns in one run; each figure is
the best of {rounds}. The peers' decode does not sample, ours does. "Load" has the file in the page
cache.

Decode reads every weight and the KV that attention selects once a token, so bytes over the
memory's bandwidth bound it; prefill is bound by int8 multiplications.

Where depth adds few bytes to the weights', no goal far above the ratio at depth 0 can be reached,
since the weights alone take the memory's time: in Gemma 3 15 of 18 layers see 512 tokens, and in
Qwen2.5-Coder two KV heads make 100 MB at 8k, beside 392 MB of weights.

{tables}'''


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--models', default=','.join(MODELS))
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'benchmarks.md')
    args = parser.parse_args()
    python, godwit = python_of('peers'), release_build() / 'server' / 'godwit'
    tables = ''
    for name in args.models.split(','):
        model = model_file(name)
        found = measure(godwit, python, model, args.rounds)
        shape = Shape(run_json([godwit, 'inspect', model, '--json']))
        tables += f'## {MODELS[name]}\n\n' + '\n'.join(table(found, shape)) + '\n\n'
    args.out.write_text(PAGE.format(date=datetime.date.today(), machine=machine(), commit=commit(),
                                    rounds=args.rounds, tables=tables.rstrip('\n') + '\n'))


if __name__ == '__main__':
    main()
