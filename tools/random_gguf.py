#!/usr/bin/env python3
# Writes a GGUF file of a known model's shape with random weights, to measure speed where the real
# file is not at hand. Weights are normal with deviation 0.02, as trained ones about are, so hidden
# states and logits stay in the range of real models. A pool of quantised blocks is made once per
# format and tiled over the tensors, so 8 GB take seconds. Needs numpy.
#
# usage: tools/random_gguf.py SHAPE FORMAT OUT
#   SHAPE   llama-3.2-1b, llama-3.1-8b; tiny, tiny-tied (for tests)
#   FORMAT  q4_k (with an output matrix in q6_k), q8_0, bf16, f16
import json
import math
import struct
import sys
from typing import Callable, NamedTuple

import numpy as np

DEVIATION = 0.02
POOL_BYTES = 16 << 20
ALIGNMENT = 32
ROPE_BASE, ROPE_ORIGINAL_TOKENS, ROPE_LOW, ROPE_HIGH = 500000.0, 8192, 1, 4


class Shape(NamedTuple):
    layers: int
    width: int
    ff_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool              # the embedding is the output matrix too
    rope_factor: float      # by which long wave lengths are stretched


SHAPES = {
    'llama-3.2-1b': Shape(16, 2048, 8192, 32, 8, 64, 128256, True, 32),
    'llama-3.1-8b': Shape(32, 4096, 14336, 32, 8, 128, 128256, False, 8),
    'tiny': Shape(2, 256, 512, 4, 2, 64, 1000, False, 8),
    'tiny-tied': Shape(2, 256, 512, 4, 2, 64, 1000, True, 32),
}


# ---- formats ------------------------------------------------------------------------------------
# Each takes normal values of deviation 1 (blocks, elements) and gives blocks as bytes. Scales vary
# from group to group as those of real files do.

def half_bytes(x):
    """(n) to (n, 2): little-endian float16."""
    return x.astype('<f2').view(np.uint8).reshape(-1, 2)


def scatter(rng, n):
    return rng.uniform(0.8, 1.25, n)


def encode_f32(rng, x):
    return (x * DEVIATION).astype('<f4').view(np.uint8)


def encode_f16(rng, x):
    return (x * DEVIATION).astype('<f2').view(np.uint8)


def encode_bf16(rng, x):
    bits = (x * np.float32(DEVIATION)).view(np.uint32)
    return (bits >> 16).astype('<u2').view(np.uint8)


def encode_q8_0(rng, x):
    q = np.clip(np.rint(x * 32), -127, 127).astype(np.int8)
    return np.hstack([half_bytes(DEVIATION / 32 * scatter(rng, len(x))), q.view(np.uint8)])


