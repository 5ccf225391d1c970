#!/usr/bin/env python3
# Measures godwit's GPU executor and llama.cpp on the same files, in turn on one machine, and writes
# docs/gpu.md. The files have random weights in real shapes, made here (tools/random_gguf.py), so
# that nothing large has to be there; real files can be added.
#
# usage: tools/bench_gpu.py BUILD --models FOLDER [--peers DIR] [--quick] [...]
#   BUILD    folder of a release build, or one that has godwit in it
#   FOLDER   where the files are made, best in memory (/dev/shm/...)
#   DIR      with vk/, cuda/ and env: llama-bench and llama-batched-bench of one backend each
# Every figure is kept in --results FILE as soon as it is known. A later call with the same file
# adds to it and measures again only what it is told to, so a long run can be cut into pieces;
# --render only writes the page. A run that fails costs its own figures and no others.
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import gpu_page
import random_gguf
from gpu_figures import BUDGET_TOKENS, Figure

TOOLS = Path(__file__).resolve().parent
SHAPES, FORMATS = ('llama-3.1-8b', 'llama-3.2-1b'), ('q4_k', 'q8_0', 'bf16')
DECODE_TOKENS, REPEAT = 128, 3
RUN_SECONDS_MAX = 180           # of one command
FIGURE_SECONDS_MAX = 60         # of a figure alone, after it failed with others
PEER_DEPTH_STREAMS = 8          # a peer's prompts are computed: no more than that many deep ones


class Group(NamedTuple):
    """Figures of one run of godwit: all depths with all streams."""
    prefill: tuple
    depths: tuple
    streams: tuple
    attention: str = 'dense'

    def figures(self):
        return ([Figure('prefill', n) for n in self.prefill]
                + [Figure('decode', d, s, self.attention) for d in self.depths
                   for s in self.streams])


K = 1024
FULL = [
    Group((512, 2048), (0, 4 * K, 32 * K, 128 * K), (1,)),
    Group((), (0, 4 * K), (8, 32, 64)),
    Group((), (32 * K,), (8,)),
    Group((), (8 * K, 32 * K, 128 * K), (1,), 'topk'),
    Group((), (32 * K,), (8,), 'topk'),
]
QUICK = [
    Group((512, 2048), (0, 32 * K), (1,)),
    Group((), (0,), (8, 64)),
    Group((), (8 * K, 128 * K), (1,), 'topk'),
]
QUICK_MODELS = ('llama-3.1-8b:q4_k', 'llama-3.1-8b:bf16', 'llama-3.2-1b:q4_k')
TRY = [Group((64,), (0, 256), (1,)), Group((), (0, 256), (4,)), Group((), (512,), (1,), 'topk')]


class Peer(NamedTuple):
    title: str
    folder: str
    device: str
    layers: int                 # on the device


PEERS = {
    'cuda': Peer('llama.cpp CUDA', 'cuda', 'CUDA0', 99),
    'vulkan': Peer('llama.cpp Vulkan', 'vk', 'Vulkan0', 99),
    'cpu': Peer('llama.cpp CPU', 'vk', 'none', 0),
}


# ---- running ------------------------------------------------------------------------------------

class Failed(Exception):
    pass


class Runner:
    def __init__(self, limit_s):
        self.end = time.monotonic() + limit_s

    def run(self, command, seconds_max=RUN_SECONDS_MAX):
        """(standard output, seconds)"""
        left = self.end - time.monotonic()
        if left <= 1:
            raise Failed('no time left')
        start = time.monotonic()
        try:
            done = subprocess.run([str(c) for c in command], text=True, capture_output=True,
                                  stdin=subprocess.DEVNULL, timeout=min(left, seconds_max),
                                  check=False)
        except subprocess.TimeoutExpired as e:
            raise Failed(f'ended after {e.timeout:.0f} s') from e
        except OSError as e:
            raise Failed(str(e)) from e
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().split('\n')
            raise Failed(f'status {done.returncode}: {lines[-1][-200:]}')
        return done.stdout, time.monotonic() - start


