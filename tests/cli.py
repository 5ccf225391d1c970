#!/usr/bin/env python3
# Protects the command line tool: exact bytes through tokenize and detokenize, the JSON shapes that
# scripts build on, and the form of failures.
#
#     tests/cli.py build/server/godwit
#
# The models are looked for as the C tests do; exit status 77 if one is missing.
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

GODWIT = sys.argv[1]
CACHE = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
MODELS = Path(os.environ.get('GODWIT_MODELS') or f'{CACHE}/godwit/models')
SMOLLM2, GEMMA3, QWEN2 = (MODELS / f for f in (
    'SmolLM2-135M-Instruct.Q4_1.gguf', 'gemma-3-270m-q4_k_m.gguf',
    'qwen2.5-coder-0.5b-instruct.gguf'))
ERROR_LINE_MAX = 2000
CPU = ('--device', 'cpu', '--ctx', 256, '--threads', 2)
NULL = ('--device', 'null', '--ctx', 256)


def godwit(*args, text=b''):
    return subprocess.run([GODWIT, *map(str, args)], input=text, capture_output=True, check=False)


def output(*args, text=b''):
    done = godwit(*args, text=text)
    assert done.returncode == 0, (args, done)
    return done.stdout


def parsed(*args, text=b''):
    out = output(*args, text=text)
    assert out.count(b'\n') == 1 and out.endswith(b'\n'), (args, out[:200])
    return json.loads(out)


def tokenize(model, text, *options):
    return parsed('tokenize', model, '--json', *options, text=text)['tokens']


def joined(ids):
    return ' '.join(map(str, ids)).encode()


def require_failure(*args, text=b'', names=b''):
    done = godwit(*args, text=text)
    assert done.returncode == 1, (args, done)
    assert done.stdout == b'', (args, done)
    assert done.stderr.count(b'\n') == 1 and done.stderr.endswith(b'\n'), (args, done)
    assert len(done.stderr) <= ERROR_LINE_MAX, (args, len(done.stderr))
    assert names in done.stderr, (args, done)


def require_usage(*args):
    done = godwit(*args)
    assert done.returncode == 2 and done.stdout == b'' and done.stderr, (args, done)


# ---- a vocabulary without tensors --------------------------------------------------------------

def gguf_text(text):
    data = text.encode()
    return struct.pack('<Q', len(data)) + data


def gguf_value(value):
    if isinstance(value, str):
        return struct.pack('<I', 8) + gguf_text(value)
    if isinstance(value, int):
        return struct.pack('<II', 4, value)
    if isinstance(value[0], int):
        return struct.pack('<IIQ', 9, 5, len(value)) + struct.pack(f'<{len(value)}i', *value)
    return struct.pack('<IIQ', 9, 8, len(value)) + b''.join(map(gguf_text, value))


def write_vocabulary(path, template):
    pairs = {
        'tokenizer.ggml.model': 'gpt2',
        'tokenizer.ggml.pre': 'gpt-2',
        'tokenizer.ggml.tokens': ['a', 'b', 'ab', '<|end|>'],
        'tokenizer.ggml.token_type': [1, 1, 1, 3],
        'tokenizer.ggml.merges': ['a b'],
        'tokenizer.ggml.eos_token_id': 3,
        'tokenizer.chat_template': template,
    }
    body = b''.join(gguf_text(k) + gguf_value(v) for k, v in pairs.items())
    path.write_bytes(b'GGUF' + struct.pack('<IQQ', 3, 0, len(pairs)) + body)


# ---- tests -------------------------------------------------------------------------------------

def test_round_trips():
    texts = [b'', b'Hello, world! It\'s 12 .\n', 'Größe 漢字 👩‍👧  x\t\n'.encode(), b'\r\n  </s> a']
    for model in (SMOLLM2, GEMMA3, QWEN2):
        for text in texts:
            ids = tokenize(model, text, '--no-bos')
            assert output('detokenize', model, text=joined(ids)) == text, (model, text, ids)
    bad = b'a\xf4\x90\x80\x80 \xff'
    for model in (GEMMA3, QWEN2):
        assert output('detokenize', model, text=joined(tokenize(model, bad, '--no-bos'))) == bad


def test_flags():
    assert tokenize(GEMMA3, b'hi')[0] == 2 and tokenize(GEMMA3, b'hi', '--no-bos')[0] != 2
    assert tokenize(GEMMA3, b'<bos>hi') == tokenize(GEMMA3, b'hi')
    assert tokenize(GEMMA3, b'') == [2] and tokenize(SMOLLM2, b'') == []
    assert tokenize(QWEN2, b'<|im_end|>') == [151645]
    assert 151645 not in tokenize(QWEN2, b'<|im_end|>', '--no-special')
    assert output('detokenize', QWEN2, '--no-special', text=b'9707 151645\n') == b'Hello'
    assert output('tokenize', QWEN2, text=b'Hello, world!') == b'9707 11 1879 0\n'


