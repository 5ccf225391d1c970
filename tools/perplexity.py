#!/usr/bin/env python3
# The perplexity of tokens by another program, the way `godwit perplexity` counts: chunks of --ctx
# tokens that do not overlap, the second half of each scored. tools/accuracy.py calls it.
#
# usage: perplexity.py transformers|llama.cpp MODEL IDS --ctx N [--bos ID]      (IDS: a file of
# token ids)
import argparse
import json
import sys
from pathlib import Path

import numpy as np


def transformers_logits(path):
    """Float32 transformers with the file's weights dequantised, as the golden files are made."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests' / 'golden'))
    import model
    reference, _ = model.load(path)
    return lambda ids: model.logits_of(reference, ids)


def llamacpp_logits(path):
    from llama_cpp import Llama
    llm = Llama(path, n_ctx=2048, logits_all=True, verbose=False)

    def logits(ids):
        llm.reset()
        llm.eval(ids)
        return llm.scores[:len(ids)]
    return logits


def negative_log_likelihoods(logits, targets):
    """Of targets (n) under the rows of logits (n, n_vocab)."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return sums - logits[np.arange(len(targets)), targets]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('program', choices=['transformers', 'llama.cpp'])
    parser.add_argument('model')
    parser.add_argument('ids', type=Path)
    parser.add_argument('--ctx', type=int, default=512)
    parser.add_argument('--bos', type=int)
    args = parser.parse_args()
    ids = [int(i) for i in args.ids.read_text().split()]
    backends = {'transformers': transformers_logits, 'llama.cpp': llamacpp_logits}
    logits_of = backends[args.program](args.model)
    total, scored, first = 0.0, 0, args.ctx // 2
    for start in range(0, len(ids) - args.ctx + 1, args.ctx):
        chunk = ids[start:start + args.ctx]
        if args.bos is not None:
            chunk[0] = args.bos
        rows = logits_of(chunk)[first:args.ctx - 1]
        losses = negative_log_likelihoods(rows, np.array(chunk[first + 1:]))
        total, scored = total + losses.sum(), scored + len(losses)
    print(json.dumps({'ppl': float(np.exp(total / scored)), 'tokens': scored}))


if __name__ == '__main__':
    main()