class Results:
    """(model, figure, program) -> {'value': v, ...} or {'error': text}, in a file."""

    def __init__(self, path):
        self.path = path
        self.data = {'machine': {}, 'models': {}, 'records': {}}
        if path.exists():
            self.data = json.loads(path.read_text())

    def save(self):
        new = self.path.with_suffix('.new')
        new.write_text(json.dumps(self.data, indent=1))
        new.replace(self.path)

    def add(self, model, figure, program, record):
        old = self.data['records'].setdefault(model, {}).setdefault(figure.key, {})
        if 'error' in record and 'value' in old.get(program, {}):
            return              # an earlier call knew it
        old[program] = record
        what = f'{record["value"]:.4g}' if 'value' in record else 'failed: ' + record['error']
        print(f'{model}: {figure.title}: {program} {what}', flush=True)
        self.save()


# ---- godwit -------------------------------------------------------------------------------------

def bench_command(args, path, group):
    join = lambda numbers: ','.join(map(str, numbers)) or '0'
    options = ['--profile'] if args.profile else []
    return [args.godwit, 'bench', path, '--device', args.device, '--json', '--fill', 'random',
            '--attention', group.attention, '--budget', BUDGET_TOKENS, '--repeat', args.repeat,
            '--prefill', join(group.prefill), '--decode', args.decode if group.depths else 0,
            '--depth', join(group.depths), '--streams', join(group.streams or (1,)), *options]


def add_ours(results, model, group, found):
    entries = found['prefill'] + (found['decode'] if group.depths else [])
    for figure, entry in zip(group.figures(), entries, strict=True):
        record = {'value': entry['tokens_per_s']}
        record |= {k: entry[k] for k in ('profile', 'blocks_read', 'blocks_held') if k in entry}
        results.add(model, figure, 'godwit', record)
    load = Figure('load')
    known = results.data['records'].get(model, {}).get(load.key, {}).get('godwit', {})
    best = min(found['load_ms'] / 1000, known.get('value', float('inf')))
    results.add(model, load, 'godwit', {'value': best})


def alone(figure):
    if figure.what == 'prefill':
        return Group((figure.tokens,), (), ())
    return Group((), (figure.tokens,), (figure.streams,), figure.attention)


def measure_ours(args, runner, results, model, path):
    for group in args.groups:
        try:
            out, _ = runner.run(bench_command(args, path, group))
            add_ours(results, model, group, json.loads(out))
            continue
        except Failed as e:
            print(f'{model}: {group}: {e}', flush=True)
        for single in map(alone, group.figures()):      # perhaps only one of them fails
            try:
                out, _ = runner.run(bench_command(args, path, single), FIGURE_SECONDS_MAX)
                add_ours(results, model, single, json.loads(out))
            except Failed as e:
                results.add(model, single.figures()[0], 'godwit', {'error': str(e)})
    start = [args.godwit, 'run', path, '--device', args.device, '--raw', '-p', 'ab', '-n', 1,
             '--temp', 0, '--ctx', 4096]
    time_start(runner, results, model, 'godwit', start)


def time_start(runner, results, model, program, command):
    try:
        _, seconds = runner.run(command)
        results.add(model, Figure('start'), program, {'value': seconds})
    except Failed as e:
        results.add(model, Figure('start'), program, {'error': str(e)})


# ---- llama.cpp ----------------------------------------------------------------------------------

def peer_command(args, peer, program, path, *options):
    """The environment that its set-up wrote, then the program."""
    env = args.peers_dir / 'env'
    shell = f'[[ ! -e {env} ]] || . {env}; exec "$@"'
    return ['bash', '-c', shell, 'bash', args.peers_dir / peer.folder / program, '-m', path,
            '-dev', peer.device, '-ngl', peer.layers, '-fa', '1', '-b', 2048, '-ub', 2048,
            *(['-t', 4] if peer.layers else []), *options]


def json_lines(out):
    return [json.loads(line) for line in out.split('\n') if line.startswith('{')]