def test_no_tensors(folder):
    vocabulary = folder / 'vocabulary.gguf'
    write_vocabulary(vocabulary, '{{ messages[0].content }}{{ eos_token }}'
                                 '{% if messages|length > 1 %}{{ raise_exception("one\nonly") }}'
                                 '{% endif %}')
    assert tokenize(vocabulary, b'aab<|end|>') == [0, 2, 3]
    assert output('detokenize', vocabulary, text=b'0\n2 3\t') == b'aab<|end|>'
    one = b'{"messages": [{"role": "user", "content": "x"}]}'
    assert output('template', vocabulary, text=one) == b'x<|end|>'
    assert parsed('template', vocabulary, '--json', text=one) == {'text': 'x<|end|>'}
    two = b'{"messages": [{"content": "x"}, {"content": "y"}]}'
    require_failure('template', vocabulary, text=two, names=b'one')
    require_failure('template', vocabulary, text=b'{"messages": [', names=b'JSON')
    require_failure('template', vocabulary, text=b'{}', names=b'messages')
    require_failure('detokenize', vocabulary, text=b'0 4', names=b'4')
    require_failure('detokenize', vocabulary, text=b'0 x', names=b'x')
    require_failure('detokenize', vocabulary, text=b'-1', names=b'-1')


def test_template():
    request = {'messages': [{'role': 'user', 'content': 'Hi <|im_end|> é'}],
               'tools': [{'type': 'function', 'function': {'name': 'now', 'parameters': {}}}]}
    for model in (SMOLLM2, QWEN2):
        text = output('template', model, text=json.dumps(request).encode()).decode()
        assert 'Hi <|im_end|> é<|im_end|>' in text and text.endswith('<|im_start|>assistant\n')
        assert ('"name": "now"' in text) == (model == QWEN2)
    require_failure('template', GEMMA3, text=json.dumps(request).encode(), names=b'template')


def test_usage():
    for args in ([], ['nonsense'], ['run'], ['run', SMOLLM2, '--nonsense'], ['perplexity', SMOLLM2],
                 ['tokenize', SMOLLM2, 'more'], ['tokenize', SMOLLM2, '--ctx', 'x'],
                 ['tokenize', SMOLLM2, '--ctx'], ['tokenize', SMOLLM2, '--json=1'],
                 ['bench', SMOLLM2, '--prefill', '1,,2'], ['logits', SMOLLM2],
                 ['run', SMOLLM2, '-p', 'x', '--temp', '-1'], ['run', SMOLLM2, '--json'],
                 ['run', SMOLLM2, '-p', 'x', '--attention', 'nonsense'],
                 ['perplexity', SMOLLM2, 'x', '--ctx', '2']):
        require_usage(*args)
    assert b'tokenize' in output('--help') and b'--temp' in output('run', '--help')


def test_failures(folder):
    missing = folder / 'no such file.gguf'
    for command in ('run', 'tokenize', 'detokenize', 'template', 'inspect', 'bench'):
        more = ('-p', 'x') if command == 'run' else ()
        require_failure(command, missing, *more, names=b'no such file.gguf')
    damaged = folder / 'damaged.gguf'
    damaged.write_bytes(b'GGUF' + b'\xff' * 60)
    require_failure('inspect', damaged, names=b'damaged.gguf')
    require_failure('perplexity', SMOLLM2, missing, names=b'no such file')
    require_failure('run', folder / ('x' * 3000), '-p', 'x')
    ids, out = folder / 'ids.txt', folder / 'out.npy'
    ids.write_text('1 2 999999')
    require_failure('logits', SMOLLM2, '--tokens', ids, '--out', out, *CPU, names=b'999999')
    assert not out.exists()
    require_failure('run', SMOLLM2, '-p', '', '--raw', *NULL, names=b'empty')


def test_devices():
    found = parsed('devices', '--json')['devices']
    assert found[0]['device'] == 'cpu' and found[0]['usable'] and found[0]['memory_bytes'] > 0
    assert all(d['device'].startswith('vulkan:') for d in found[1:])
    auto, = (d for d in found if d['auto'])
    assert auto['usable'] and not auto['software']
    assert all(d['usable'] == (d['missing'] == '') for d in found)
    assert all(set(d['unbuilt']) <= set(d['abilities']) for d in found)
    text = output('devices').decode()
    assert all(d['device'] in text for d in found) and f'{auto["device"]}  (auto)' in text
    require_usage('devices', 'more')
    require_usage('devices', '--device', 'cpu')


