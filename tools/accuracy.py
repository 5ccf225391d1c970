#!/usr/bin/env python3
# Makes docs/accuracy.md: how far the exact and the fast path are from float32 transformers, and
# llama.cpp next to them. Makes the virtual environments that it needs; takes a quarter of an hour.
#
# usage: tools/accuracy.py [--out FILE] [--no-perplexity]
import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from venvs import ROOT, model_file, python_of, release_build

MODELS = {'smollm2': 'SmolLM2-135M Q4_1', 'gemma3': 'Gemma 3 270M Q4_K_M',
          'qwen2.5-coder': 'Qwen2.5-Coder-0.5B'}
# A text that every Debian and Ubuntu has; 16 chunks of it.
TEXT = Path('/usr/share/common-licenses/GPL-3')
CTX, CHUNKS = 512, 16

LINE = re.compile(r'(?P<file>\S+) (?P<prompt>\S+) (?P<mode>exact|fast): NMSE (?P<nmse>\S+) '
                  r'\(llama.cpp (?P<peer>\S+)\), .*?(?P<differ>\d+) of (?P<of>\d+) choices differ '
                  r'\(gap up to (?P<gap>\S+)\), generated (?P<alike>\d+) alike')


def run(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, text=True, stdout=subprocess.PIPE,
                          **more).stdout


def golden_results(build):
    """What tests/t_golden.c prints, as dictionaries. A failing comparison is a result too."""
    program = build / 'tests' / 't_golden'
    subprocess.run(['ninja', '-C', build, 'tests/t_golden'], check=True)
    output = subprocess.run([program], text=True, stdout=subprocess.PIPE, check=False,
                            env={'GODWIT_SOURCE': str(ROOT), 'HOME': str(Path.home())}).stdout
    return [m.groupdict() for m in map(LINE.match, output.split('\n')) if m]


def golden_table(results):
    yield ('| model | prompt | exact NMSE | same text | fast NMSE | llama.cpp NMSE | top-1 '
           '| same text |')
    yield '|---|---|---|---|---|---|---|---|'
    fast = {(r['file'], r['prompt']): r for r in results if r['mode'] == 'fast'}
    for r in results:
        f = fast.get((r['file'], r['prompt']))
        if r['mode'] == 'exact' and f:
            top1 = 1 - int(f['differ']) / int(f['of'])
            yield (f"| {r['file'].removesuffix('.gguf')} | {r['prompt']} | {r['nmse']} "
                   f"| {r['alike']} of {r['of']} | {f['nmse']} | {f['peer']} | {top1:.3f} "
                   f"| {f['alike']} of {f['of']} |")


def chunked_text(godwit, model):
    """(text, ids, BOS or None): whole chunks of TEXT, as the model's own tokens."""
    def tokens(text):
        return json.loads(run(godwit, 'tokenize', model, '--json', input=text))['tokens']
    text = TEXT.read_text()
    bos = tokens('')
    while len(tokens(text)) > CTX * CHUNKS + CTX // 2:
        text = text[:int(len(text) * 0.97)]
    return text, tokens(text), bos[0] if bos else None


def perplexities(godwit, model, folder):
    text, ids, bos = chunked_text(godwit, model)
    text_file, ids_file = folder / 'text.txt', folder / 'ids.txt'
    text_file.write_text(text)
    ids_file.write_text(' '.join(map(str, ids)))
    own = [godwit, 'perplexity', model, text_file, '--ctx', CTX, '--json']
    other = [ROOT / 'tools/perplexity.py']
    tail = [model, ids_file, '--ctx', CTX] + (['--bos', bos] if bos is not None else [])
    results = {
        'transformers float32': run(python_of('reference'), *other, 'transformers', *tail),
        'godwit --exact': run(*own, '--exact'),
        'godwit': run(*own),
        'llama.cpp': run(python_of('peers'), *other, 'llama.cpp', *tail, stderr=subprocess.DEVNULL),
    }
    return {k: json.loads(v) for k, v in results.items()}


def perplexity_table(godwit):
    header = ['transformers float32', 'godwit --exact', 'godwit', 'llama.cpp']
    yield '| model | ' + ' | '.join(header) + ' | tokens scored |'
    yield '|---' * (len(header) + 2) + '|'
    for name, title in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = perplexities(godwit, model_file(name), Path(folder))
        counts = sorted({r['tokens'] for r in found.values()})
        print(name, found, flush=True)
        yield (f'| {title} | ' + ' | '.join(f'{found[h]["ppl"]:.4f}' for h in header) +
               f' | {"/".join(map(str, counts))} |')


PAGE = '''# Accuracy

Made by `tools/accuracy.py`. The reference is Hugging Face transformers in float32 on the CPU, with
the weights of the same GGUF file as the `gguf` package dequantises them (`tests/golden/model.py`);
in float64 it differs from itself by an NMSE of 1e-12. llama.cpp is `llama-cpp-python` built for
this machine, CPU only.

- **exact** (`--exact`): exactly dequantised weights, float32 activations and KV. It must reach 1e-8
  and give the same text.
- **fast**: what runs by default, int8 activations and f16 KV. The geometric mean of its NMSE over
  a model's prompts should not exceed llama.cpp's (the test allows 1.2 times that, since instruction
  sets round differently), and it may choose another token only where the reference's two best
  logits are within 0.3.

## Logits and greedy text

NMSE is over some rows of each prompt and a fixed random part of the vocabulary. "top-1": share of
64 positions of the reference's greedy text at which the fast path has the same best token. "same
text": tokens alike from the start of a free-running answer of 64 tokens.

{golden}

{perplexity}'''

PERPLEXITY = '''\
## Perplexity

The text of the GPL 3: {ctx} tokens of context, chunks that do not overlap, the second half of each
scored.

{table}
'''


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'accuracy.md')
    parser.add_argument('--no-perplexity', action='store_true', help='golden prompts only')
    args = parser.parse_args()
    build = release_build()
    golden = '\n'.join(golden_table(golden_results(build)))
    perplexity = ''
    if not args.no_perplexity:
        table = '\n'.join(perplexity_table(build / 'server' / 'godwit'))
        perplexity = PERPLEXITY.format(ctx=CTX, table=table)
    args.out.write_text(PAGE.format(golden=golden, perplexity=perplexity).rstrip('\n') + '\n')


if __name__ == '__main__':
    main()
