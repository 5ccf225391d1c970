#!/usr/bin/env python3
"""Writes quant.bin: random blocks of every weight format, as the `gguf` package decodes them.

    pip install gguf numpy
    python3 tests/golden/quant.py

Records of: name (8 bytes, NUL-padded), elements (u32), block bytes (u32), blocks, float32 values.
Scales cover the whole finite half-precision range: zeros of both signs, denormals, the largest.
"""
import pathlib
import struct

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

# name, type, (offset, count) of half-precision fields in a block, blocks
FORMATS = [
    ("f32", T.F32, [], 64),
    ("f16", T.F16, [(0, 1)], 512),
    ("bf16", T.BF16, [], 512),
    ("q4_0", T.Q4_0, [(0, 1)], 48),
    ("q4_1", T.Q4_1, [(0, 2)], 48),
    ("q5_0", T.Q5_0, [(0, 1)], 48),
    ("q5_1", T.Q5_1, [(0, 2)], 48),
    ("q8_0", T.Q8_0, [(0, 1)], 48),
    ("q4_k", T.Q4_K, [(0, 2)], 12),
    ("q5_k", T.Q5_K, [(0, 2)], 12),
    ("q6_k", T.Q6_K, [(208, 1)], 12),
]
ODD_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x3c00, 0xbc00]


def halves(rng, n):
    h = rng.integers(0, 0x7c00, n, dtype=np.uint16) | (rng.integers(0, 2, n, dtype=np.uint16) << 15)
    odd = rng.random(n) < 0.3
    return np.where(odd, rng.choice(np.array(ODD_HALVES, dtype=np.uint16), n), h).astype("<u2")


def blocks_of(rng, kind, fields, n):
    elems, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for offset, count in fields:
        raw[:, offset:offset + 2 * count] = halves(rng, n * count).view(np.uint8).reshape(n, -1)
    if kind in (T.F32, T.BF16):     # no infinities or NaNs
        raw[:, -1] &= 0xbf
    return raw, elems, size


def main():
    rng = np.random.default_rng(20)
    out = bytearray()
    for name, kind, fields, n in FORMATS:
        raw, elems, size = blocks_of(rng, kind, fields, n)
        values = gguf.dequantize(raw.reshape(-1), kind).astype("<f4").reshape(-1)
        assert values.size == n * elems and np.isfinite(values).all(), name
        out += struct.pack("<8sII", name.encode(), n * elems, n * size)
        out += raw.tobytes() + values.tobytes()
    path = pathlib.Path(__file__).with_name("quant.bin")
    path.write_bytes(out)
    print(f"{path.name}: {len(out)} bytes")


if __name__ == '__main__':
    main()