def peer_one_stream(args, runner, peer, path, prefill, depths):
    """{figure: tokens/s}"""
    out, _ = runner.run(peer_command(
        args, peer, 'llama-bench', path, '-o', 'jsonl', '-r', args.repeat,
        '-p', ','.join(map(str, prefill)) or 0, '-n', args.decode if depths else 0,
        '-d', ','.join(map(str, depths)) or 0))
    found = {}
    for line in json_lines(out):
        figure = (Figure('prefill', line['n_prompt']) if line['n_prompt']
                  else Figure('decode', line['n_depth'], 1, 'dense'))
        found[figure] = float(max(line['samples_ts']))
    return found


def peer_streams(args, runner, peer, path, depth, streams):
    prompt = max(depth, 16)
    command = peer_command(
        args, peer, 'llama-batched-bench', path, '--output-format', 'jsonl', '-npp', prompt,
        '-ntg', args.decode, '-npl', ','.join(map(str, streams)),
        '-c', max(streams) * (prompt + args.decode))
    for _ in range(2):              # now and then its log thread ends without writing the results
        found = json_lines(runner.run(command)[0])
        if found:
            break
    return {Figure('decode', depth, line['pl'], 'dense'): float(line['speed_tg'])
            for line in found}


def peer_jobs(args, runner, peer, path):
    """(figures, function that measures them) for what the groups ask of dense attention."""
    for g in args.groups:
        if g.attention != 'dense':
            continue
        if g.streams == (1,):
            at0 = tuple(d for d in g.depths if d == 0)
            deep = tuple(d for d in g.depths if d > 0)
            for prefill, depths in ((g.prefill, at0), ((), deep)):
                if prefill or depths:
                    yield (Group(prefill, depths, (1,)).figures(),
                           lambda p=prefill, d=depths: peer_one_stream(args, runner, peer, path,
                                                                       p, d))
            continue
        for depth in g.depths:
            streams = tuple(s for s in g.streams if depth == 0 or s <= PEER_DEPTH_STREAMS)
            if streams:
                yield (Group((), (depth,), streams).figures(),
                       lambda d=depth, s=streams: peer_streams(args, runner, peer, path, d, s))


def measure_peer(args, runner, results, model, path, name):
    peer = PEERS[name]
    for figures, measure in peer_jobs(args, runner, peer, path):
        try:
            found = measure()
        except Failed as e:
            found = dict.fromkeys(figures, e)
        for figure in figures:
            result = found.get(figure, 'no result')
            record = {'value': result} if isinstance(result, float) else {'error': str(result)}
            results.add(model, figure, name, record)
    time_start(runner, results, model, name, peer_command(
        args, peer, 'llama-bench', path, '-p', 0, '-n', 1, '-r', 1, '--no-warmup'))


# ---- models -------------------------------------------------------------------------------------

def parse_model(text):
    """SHAPE:FORMAT is made; NAME=FILE is there."""
    if '=' in text:
        name, path = text.split('=', 1)
        return name, Path(path)
    shape, fmt = text.split(':')
    if shape not in random_gguf.SHAPES or fmt not in random_gguf.FORMATS:
        raise argparse.ArgumentTypeError(f'no model {text}')
    return f'{shape} {fmt}', None


def make_model(args, name):
    path = args.models / (name.replace(' ', '-') + '.gguf')
    if not path.exists():
        shape, fmt = name.split()
        # In a process of its own: numpy's memory is given back, and several run at once.
        subprocess.run([sys.executable, TOOLS / 'random_gguf.py', shape, fmt, f'{path}.part'],
                       check=True, stdout=subprocess.DEVNULL)
        Path(f'{path}.part').rename(path)
    return path


def expected_bytes(name):
    shape, fmt = name.split()
    tensors = random_gguf.tensors_of(random_gguf.SHAPES[shape], random_gguf.FORMATS[fmt])
    return sum(t.bytes for t in tensors)


def make_models(args):
    """All at once if there is room: then nothing is made between measurements."""
    args.models.mkdir(parents=True, exist_ok=True)
    names = [name for name, path in args.model if not path]
    if sum(map(expected_bytes, names)) * 1.05 < shutil.disk_usage(args.models).free:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: make_model(args, name), names))


