# What a model reads and multiplies, from `godwit inspect`: the floors under its times.
import math

BLOCK_TOKENS = 64


class Shape:
    """found: what `godwit inspect --json` printed."""

    def __init__(self, found, kv_elem_bytes=2):
        tensors = {t['name']: t for t in found['tensors']}
        head_name = 'output.weight' if 'output.weight' in tensors else 'token_embd.weight'
        used = [t for n, t in tensors.items() if n in (head_name,) or n != 'token_embd.weight']
        self.file_bytes = sum(t['bytes'] for t in tensors.values())
        self.weight_bytes = sum(t['bytes'] for t in used)
        self.head = math.prod(tensors[head_name]['dims'])
        self.multiplications = sum(math.prod(t['dims']) for t in used if len(t['dims']) == 2)
        meta = found['metadata']
        arch = meta['general.architecture']
        self.layers, width, self.heads, self.kv_heads = (meta[f'{arch}.{k}'] for k in (
            'block_count', 'embedding_length', 'attention.head_count', 'attention.head_count_kv'))
        self.head_dim = meta.get(f'{arch}.attention.key_length', width // self.heads)
        self.window = meta.get(f'{arch}.attention.sliding_window')
        self.row_bytes = 2 * self.kv_heads * self.head_dim * kv_elem_bytes      # K and V, a layer

    def layers_reading(self, depth):
        """(layers, tokens that each reads) of dense attention."""
        full = self.layers // 6 if self.window else self.layers
        return (full, depth), (self.layers - full, min(depth, self.window or 0))

    def kv_bytes(self, depth, budget=None):
        return sum(n * self.row_bytes * min(tokens, budget or tokens)
                   for n, tokens in self.layers_reading(depth))

    def digest_bytes(self, depth):
        """The means of keys by which topk chooses."""
        return self.layers * depth // BLOCK_TOKENS * self.kv_heads * self.head_dim * 2

    def decode_bytes(self, depth, streams, budget=None):
        """What a step reads that gives each stream a token."""
        digests = self.digest_bytes(depth) if budget and budget < depth else 0
        return self.weight_bytes + streams * (self.kv_bytes(depth, budget) + digests)

    def decode_ops(self, depth, streams, budget=None):
        attention = sum(n * min(tokens, budget or tokens) for n, tokens
                        in self.layers_reading(depth)) * self.heads * self.head_dim * 2
        return 2 * streams * (self.multiplications + attention)

    def prefill_ops(self, n):
        """Only the last row needs logits; a row attends to half of all on average."""
        inner = self.multiplications - self.head
        attention = sum(layers * min(n / 2, tokens) for layers, tokens
                        in self.layers_reading(n)) * self.heads * self.head_dim * 2
        return 2 * (n * (inner + attention) + self.head)
