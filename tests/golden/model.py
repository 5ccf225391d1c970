#!/usr/bin/env python3
# Makes logits/NAME.txt: what a model file must answer, by Hugging Face transformers in float32 on
# the CPU, with the weights as the gguf package dequantises them.
#
# usage: model.py NAME GGUF             (needs the packages of requirements.txt; a minute or three)
#
# For each text of prompts/ the file has the prompt's tokens, 64 greedy tokens with the gap between
# the two best logits at each, and some rows of logits over a fixed random subset of the vocabulary.
# Everything comes from one pass without a KV cache over prompt and greedy text, so that nothing of
# the reference's own cache, masks for one token or batching is in it. A second pass in float64
# tells how far float32 can be trusted.
import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

from bpe import Bpe

HERE = Path(__file__).resolve().parent
GREEDY_TOKENS = 64
SUBSET = 128
ROWS = 32
SEED = 20

# GGUF tensor name -> transformers' name, of a layer.
LAYER = {
    'attn_norm.weight': 'input_layernorm.weight',
    'attn_q.weight': 'self_attn.q_proj.weight',
    'attn_k.weight': 'self_attn.k_proj.weight',
    'attn_v.weight': 'self_attn.v_proj.weight',
    'attn_q.bias': 'self_attn.q_proj.bias',
    'attn_k.bias': 'self_attn.k_proj.bias',
    'attn_v.bias': 'self_attn.v_proj.bias',
    'attn_output.weight': 'self_attn.o_proj.weight',
    'attn_q_norm.weight': 'self_attn.q_norm.weight',
    'attn_k_norm.weight': 'self_attn.k_norm.weight',
    'ffn_norm.weight': 'post_attention_layernorm.weight',
    'ffn_gate.weight': 'mlp.gate_proj.weight',
    'ffn_up.weight': 'mlp.up_proj.weight',
    'ffn_down.weight': 'mlp.down_proj.weight',
}
GEMMA_LAYER = {
    'post_attention_norm.weight': 'post_attention_layernorm.weight',
    'ffn_norm.weight': 'pre_feedforward_layernorm.weight',
    'post_ffw_norm.weight': 'post_feedforward_layernorm.weight',
}
GLOBAL = {
    'token_embd.weight': 'model.embed_tokens.weight',
    'output_norm.weight': 'model.norm.weight',
    'output.weight': 'lm_head.weight',
}


def common_config(meta, tensors):
    heads = meta('attention.head_count')
    width = meta('embedding_length')
    return dict(
        vocab_size=tensors['token_embd.weight'].shape[0], hidden_size=width,
        intermediate_size=meta('feed_forward_length'), num_hidden_layers=meta('block_count'),
        num_attention_heads=heads, num_key_value_heads=meta('attention.head_count_kv'),
        head_dim=meta('attention.key_length', width // heads),
        rms_norm_eps=meta('attention.layer_norm_rms_epsilon'),
        max_position_embeddings=meta('context_length'),
        tie_word_embeddings='output.weight' not in tensors, attn_implementation='eager')


def llama_or_qwen2(config_class, model_class, meta, tensors):
    rope = dict(rope_type='default', rope_theta=meta('rope.freq_base', 10000.0))
    return model_class(config_class(**common_config(meta, tensors), rope_parameters=rope))


def gemma3(meta, tensors):
    common = common_config(meta, tensors)
    layers = common['num_hidden_layers']
    # Every sixth layer is global. The base of the local layers' rotation is not in the file.
    kinds = ['full_attention' if (i + 1) % 6 == 0 else 'sliding_attention' for i in range(layers)]
    rope = dict(full_attention=dict(rope_type='default', rope_theta=meta('rope.freq_base')),
                sliding_attention=dict(rope_type='default', rope_theta=10000.0))
    return Gemma3ForCausalLM(Gemma3TextConfig(
        **common, layer_types=kinds, sliding_window=meta('attention.sliding_window'),
        rope_parameters=rope, query_pre_attn_scalar=common['head_dim'],
        hidden_activation='gelu_pytorch_tanh', final_logit_softcapping=None,
        attn_logit_softcapping=None))


def unpermute(w, heads):
    """The llama converter reordered the rows of each head so that rotated pairs are adjacent."""
    rows, columns = w.shape
    return w.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def state_dict(arch, meta, tensors):
    state = {}
    layer_names = LAYER | (GEMMA_LAYER if arch == 'gemma3' else {})
    for name, w in tensors.items():
        if name in GLOBAL:
            target = GLOBAL[name]
        else:
            _, layer, rest = name.split('.', 2)
            target = f'model.layers.{layer}.{layer_names[rest]}'
        if arch == 'llama' and rest_of(name) == 'attn_q.weight':
            w = unpermute(w, meta('attention.head_count'))
        if arch == 'llama' and rest_of(name) == 'attn_k.weight':
            w = unpermute(w, meta('attention.head_count_kv'))
        if arch == 'gemma3' and name.endswith('norm.weight'):
            w = w - np.float32(1)       # the file's include the 1 that transformers adds
        state[target] = torch.from_numpy(np.ascontiguousarray(w))
    if 'lm_head.weight' not in state:
        state['lm_head.weight'] = state['model.embed_tokens.weight']
    return state


def rest_of(name):
    return name.split('.', 2)[-1]


def load(path):
    """Returns (model, reader) with every tensor of the file in the model and nothing else."""
    torch.set_grad_enabled(False)
    reader = GGUFReader(path)
    arch = reader.fields['general.architecture'].contents()

    def meta(key, default=None):
        field = reader.fields.get(f'{arch}.{key}')
        return field.contents() if field else default

    tensors = {t.name: np.array(dequantize(t.data, t.tensor_type), dtype=np.float32)
               for t in reader.tensors if t.name != 'rope_freqs.weight'}
    builders = {
        'llama': lambda: llama_or_qwen2(LlamaConfig, LlamaForCausalLM, meta, tensors),
        'qwen2': lambda: llama_or_qwen2(Qwen2Config, Qwen2ForCausalLM, meta, tensors),
        'gemma3': lambda: gemma3(meta, tensors),
    }
    model = builders[arch]().float().eval()
    missing, unexpected = model.load_state_dict(state_dict(arch, meta, tensors), strict=False)
    if missing or unexpected:
        sys.exit(f'tensors do not match: missing {missing}, unexpected {unexpected}')
    return model, reader


def greedy(model, ids):
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=int),
                         max_new_tokens=GREEDY_TOKENS, min_new_tokens=GREEDY_TOKENS,
                         do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, len(ids):].tolist()


