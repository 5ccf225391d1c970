#!/usr/bin/env python3
# Shows with real HTTP calls what the block store is for:
#   1. A long chat; the daemon is killed (kill -9) in the middle of an answer; after a new start the
#      chat goes on, with its beginning read from disk, and gives the answer that was cut off.
#   2. A session that is PARTS times larger than the memory it may use answers with the very text
#      of the run that may use any: computed under the cap, and once more after a restart, when
#      only its digests are loaded and the pages come as attention chooses them.
# Status 1 if a text differs or nothing came from disk. What it measured goes to stdout.
import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK_TOKENS = 64
FILES = {'smollm2': 'SmolLM2-135M-Instruct.Q4_1.gguf', 'gemma3': 'gemma-3-270m-q4_k_m.gguf',
         'qwen': 'qwen2.5-coder-0.5b-instruct.gguf'}


def model_path(name):
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    path = Path(os.environ.get('GODWIT_MODELS') or cache / 'godwit/models') / FILES[name]
    if not path.exists():
        print(f'skipped: no {path}; tools/model fetches it')
        sys.exit(77)
    return path


class Daemon:
    def __init__(self, args, store, *more):
        command = [args.godwitd, '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0',
                   '--device', args.device, '--model', f'm={model_path(args.model)}',
                   '--attention', args.attention, '--budget', str(args.budget), '--kv-store', store,
                   '--ctx', str(args.ctx), '--request-timeout-s', '3600', *more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        log = []
        for line in self.process.stderr:
            log.append(line)
            if re.search(r'\bready$', line.rstrip()):
                break
        else:
            sys.exit('godwitd did not start:\n' + ''.join(log))
        text = ''.join(log)
        self.port, self.admin = (int(re.search(rf'{name} listens on .*:(\d+)', text)[1])
                                 for name in ('main', 'admin'))
        # It goes on logging; nobody reads that, so it must not fill the pipe.
        self.drain = subprocess.Popen(['cat'], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def metric(self, name):
        connection = http.client.HTTPConnection('127.0.0.1', self.admin, timeout=60)
        connection.request('GET', '/metrics')
        text = connection.getresponse().read().decode()
        found = re.search(rf'^godwit_{name}(?:{{[^}}]*}})? (\S+)$', text, re.M)
        return float(found[1]) if found else 0.0

    def ask(self, path, body, kill_after=None):
        """The answer's text, its usage, the first token's time; killed after so many events."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=3600)
        body = {'model': 'm', 'temperature': 0, 'stream': True,
                'stream_options': {'include_usage': True}, **body}
        start = time.monotonic()
        connection.request('POST', path, json.dumps(body), {'content-type': 'application/json'})
        response = connection.getresponse()
        if response.status != 200:
            sys.exit(f'{path}: {response.status}: {response.read().decode()}')
        text, usage, first_ms, events = '', None, None, 0
        while line := response.readline():
            if not line.startswith(b'data: {'):
                continue
            event = json.loads(line[6:])
            if 'error' in event:
                sys.exit(f'{path}: {event["error"]["message"]}')
            usage = event.get('usage') or usage
            for choice in event['choices']:
                piece = choice.get('text') or choice.get('delta', {}).get('content') or ''
                if piece and first_ms is None:
                    first_ms = (time.monotonic() - start) * 1e3
                text += piece
            events += 1
            if kill_after and events >= kill_after:
                self.kill()
                break
        return text, usage, first_ms

    def wait_stored(self):
        end = time.monotonic() + 120
        while self.metric('kv_store_queued_blocks') > 0 and time.monotonic() < end:
            time.sleep(0.05)

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        self.process.wait(60)
        self.drain.wait(60)


def tell(what, usage, first_ms):
    g, generated = usage['godwit'], usage['completion_tokens']
    print(f'{what}: {usage["prompt_tokens"]} tokens, '
          f'{usage["prompt_tokens_details"]["cached_tokens"]} of them cached, first token after '
          f'{first_ms:.0f} ms, decode {g["decode_ms"] / max(generated - 1, 1):.1f} ms a token; '
          f'{g["page_faults"]} page faults, {g["page_bytes"] / 2**20:.1f} MiB, '
          f'waited {g["page_wait_ms"]:.0f} ms', flush=True)


def require(condition, what):
    if not condition:
        sys.exit(f'FAILED: {what}')


def long_text(n_words):
    """No word twice in the same company, so that no text is like another one's part."""
    names = ('river', 'stone', 'lamp', 'wheel', 'cloud', 'paper', 'horse', 'glass', 'reed', 'knot')
    return ' '.join(f'{names[i % 10]}{names[i * 7 // 10 % 10]} {i}' for i in range(n_words // 2))


def chat_goes_on(args, store):
    chat = [{'role': 'user', 'content': 'Remember this list. ' + long_text(args.chat_words)},
            {'role': 'assistant', 'content': 'I will.'},
            {'role': 'user', 'content': 'Tell me a story about it.'}]
    body = {'messages': chat, 'max_tokens': 40}
    daemon = Daemon(args, store)
    whole, usage, first_ms = daemon.ask('/v1/chat/completions', body)
    tell('chat', usage, first_ms)
    daemon.wait_stored()
    part, _, _ = daemon.ask('/v1/chat/completions', body, kill_after=10)
    print(f'kill -9 after {part!r}')
    daemon = Daemon(args, store)
    again, usage, first_ms = daemon.ask('/v1/chat/completions', body)
    tell('after the new start', usage, first_ms)
    require(again == whole and whole.startswith(part), 'another answer than before the kill')
    require(usage['prompt_tokens_details']['cached_tokens'] > 0, 'nothing came from disk')
    daemon.kill(signal.SIGTERM)


def larger_than_memory(args, folder):
    words = args.tokens * 10 // 34          # of this kind have about 3.4 tokens with their numbers
    body = {'prompt': long_text(words), 'max_tokens': args.answer, 'ignore_eos': True}
    daemon = Daemon(args, f'{folder}/all')
    whole, usage, first_ms = daemon.ask('/v1/completions', body)
    tell('with all memory', usage, first_ms)
    blocks = -(-(usage['prompt_tokens'] + usage['completion_tokens']) // BLOCK_TOKENS)
    cap = int(blocks * daemon.metric('kv_block_bytes') / args.parts)
    daemon.kill(signal.SIGTERM)

    daemon = Daemon(args, f'{folder}/part', '--kv-memory-bytes', str(cap))
    print(f'{blocks} blocks; {cap / 2**20:.1f} MiB of memory, 1/{args.parts} of them', flush=True)
    text, usage, first_ms = daemon.ask('/v1/completions', body)
    tell('under the cap', usage, first_ms)
    require(text == whole, 'another text than with all memory')
    require(daemon.metric('kv_page_fetched_total') > 0, 'no page came from disk')
    daemon.wait_stored()
    daemon.kill()

    daemon = Daemon(args, f'{folder}/part', '--kv-memory-bytes', str(cap))
    text, usage, first_ms = daemon.ask('/v1/completions', body)
    tell('parked, after a new start', usage, first_ms)
    require(text == whole, 'another text of the parked session')
    require(usage['prompt_tokens_details']['cached_tokens'] > 0, 'it was computed again')
    text, usage, first_ms = daemon.ask('/v1/completions', body)
    hits, faults = daemon.metric('kv_page_hits_total'), daemon.metric('kv_page_fetched_total')
    tell(f'once more ({hits / max(hits + faults, 1):.1%} of the pages read were in memory)', usage,
         first_ms)
    require(text == whole, 'another text the second time')
    daemon.kill(signal.SIGTERM)


def main():
    parser = argparse.ArgumentParser(description='What the block store is for, over HTTP.')
    parser.add_argument('--godwitd', default=str(ROOT / 'build/server/godwitd'))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--model', choices=FILES, default='smollm2')
    parser.add_argument('--attention', default='topk')
    parser.add_argument('--budget', type=int, default=1024)
    parser.add_argument('--ctx', type=int, default=8192)
    parser.add_argument('--tokens', type=int, default=6000, help='of the large session')
    parser.add_argument('--answer', type=int, default=32, help='tokens of its answer')
    parser.add_argument('--parts', type=int, default=10)
    parser.add_argument('--chat-words', type=int, default=400)
    parser.add_argument('--store', help='folder for the stores; a new one in TMPDIR otherwise')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.store) as folder:
        chat_goes_on(args, f'{folder}/chat')
        larger_than_memory(args, folder)
    print('passed')


if __name__ == '__main__':
    main()
