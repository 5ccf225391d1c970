#!/usr/bin/env python3
# Many event streams at once against a running godwitd, most usefully one with --device null: are
# all events there, in order, and how late do they come?
#
# usage: tools/bench_http.py [--url http://127.0.0.1:8080] [--streams 1000] [--tokens 100]
#                            [--connect-per-s 500]
# Prints one JSON object. Status 1 if a stream was cut, lost an event or ended in an error.
import argparse
import json
import selectors
import socket
import sys
import time
from urllib.parse import urlparse


class Stream:
    """One request on its own connection, parsed as its bytes come."""

    def __init__(self, address, body):
        self.sock = socket.create_connection(address)
        head = (f'POST /v1/completions HTTP/1.1\r\nHost: {address[0]}\r\n'
                f'Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n')
        self.start = time.monotonic()
        self.sock.sendall(head.encode() + body)
        self.sock.setblocking(False)
        self.data = b''
        self.times = []
        self.tokens = 0
        self.usage = None
        self.problem = None
        self.done = False

    def feed(self, now):
        try:
            part = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as e:
            self.problem = str(e)
            self.done = True
            return
        if not part:
            self.problem = self.problem or 'closed early'
            self.done = True
            return
        self.data += part
        self.take_events(now)

    def take_events(self, now):
        # Whole events only; parsing each as JSON would measure this program instead of the server.
        whole, sep, self.data = self.data.rpartition(b'\n\n')
        if self.data.startswith(b'HTTP/') and b' 200 ' not in self.data[:20]:
            self.problem = self.data[:60].decode(errors='replace').strip()
            self.done = True
        n = whole.count(b'"finish_reason":null')
        self.tokens += n
        self.times += [now] * n
        if b'"error":{' in whole:
            self.problem = whole[whole.index(b'"error":{'):][:200].decode(errors='replace')
        at = whole.find(b'"usage":{')
        if at >= 0:
            event = whole[whole.rindex(b'data: ', 0, at) + 6:].split(b'\n', 1)[0]
            self.usage = json.loads(event)['usage']
        if b'data: [DONE]' in whole:
            self.done = True
            self.check()

    def check(self):
        if not self.usage:
            self.problem = self.problem or 'no usage'
        elif self.usage['completion_tokens'] < self.tokens:
            self.problem = self.problem or 'more events than tokens'


def quantile(values, q):
    return round(values[min(len(values) - 1, int(len(values) * q))], 4) if values else None


def run(args):
    url = urlparse(args.url)
    address = (url.hostname, url.port or 80)
    body = json.dumps({'prompt': 'Once upon a time', 'max_tokens': args.tokens, 'stream': True,
                       'temperature': 0, 'ignore_eos': True,
                       'stream_options': {'include_usage': True}}).encode()
    poll, streams, running = selectors.DefaultSelector(), [], 0
    began = time.monotonic()
    while len(streams) < args.streams or running:
        while (len(streams) < args.streams and
               len(streams) <= (time.monotonic() - began) * args.connect_per_s):
            s = Stream(address, body)
            poll.register(s.sock, selectors.EVENT_READ, s)
            streams.append(s)
            running += 1
        for key, _ in poll.select(0.01):
            s = key.data
            s.feed(time.monotonic())
            if s.done:
                poll.unregister(s.sock)
                s.sock.close()
                running -= 1
    return streams, time.monotonic() - began


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--url', default='http://127.0.0.1:8080')
    p.add_argument('--streams', type=int, default=1000)
    p.add_argument('--tokens', type=int, default=100)
    p.add_argument('--connect-per-s', type=float, default=500)
    args = p.parse_args()
    streams, took = run(args)
    problems = [s.problem for s in streams if s.problem]
    lost = sum(s.usage['completion_tokens'] - s.tokens for s in streams if s.usage)
    gaps = sorted(b - a for s in streams for a, b in zip(s.times, s.times[1:]))
    first = sorted(s.times[0] - s.start for s in streams if s.times)
    rates = sorted((len(s.times) - 1) / (s.times[-1] - s.times[0]) for s in streams
                   if len(s.times) > 1 and s.times[-1] > s.times[0])
    print(json.dumps({
        'streams': len(streams), 'seconds': round(took, 2),
        'events': sum(s.tokens for s in streams), 'lost_events': lost,
        'problems': len(problems), 'first_problem': problems[0] if problems else None,
        'tokens_per_s_each': {'least': quantile(rates, 0), 'median': quantile(rates, 0.5)},
        'first_token_s': {q: quantile(first, q) for q in (0.5, 0.99)},
        'gap_s': {q: quantile(gaps, q) for q in (0.5, 0.99, 0.999)},
        'gap_max_s': round(gaps[-1], 4) if gaps else None,
    }))
    sys.exit(bool(problems or lost))


main()