def test_inspect():
    found = parsed('inspect', GEMMA3, '--json', '--ctx', 4096)
    assert found['metadata']['general.architecture'] == 'gemma3'
    assert found['tensors'] and found['plan'] and found['memory']['ctx_tokens'] == 4096
    assert json.loads(output('inspect', GEMMA3, '--ctx', 4096)) == found


def test_run():
    ask = ('run', SMOLLM2, '-p', 'The capital of France is', '--raw', '-n', 4, '--exact', *CPU)
    found = parsed(*ask, '--temp', 0, '--json')
    assert set(found) == {'text', 'tokens', 'finish_reason', 'prompt_tokens', 'timings'}
    assert len(found['tokens']) == 4 and found['finish_reason'] == 'length'
    assert found['prompt_tokens'] == 5 and found['timings']['decode_ms'] > 0
    assert ' '.join(found['text'].split()).startswith('Paris')
    assert output('detokenize', SMOLLM2, text=joined(found['tokens'])).decode() == found['text']
    assert output(*ask, '--temp', 0).decode() == found['text'] + '\n'
    seeded = [parsed(*ask, '--seed', 7, '--json', '--threads', n)['tokens'] for n in (1, 2)]
    assert seeded[0] == seeded[1]


def test_gpu_layers():
    ask = ('run', SMOLLM2, '-p', 'x', '--raw', '-n', 2, '--temp', 0, '--ctx', 256)
    alone = output(*ask, '--device', 'cpu')
    assert output(*ask, '--device', 'cpu', '--gpu-layers', 0) == alone
    assert output(*ask, '--device', 'vulkan:any', '--gpu-layers', 0) == alone
    require_failure(*ask, '--device', 'cpu', '--gpu-layers', 2, names=b'no GPU for 2 layers')
    require_usage(*ask, '--gpu-layers', 'all')


def test_chat():
    out = output('run', SMOLLM2, '--temp', 0, '-n', 3, *CPU, text=b'Hello\n\nAgain\n').decode()
    assert out.count('\n') >= 2 and len(out.split()) >= 2


def test_logits(folder):
    ids, out = folder / 'ids.txt', folder / 'out.npy'
    ids.write_text('504\n3575  282\t4649\n')
    assert output('logits', SMOLLM2, '--tokens', ids, '--out', out, '--exact', *CPU) == b''
    data = out.read_bytes()
    assert data[:8] == b'\x93NUMPY\x01\x00'
    start = 10 + struct.unpack('<H', data[8:10])[0]
    assert start % 64 == 0 and b"(4, 49152)" in data[:start] and b"'<f4'" in data[:start]
    row = struct.unpack('<49152f', data[start + 3 * 49152 * 4:])
    assert row.index(max(row)) == 314 and all(map(math.isfinite, row))  # "The capital of France" is


def test_perplexity(folder):
    text = folder / 'text.txt'
    text.write_text('The quick brown fox jumps over the lazy dog. ' * 8)
    for model in (SMOLLM2, GEMMA3):
        n = len(tokenize(model, text.read_bytes()))
        found = parsed('perplexity', model, text, '--ctx', 32, '--json', *CPU[:2])
        assert set(found) == {'ppl', 'tokens'} and found['tokens'] == n // 32 * (32 - 16 - 1)
        assert 1 < found['ppl'] < 100
    require_failure('perplexity', SMOLLM2, text, '--ctx', 4096, *CPU[:2], names=b'4096')


def test_bench():
    found = parsed('bench', SMOLLM2, '--prefill', '64,0', '--decode', 4, '--depth', '0,100',
                   '--streams', '1,3', '--json', '--device', 'null')
    assert [p['tokens'] for p in found['prefill']] == [64]
    shapes = [(d['depth'], d['streams'], d['tokens']) for d in found['decode']]
    assert shapes == [(0, 1, 4), (0, 3, 4), (100, 1, 4), (100, 3, 4)]
    assert all(x['tokens_per_s'] > 0 for x in found['prefill'] + found['decode'])
    many = parsed('bench', SMOLLM2, '--prefill', 0, '--decode', 2, '--depth', 300, '--streams', 16,
                  '--json', '--device', 'null:5ms')
    assert 0 < many['decode'][0]['tokens_per_s'] < 3300, many       # 16 every 5 ms at most
    require_failure('bench', SMOLLM2, '--depth', 1 << 20, '--streams', 1000, '--device', 'cpu',
                    names=b'this machine has')
    require_failure('bench', SMOLLM2, '--device', 'null:5', names=b'50ms')
    require_failure('bench', SMOLLM2, '--device', 'null:lost=1', names=b'warming up')
    require_failure('bench', SMOLLM2, '--no-warmup', '--device', 'null:lost=1', names=b'ended with')
    table = output('bench', SMOLLM2, '--prefill', 64, '--decode', 0, '--device', 'null').decode()
    assert 'prefill' in table and 'decode' not in table


