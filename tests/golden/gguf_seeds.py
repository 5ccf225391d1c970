#!/usr/bin/env python3
"""Writes the seeds of the GGUF fuzz target with the `gguf` package: a small file per weight format.

    pip install gguf numpy
    python3 tests/golden/gguf_seeds.py
"""
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

FORMATS = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K]


def write(path, kind, rng, alignment):
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(2)
    w.add_custom_alignment(alignment)
    w.add_array("tokenizer.ggml.tokens", ["a", "b", "ccc"])
    w.add_array("tokenizer.ggml.scores", [1.0, -2.5])
    w.add_array("x.ints", [1, 2, -3])
    w.add_bool("x.bool", True)
    w.add_float64("x.f64", 2.5)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    for name in ("w", "v"):
        if kind in (T.F32, T.F16):
            w.add_tensor(name, rng.random(8).astype(np.float32 if kind == T.F32 else np.float16))
        else:
            raw = rng.integers(0, 256, (1, block_bytes), dtype=np.uint8)
            w.add_tensor(name, raw, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    rng = np.random.default_rng(20)
    folder = pathlib.Path(__file__).parent.parent / "fuzz" / "seeds" / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for i, kind in enumerate(FORMATS):
        write(folder / f"{kind.name.lower()}.gguf", kind, rng, 64 if i % 2 else 32)


if __name__ == '__main__':
    main()