def measure(args, results):
    runner = Runner(args.limit)
    make_models(args)
    for name, given in args.model:
        try:
            path = given or make_model(args, name)
            out, _ = runner.run([args.godwit, 'inspect', path, '--json'])
            results.data['models'][name] = gpu_page.describe(json.loads(out))
        except (Failed, subprocess.CalledProcessError, OSError) as e:
            print(f'{name}: {e}', flush=True)
            continue
        if not args.peers_only:
            measure_ours(args, runner, results, name, path)
        for peer in args.peer:
            measure_peer(args, runner, results, name, path, peer)
        if not given and not args.keep:
            path.unlink()


# ---- the machine --------------------------------------------------------------------------------

def machine_of(args):
    query = subprocess.run(['nvidia-smi', '--query-gpu=name,driver_version',
                            '--format=csv,noheader'], text=True, capture_output=True,
                           check=False) if shutil.which('nvidia-smi') else None
    gpu, driver = (query.stdout.split('\n')[0].split(', ') if query and query.stdout else
                   ('no NVIDIA GPU', ''))
    commit = args.commit or subprocess.run(
        ['git', '-C', TOOLS, 'rev-parse', '--short', 'HEAD'], text=True, capture_output=True,
        check=False).stdout.strip()
    return {'gpu': gpu, 'driver': driver, 'cores': os.cpu_count(), 'commit': commit or 'unknown',
            'date': time.strftime('%Y-%m-%d'), 'device': args.device, 'repeat': args.repeat}


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument('build', type=Path)
    p.add_argument('--models', type=Path, default=Path('/dev/shm/godwit-models'))
    p.add_argument('--peers', dest='peers_dir', type=Path)
    p.add_argument('--peer', type=lambda t: [n for n in t.split(',') if n], default=None,
                   help='cuda,vulkan,cpu; with --peers the first two')
    p.add_argument('--peers-only', action='store_true')
    p.add_argument('--model', type=parse_model, action='append',
                   help='SHAPE:FORMAT or NAME=FILE; once each; all shapes and formats')
    p.add_argument('--device', default='vulkan')
    p.add_argument('--quick', action='store_true', help='the goals only, within five minutes')
    p.add_argument('--try', dest='try_only', action='store_true', help='small sizes, for a test')
    p.add_argument('--no-profile', dest='profile', action='store_false')
    p.add_argument('--repeat', type=int, default=REPEAT)
    p.add_argument('--decode', type=int, default=DECODE_TOKENS)
    p.add_argument('--limit', type=float, default=1e9, help='seconds in all')
    p.add_argument('--keep', action='store_true', help='the files that were made')
    p.add_argument('--results', type=Path, default=Path('gpu.json'))
    p.add_argument('--out', type=Path, default=TOOLS.parent / 'docs/gpu.md')
    p.add_argument('--commit')
    p.add_argument('--note', help='what the page says of this run besides')
    p.add_argument('--render', action='store_true', help='measure nothing')
    args = p.parse_args()
    args.groups = TRY if args.try_only else QUICK if args.quick else FULL
    if args.model is None:
        names = QUICK_MODELS if args.quick else [f'{s}:{f}' for s in SHAPES for f in FORMATS]
        args.model = [parse_model(n) for n in names]
    if args.peer is None:
        args.peer = ['cuda'] if args.quick else ['cuda', 'vulkan']
    if not args.peers_dir:
        args.peer = []
    args.godwit = next((f for f in (args.build / 'godwit', args.build / 'server/godwit')
                        if f.is_file()), None)
    if not args.godwit and not args.render:
        p.error(f'no godwit in {args.build}')
    return args


def main():
    args = parse_args()
    results = Results(args.results)
    if not args.render:
        results.data['machine'] = machine_of(args)
        measure(args, results)
        results.save()
    if args.note:
        results.data['machine']['note'] = args.note
    page = gpu_page.page(results.data, {name: peer.title for name, peer in PEERS.items()})
    args.out.write_text(page)
    print(page)


if __name__ == '__main__':
    main()