def test_bench_fill():
    for attention in ('dense', 'topk'):
        found = parsed('bench', SMOLLM2, '--prefill', 0, '--decode', 2, '--depth', 5000,
                       '--streams', 2, '--fill', 'random', '--attention', attention, '--budget',
                       1024, '--json', '--device', 'cpu', '--threads', 2)
        assert found['fill'] == 'random'
        held, read = (found['decode'][0][k] for k in ('blocks_held', 'blocks_read'))
        rows, heads = 2 * 3, 30 * 3         # two streams, the prompt's last token and two behind
        assert held == rows * heads * (5056 // 64 + 1), found
        assert read == (held if attention == 'dense' else rows * heads * 1024 // 64), found
    require_usage('bench', SMOLLM2, '--fill', 'nonsense')


def test_sizes():
    sizes = ('--prefill', 0, '--decode', 2, '--depth', 64, '--streams', 1, '--device', 'null')
    for size in ('0', '100', '64k', '3G'):
        output('bench', SMOLLM2, *sizes, '--kv-device-bytes', size)
    for size in ('', 'G', '-1', '3X', '1KK', '99999999999999999999', '99999999T'):
        require_usage('bench', SMOLLM2, *sizes, '--kv-device-bytes', size)


def test_bench_profile():
    sizes = ('--prefill', 64, '--decode', 8, '--depth', 64, '--streams', 2, '--profile')
    found = parsed('bench', SMOLLM2, *sizes, '--json', '--device', 'null:2ms')
    for figure in (found['prefill'][0], found['decode'][0]):
        op, = figure['profile']['ops']
        assert op['label'] == 'wait' and op['n'] == figure['profile']['steps'] > 0
        assert 0 < op['ns'] < 3e6 * op['n']
    assert ' wait ' in output('bench', SMOLLM2, *sizes, '--device', 'null:2ms').decode()
    require_failure('bench', SMOLLM2, *sizes, '--device', 'cpu', names=b'cpu')


def test_store(folder):
    crashloop = Path(GODWIT).parents[1] / 'tests' / 'crashloop'
    store = folder / 'store'
    require_failure('store', 'stats', store, names=b'store')
    require_usage('store', 'nonsense', store)
    require_usage('store', 'stats')
    require_failure('fsck', store)
    subprocess.run([crashloop, '--cycles', '3', '--keep', store], check=True,
                   stdout=subprocess.DEVNULL)
    stats = parsed('store', 'stats', store, '--json')
    assert stats['blocks'] > 0 and stats['records'] <= 1, stats
    assert stats['used_bytes'] <= stats['data_bytes'] <= stats['written_total_bytes'] + (64 << 20)
    listed = [json.loads(line) for line in output('store', 'ls', store, '--json').splitlines()]
    assert sum('key' in row for row in listed) == stats['blocks'], (len(listed), stats)
    assert all(len(row['key']) == 64 for row in listed if 'key' in row)
    assert parsed('fsck', store, '--json')['clean']
    segment = min(store.glob('seg-*'))
    data = bytearray(segment.read_bytes())
    for at in range(0, len(data), 8192):    # something in every slot
        data[at] ^= 1
    segment.write_bytes(data)
    done = godwit('fsck', store)
    assert done.returncode == 1 and b'contents' in done.stdout + b'header', done
    assert b'--repair' in done.stderr
    found = json.loads(godwit('fsck', store, '--json').stdout)
    assert found['bad_blocks'] > 0 and not found['clean'], found
    assert b'repaired' in output('fsck', store, '--repair')
    assert parsed('fsck', store, '--json')['bad_blocks'] == 0
    assert parsed('store', 'evict', store, '--bytes', 1, '--json')['evicted_bytes'] > 0
    require_usage('store', 'evict', store)


def main():
    for model in (SMOLLM2, GEMMA3, QWEN2):
        if not model.exists():
            print(f'skipped: no {model.name}')
            return 77
    with tempfile.TemporaryDirectory() as name:
        for test, function in sorted(globals().items()):
            if test.startswith('test_') and (len(sys.argv) < 3 or sys.argv[2] in test):
                takes_folder = function.__code__.co_argcount
                function(*([Path(name)] if takes_folder else []))
                print(f'{test} passed', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
