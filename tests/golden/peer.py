#!/usr/bin/env python3
# Makes logits/peer.txt: how far llama.cpp's CPU path is from the golden logits of model.py, over
# the same prompts, rows and subset of the vocabulary. That is what the fast path is measured
# against.
#
# usage: peer.py [NAME...]      (needs the packages llama-cpp-python and numpy; models by
# tools/model)
import subprocess
import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

HERE = Path(__file__).resolve().parent
NAMES = ('smollm2', 'gemma3', 'qwen2.5-coder')


def read_golden(name):
    """Returns (subset, {prompt: (tokens with greedy text, [[position, best, lse, values]])})"""
    subset, prompts, current = None, {}, None
    for line in (HERE / 'logits' / f'{name}.txt').open():
        word, *rest = line.split()
        if word == 'subset':
            subset = np.array(rest[1:], dtype=int)
        elif word == 'prompt':
            current = prompts[rest[0]] = ([], [])
        elif word in ('tokens', 'greedy'):
            current[0].extend(int(t) for t in rest[1:])
        elif word == 'row':
            current[1].append((int(rest[0]), int(rest[1]), np.array(rest[3:], dtype=np.float64)))
    return subset, prompts


def compare(llm, subset, tokens, rows):
    """NMSE over the rows, and the part of them whose best token is the same."""
    llm.reset()
    llm.eval(tokens)
    error2 = reference2 = same = 0
    for position, best, values in rows:
        logits = llm.scores[position]
        error2 += ((logits[subset] - values) ** 2).sum()
        reference2 += (values ** 2).sum()
        same += int(logits.argmax() == best)
    return error2 / reference2, same / len(rows)


def main():
    target = HERE / 'logits' / 'peer.txt'
    with target.open('w') as out:
        print('# model, prompt, NMSE of llama.cpp, part of rows with the same best token', file=out)
        for name in sys.argv[1:] or NAMES:
            file = subprocess.run([HERE.parents[1] / 'tools/model', name], check=True, text=True,
                                  stdout=subprocess.PIPE).stdout.strip()
            llm = Llama(file, n_ctx=2048, logits_all=True, verbose=False)
            subset, prompts = read_golden(name)
            for prompt, (tokens, rows) in prompts.items():
                nmse, same = compare(llm, subset, tokens, rows)
                print(f'{name} {prompt} {nmse:.3e} {same:.3f}', file=out, flush=True)
            llm.close()


if __name__ == '__main__':
    main()