def encode_q4_k(rng, x):
    """w = d * scale * (q - 7.5): minimums equal scales, and their common factor is 7.5 d."""
    q = np.clip(np.rint(x * 3 + 7.5), 0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    d = DEVIATION / (3 * 48) * scatter(rng, len(x))
    scale = rng.integers(32, 64, (len(x), 2, 4), np.uint8)
    first, last = scale[:, 0], scale[:, 1]
    outer = first | last >> 4 << 6
    low = last & 15
    nibbles = q[:, :, 0] | q[:, :, 1] << 4
    return np.hstack([half_bytes(d), half_bytes(7.5 * d), outer, outer, low | low << 4,
                      nibbles.reshape(-1, 128)])


def encode_q6_k(rng, x):
    """w = d * scale * (q - 32)."""
    q = np.clip(np.rint(x * 8) + 32, 0, 63).astype(np.uint8).reshape(-1, 2, 4, 32)
    scale = rng.integers(24, 48, (len(x), 16), np.int8) * rng.choice(np.int8([-1, 1]),
                                                                     (len(x), 16))
    low = q[:, :, :2] & 15 | q[:, :, 2:] << 4
    high = sum(q[:, :, k] >> 4 << 2 * k for k in range(4))
    return np.hstack([low.reshape(-1, 128), high.reshape(-1, 64), scale.view(np.uint8),
                      half_bytes(DEVIATION / (8 * 36) * scatter(rng, len(x)))])


class Format(NamedTuple):
    gguf_id: int
    elems: int
    bytes: int              # of a block
    encode: Callable
    file_type: int = 0      # general.file_type of a file that is mostly this

    def size(self, elems):
        assert elems % self.elems == 0
        return elems // self.elems * self.bytes


F32 = Format(0, 1, 4, encode_f32)
Q6_K = Format(14, 256, 210, encode_q6_k)
FORMATS = {
    'q4_k': Format(12, 256, 144, encode_q4_k, 14),
    'q8_0': Format(8, 32, 34, encode_q8_0, 7),
    'bf16': Format(30, 1, 2, encode_bf16, 32),
    'f16': Format(1, 1, 2, encode_f16, 1),
}


# ---- what the file says -------------------------------------------------------------------------

class Tensor(NamedTuple):
    name: str
    dims: tuple             # the row's length first
    format: Format

    @property
    def elems(self):
        return math.prod(self.dims)

    @property
    def bytes(self):
        return self.format.size(self.elems)


def tensors_of(s, main):
    head = Q6_K if main is FORMATS['q4_k'] else main
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    yield Tensor('token_embd.weight', (s.width, s.vocab), head if s.tied else main)
    yield Tensor('rope_freqs.weight', (s.head_dim // 2,), F32)
    for i in range(s.layers):
        for name, *dims in (('attn_q', s.width, q), ('attn_k', s.width, kv),
                            ('attn_v', s.width, kv), ('attn_output', q, s.width),
                            ('ffn_gate', s.width, s.ff_width), ('ffn_up', s.width, s.ff_width),
                            ('ffn_down', s.ff_width, s.width)):
            yield Tensor(f'blk.{i}.{name}.weight', tuple(dims), main)
        yield Tensor(f'blk.{i}.attn_norm.weight', (s.width,), F32)
        yield Tensor(f'blk.{i}.ffn_norm.weight', (s.width,), F32)
    yield Tensor('output_norm.weight', (s.width,), F32)
    if not s.tied:
        yield Tensor('output.weight', (s.width, s.vocab), head)


def byte_characters():
    """The character by which a byte-level vocabulary writes each byte."""
    own = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b if b in own else next(others)) for b in range(256)]


def vocabulary(n):
    """Every byte, one merge, and words that no text has; the last two are control tokens."""
    words = byte_characters() + ['ab']
    words += [f'w{i}' for i in range(n - 2 - len(words))] + ['<|begin|>', '<|end|>']
    return words, [1] * (n - 2) + [3, 3]


def metadata(name, s, main):
    words, types = vocabulary(s.vocab)
    return {
        'general.architecture': 'llama',
        'general.name': name,
        'general.alignment': ALIGNMENT,
        'general.file_type': main.file_type,
        'general.quantization_version': 2,
        'llama.block_count': s.layers,
        'llama.context_length': 131072,
        'llama.embedding_length': s.width,
        'llama.feed_forward_length': s.ff_width,
        'llama.attention.head_count': s.heads,
        'llama.attention.head_count_kv': s.kv_heads,
        'llama.attention.key_length': s.head_dim,
        'llama.attention.value_length': s.head_dim,
        'llama.attention.layer_norm_rms_epsilon': 1e-5,
        'llama.rope.dimension_count': s.head_dim,
        'llama.rope.freq_base': ROPE_BASE,
        'llama.vocab_size': s.vocab,
        'tokenizer.ggml.model': 'gpt2',
        'tokenizer.ggml.pre': 'llama-bpe',
        'tokenizer.ggml.tokens': words,
        'tokenizer.ggml.token_type': types,
        'tokenizer.ggml.merges': ['a b'],
        'tokenizer.ggml.bos_token_id': s.vocab - 2,
        'tokenizer.ggml.eos_token_id': s.vocab - 1,
    }


def text_bytes(text):
    data = text.encode()
    return struct.pack('<Q', len(data)) + data


def value_bytes(value):
    if isinstance(value, str):
        return struct.pack('<I', 8) + text_bytes(value)
    if isinstance(value, int):
        return struct.pack('<II', 4, value)
    if isinstance(value, float):
        return struct.pack('<If', 6, value)
    if isinstance(value[0], int):
        return struct.pack('<IIQ', 9, 5, len(value)) + struct.pack(f'<{len(value)}i', *value)
    return struct.pack('<IIQ', 9, 8, len(value)) + b''.join(map(text_bytes, value))


def padding(n):
    return b'\0' * (-n % ALIGNMENT)


def header_bytes(pairs, tensors):
    out = [b'GGUF', struct.pack('<IQQ', 3, len(tensors), len(pairs))]
    out += [text_bytes(k) + value_bytes(v) for k, v in pairs.items()]
    offset = 0
    for t in tensors:
        out.append(text_bytes(t.name) + struct.pack(f'<I{len(t.dims)}QIQ', len(t.dims), *t.dims,
                                                    t.format.gguf_id, offset))
        offset += t.bytes + len(padding(t.bytes))
    header = b''.join(out)
    return header + padding(len(header))


# ---- what it holds ------------------------------------------------------------------------------

def rope_factors(s):
    """What Llama 3.1 divides the frequencies by: short waves by 1, long ones by rope_factor."""
    wave = 2 * np.pi * ROPE_BASE ** (np.arange(0, s.head_dim, 2) / s.head_dim)
    smooth = (ROPE_ORIGINAL_TOKENS / wave - ROPE_LOW) / (ROPE_HIGH - ROPE_LOW)
    return 1 / np.interp(smooth, [0, 1], [1 / s.rope_factor, 1])


def make_pool(rng, fmt):
    n = POOL_BYTES // fmt.bytes
    return fmt.encode(rng, rng.standard_normal((n, fmt.elems), np.float32))


def write_tiled(file, rng, pool, n_blocks):
    """n_blocks blocks from random places of the pool on."""
    while n_blocks:
        start = int(rng.integers(len(pool)))
        piece = pool[start:start + n_blocks]
        file.write(piece.data)
        n_blocks -= len(piece)


def write_tensors(file, s, tensors):
    rng, pools = np.random.default_rng(1), {}
    for t in tensors:
        if t.name == 'rope_freqs.weight':
            file.write(rope_factors(s).astype('<f4').tobytes())
        elif len(t.dims) == 1:
            file.write(scatter(rng, t.elems).astype('<f4').tobytes())
        else:
            if t.format not in pools:
                pools[t.format] = np.ascontiguousarray(make_pool(rng, t.format))
            write_tiled(file, rng, pools[t.format], t.elems // t.format.elems)
        file.write(padding(t.bytes))


def make(shape, fmt, path):
    s = SHAPES[shape]
    tensors = list(tensors_of(s, FORMATS[fmt]))
    with open(path, 'wb') as file:
        file.write(header_bytes(metadata(f'{shape} random {fmt}', s, FORMATS[fmt]), tensors))
        write_tensors(file, s, tensors)
        size = file.tell()
    return {'file': str(path), 'bytes': size, 'params': sum(t.elems for t in tensors)}


if __name__ == '__main__':
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in FORMATS:
        sys.exit(f'usage: random_gguf.py {"|".join(SHAPES)} {"|".join(FORMATS)} OUT')
    print(json.dumps(make(*sys.argv[1:])))