def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()     # (tokens, vocab)


def nmse(a, reference):
    a, reference = a.astype(np.float64), reference.astype(np.float64)
    return float(((a - reference) ** 2).sum() / (reference ** 2).sum())


def log_sum_exp(row):
    row = row.astype(np.float64)
    return row.max() + np.log(np.exp(row - row.max()).sum())


def row_positions(n):
    """Positions spread over a prompt of n tokens and its greedy text, the prompt's last among them."""
    spread = np.linspace(1, n + GREEDY_TOKENS - 2, ROWS - 1).astype(int).tolist()
    return sorted({n - 1, *spread})


def write_prompt(out, name, model, ids, subset):
    text = greedy(model, ids)
    n = len(ids)
    rows = logits_of(model, ids + text)
    best = rows[n - 1:-1].argmax(axis=1).tolist()
    if best != text:
        sys.exit(f'{name}: greedy text differs with and without the KV cache')
    top2 = np.sort(rows[n - 1:-1], axis=1)[:, -2:]
    print(f'prompt {name}', file=out)
    print('tokens', n, *ids, file=out)
    print('greedy', len(text), *text, file=out)
    print('gaps', len(text), *(f'{b - a:.4f}' for a, b in top2), file=out)
    at = row_positions(n)
    print('rows', len(at), file=out)
    for i in at:
        print(f'row {i} {rows[i].argmax()} {log_sum_exp(rows[i]):.7f}',
              *(f'{x:.7g}' for x in rows[i][subset]), file=out)
    return text, rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('name')
    parser.add_argument('gguf', type=Path)
    args = parser.parse_args()
    model, reader = load(args.gguf)
    bpe = Bpe(reader)
    vocab = model.config.vocab_size
    subset = np.sort(np.random.RandomState(SEED).choice(vocab, SUBSET, replace=False))
    prompts = {p.stem: bpe.encode(p.read_text(encoding='utf-8'))
               for p in sorted((HERE / 'prompts').glob('*.txt'))}
    target = HERE / 'logits' / f'{args.name}.txt'
    target.parent.mkdir(exist_ok=True)
    with target.open('w') as out:
        print('file', args.gguf.name, file=out)
        print('vocab', vocab, file=out)
        print('subset', SUBSET, *subset, file=out)
        print('prompts', len(prompts), file=out)
        single = {}
        for name, ids in prompts.items():
            single[name] = write_prompt(out, name, model, ids, subset)
            print(name, len(ids), 'tokens:', repr(bpe.decode(single[name][0])), flush=True)
    model.double()
    for name, ids in prompts.items():
        text, rows = single[name]
        noise = nmse(rows, logits_of(model, ids + text))
        print(f'{name}: float32 against float64: NMSE {noise:.1e}', flush=True)


if __name__ == '__main__':
    main()
