# The figures that tools/bench_gpu.py measures, what each is to reach, and the floor under it.
from typing import NamedTuple

BUDGET_TOKENS = 4096

# Measured: bytes/s that a shader reads (H200) or a copy reads and writes, and operations/s of a
# large bf16 matrix product.
CEILINGS = {'H200': (4.1e12, 790e12), 'H100': (3.0e12, 798e12)}


def thousands(n):
    return f'{n // 1024}k' if n >= 1024 and n % 1024 == 0 else str(n)


class Figure(NamedTuple):
    what: str                   # prefill, decode, load, start
    tokens: int = 0             # prefill: of the prompt; decode: before what is timed
    streams: int = 1
    attention: str = 'dense'

    @property
    def key(self):
        return f'{self.what}:{self.tokens}:{self.streams}:{self.attention}'

    @property
    def title(self):
        if self.what == 'load':
            return 'load of the file from the page cache, s'
        if self.what == 'start':
            return 'start of the program to the first token, s'
        if self.what == 'prefill':
            return f'prefill {self.tokens}, t/s'
        streams = f'{self.streams} streams' if self.streams > 1 else '1 stream'
        return (f'decode, {streams} at {thousands(self.tokens)}'
                + (', topk' if self.attention == 'topk' else '') + ', t/s')

    @property
    def less_is_better(self):
        return self.what in ('load', 'start')


def figure_of(key):
    what, tokens, streams, attention = key.split(':')
    return Figure(what, int(tokens), int(streams), attention)


ORDER = ('prefill', 'decode', 'load', 'start')


def in_order(figures):
    return sorted(figures, key=lambda f: (ORDER.index(f.what), f.attention, f.streams, f.tokens))


def goal(model, figure):
    """(program, how many times its rate), or None."""
    shape, _, fmt = model.partition(' ')
    if figure.attention != 'dense' or shape != 'llama-3.1-8b':
        return None
    if figure.what == 'prefill' and figure.tokens == 2048:
        return {'q4_k': ('cuda', 1.1), 'bf16': ('vulkan', 1.2)}.get(fmt)
    if figure.what == 'decode' and figure.streams > 1:
        return 'cuda', 1.0
    if figure.what == 'decode':
        return 'cuda', 1.1 if fmt == 'bf16' else 1.25
    return None


def floor_seconds(shape, figure, ceilings):
    """The least time of a prompt or of a step; None where there is no floor to know."""
    bytes_per_s, ops_per_s = ceilings
    budget = BUDGET_TOKENS if figure.attention == 'topk' else None
    if figure.what == 'prefill':
        return max(shape.prefill_ops(figure.tokens) / ops_per_s, shape.weight_bytes / bytes_per_s)
    if figure.what == 'decode':
        return max(shape.decode_bytes(figure.tokens, figure.streams, budget) / bytes_per_s,
                   shape.decode_ops(figure.tokens, figure.streams, budget) / ops_per_s)
    return None


def floor_rate(shape, figure, ceilings):
    seconds = floor_seconds(shape, figure, ceilings) if ceilings else None
    tokens = figure.tokens if figure.what == 'prefill' else figure.streams
    return tokens / seconds if seconds else None
