#!/usr/bin/env python3
# Runs a GGUF file on one of the peers, llama-cpp-python or ik-llama-cpp-python, through their C
# interfaces, and prints figures as JSON. tools/bench_peers.py calls it, once for each figure: a
# peer that aborts takes nothing else with it.
#
# usage: peer.py llama|ik MODEL [--threads N] [--flash 0|1] prefill ROWS | decode DEPTH TOKENS |
# load
#
# prefill: tokens/s of one prompt. decode: tokens/s after DEPTH tokens. load: seconds from opening
# the file to the first token's logits after a prompt of 16 tokens. Nothing is sampled: what a peer
# would need for that is left out in its favour. All take the best of --repeat.
import argparse
import importlib
import json
import os
import random
import time


class Peer:
    """What both have in common; self.c is the module of the C interface."""

    def __init__(self, path, n_ctx, threads, flash):
        self.c.llama_backend_init()
        model_params = self.c.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = self.c.llama_model_load_from_file(path.encode(), model_params)
        if not self.model:
            raise SystemExit('the model does not load')
        params = self.c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 2048, 512
        params.n_threads = params.n_threads_batch = threads
        self.set_flash(params, flash)
        self.ctx = self.c.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise SystemExit('no context')
        self.batch = self.c.llama_batch_init(2048, 0, 1)

    def eval(self, tokens, pos):
        """Runs tokens at positions pos...; asks for the logits of the last."""
        for start in range(0, len(tokens), 2048):
            part = tokens[start:start + 2048]
            self.batch.n_tokens = len(part)
            for i, token in enumerate(part):
                self.batch.token[i] = token
                self.batch.pos[i] = pos + start + i
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = 0
                self.batch.logits[i] = start + i == len(tokens) - 1
            if self.c.llama_decode(self.ctx, self.batch) != 0:
                raise SystemExit('llama_decode failed')
        self.wait()
        return self.c.llama_get_logits_ith(self.ctx, len(part) - 1)[0]


class Llama(Peer):
    def __init__(self, *args):
        self.c = importlib.import_module('llama_cpp.llama_cpp')
        quiet = self.c.llama_log_callback(lambda level, text, data: None)
        self.c.llama_log_set(quiet, None)
        self.quiet = quiet                          # must outlive the library's use of it
        super().__init__(*args)

    def set_flash(self, params, flash):
        params.flash_attn_type = flash

    def wait(self):
        self.c.llama_synchronize(self.ctx)

    def clear(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.ctx), False)


class Ik(Peer):
    def __init__(self, *args):
        self.c = importlib.import_module('ik_llama_cpp._ctypes_api')
        super().__init__(*args)

    def set_flash(self, params, flash):
        params.flash_attn = bool(flash)

    def wait(self):
        pass

    def clear(self):
        self.c.llama_kv_cache_clear(self.ctx)


def seconds_of(call):
    start = time.monotonic()
    call()
    return time.monotonic() - start


def some_tokens(n):
    return [random.Random(i).randrange(1000, 40000) for i in range(n)]


def prefill(peer, rows, repeat):
    tokens, best = some_tokens(rows), float('inf')
    peer.eval(tokens[:64], 0)
    for _ in range(repeat):
        peer.clear()
        best = min(best, seconds_of(lambda: peer.eval(tokens, 0)))
    return rows / best


def decode(peer, depth, n, repeat):
    tokens, best = some_tokens(depth + n * repeat), float('inf')
    if depth:
        peer.eval(tokens[:depth], 0)

    def run(start):
        for i in range(start, start + n):
            peer.eval(tokens[i:i + 1], i)
    for i in range(repeat):
        best = min(best, seconds_of(lambda: run(depth + i * n)))
    return n / best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('peer', choices=['llama', 'ik'])
    parser.add_argument('model')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--flash', type=int, default=0)
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('what', choices=['prefill', 'decode', 'load'])
    parser.add_argument('number', type=int, nargs='*')
    args = parser.parse_args()
    kind = {'llama': Llama, 'ik': Ik}[args.peer]
    n_ctx = {'prefill': 4096, 'load': 2048}.get(args.what) or sum(args.number) * 2 + 1024
    start = time.monotonic()
    peer = kind(args.model, n_ctx, args.threads, args.flash)
    if args.what == 'load':
        peer.eval(some_tokens(16), 0)
        result = time.monotonic() - start
    elif args.what == 'prefill':
        result = prefill(peer, args.number[0], args.repeat)
    else:
        result = decode(peer, *args.number, args.repeat)
    print(json.dumps({args.what: result}), flush=True)
    os._exit(0)                 # their destructors at exit are not ours to debug


if __name__ == '__main__':
    main()
