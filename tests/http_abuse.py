#!/usr/bin/env python3
# Clients that are broken or hostile, over raw sockets: the HTTP (B) and content (C) rows of the
# abuse matrix. After every case the canary, a fixed greedy prompt, must give the same text, and
# nothing may run or be left open.
#
# usage: tests/http_abuse.py GODWITD [CASE]
import json
import os
import random
import resource
import select
import socket
import struct
import time

from http_util import (Checks, Daemon, check_error, closed, read_response, request_bytes)

CHAT, COMPLETIONS = '/v1/chat/completions', '/v1/completions'
case = Checks()
cpu_case = Checks()
small_case = Checks()


def rss_kib(d):
    with open(f'/proc/{d.process.pid}/status') as f:
        return int(next(line for line in f if line.startswith('VmRSS')).split()[1])


def fds(d):
    return len(os.listdir(f'/proc/{d.process.pid}/fd'))


def canary(d):
    status, got = d.complete('The canary sings:', max_tokens=8, temperature=0, ignore_eos=True)
    assert status == 200, got
    text = got['choices'][0]['text']
    d.song = getattr(d, 'song', text)
    assert text == d.song, (text, d.song)


class WithCanary:
    """Runs the canary after each case of a set of checks."""

    def __init__(self, checks):
        self.checks = checks

    def run(self, d):
        canary(d)
        cases = self.checks.cases

        def both(f):
            def g(daemon):
                f(daemon)
                daemon.wait_idle()
                canary(daemon)
            g.__name__ = f.__name__
            return g
        self.checks.cases = [both(f) for f in cases]
        self.checks.run(d)


def chat_body(**more):
    return json.dumps({'messages': [{'role': 'user', 'content': 'hi'}], 'max_tokens': 4,
                       **more}).encode()


def first_answer(d, data, timeout_s=10, **kw):
    s = d.connect()
    s.settimeout(timeout_s)
    s.sendall(data)
    try:
        answer = read_response(s, **kw)
        return answer, s
    except socket.timeout:
        s.close()
        raise AssertionError('no answer')


def refused_and_closed(d, data, want, timeout_s=10):
    answer, s = first_answer(d, data, timeout_s)
    assert answer, 'closed without an answer'
    check_error(answer[0], answer[2], want)
    assert closed(s, 5), 'stayed open'
    s.close()


# ---- B: HTTP and clients -----------------------------------------------

@case
def b01_idle_half_open(d):
    many = [d.connect() for _ in range(1500)]
    for s in many[:700]:
        s.sendall(b'GET /health HTTP/1.1\r\nHost: local')
    start = time.monotonic()
    assert d.get('/health', port=d.admin)[0] == 200
    took = time.monotonic() - start
    assert took < 0.5, f'the admin port took {took:.3f} s'
    assert d.get('/health')[0] in (200, 429, 503)
    end = time.monotonic() + 6          # the header deadline is 2 s
    for s in many:
        assert closed(s, max(0.1, end - time.monotonic())), 'a half-open connection lives on'
        s.close()


@case
def b02_slow_loris(d):
    head, body, late = d.connect(), d.connect(), d.connect()
    late.sendall(request_bytes('GET', '/health'))
    assert read_response(late)[0] == 200        # keep-alive: its next head has the same deadline
    body.sendall(request_bytes('POST', CHAT).replace(b'Length: 0', b'Length: 1000'))
    text, ended = b'GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ' + b'a' * 1000, {}
    start = time.monotonic()
    for i in range(100):
        for name, s in (('head', head), ('body', body), ('late', late)):
            try:
                s.send(text[i:i + 1])
                if select.select([s], [], [], 0)[0] and not s.recv(4096):
                    ended.setdefault(name, time.monotonic() - start)
            except OSError:
                ended.setdefault(name, time.monotonic() - start)
        if len(ended) == 3:
            break
        time.sleep(0.1)
    assert len(ended) == 3 and max(ended.values()) < 5, ended


@case
def b03_slow_reader(d):
    before = rss_kib(d)
    body = json.dumps({'prompt': 'x', 'max_tokens': 1500, 'n': 8, 'stream': True,
                       'ignore_eos': True}).encode()
    slow = [d.connect(rcvbuf=4096) for _ in range(4)]
    for s in slow:
        s.sendall(request_bytes('POST', COMPLETIONS, body))
    time.sleep(0.5)
    start = time.monotonic()
    canary(d)                           # another stream is not held up
    assert time.monotonic() - start < 2
    time.sleep(4)                       # the write timeout is 3 s
    d.wait_idle()
    assert rss_kib(d) - before < 300 << 10, rss_kib(d) - before
    for s in slow:
        s.settimeout(5)
        try:
            while s.recv(1 << 20):
                pass
        except ConnectionError:
            pass                        # ended either way: cut, after what was buffered
        s.close()


@case
def b05_half_close(d):
    assert b' 200 ' in d.raw(request_bytes('GET', '/health'), half_close=True)
    # What waits for the engine is given up; the connection ends at once either way.
    start = time.monotonic()
    d.raw(request_bytes('POST', CHAT, chat_body(max_tokens=2000, ignore_eos=True)), half_close=True)
    assert time.monotonic() - start < 5


@case
def b07_reconnect_storm(d):
    def storm(n):
        for _ in range(n):
            s = d.connect()
            s.sendall(request_bytes('GET', '/health', headers=['Connection: close']))
            while s.recv(4096):
                pass
            s.close()
    storm(300)
    before = rss_kib(d), fds(d)
    storm(1500)
    after = rss_kib(d), fds(d)
    assert after[0] - before[0] < 8 << 10 and after[1] - before[1] < 8, (before, after)


@case
def b09_large_heads(d):
    assert d.request('GET', '/health', headers={'X-A': 'a' * 8000})[0] == 200
    for n in (20000, 40000, 200000):
        refused_and_closed(d, request_bytes('GET', '/health', headers=['X-A: ' + 'a' * n]), 431)
    refused_and_closed(d, request_bytes('GET', '/health', headers=['X-A: b'] * 1000), 431)
    refused_and_closed(d, request_bytes('GET', '/' + 'a' * 9000), 414)
    refused_and_closed(d, request_bytes('GET', '/' + 'a' * 40000), 414)


@case
def b09_large_later_heads(d):
    for headers in (['X-A: ' + 'a' * 18000], ['X-A: b'] * 200):
        s = d.connect()
        s.sendall(request_bytes('GET', '/health'))
        assert read_response(s)[0] == 200
        s.sendall(request_bytes('GET', '/health', headers=headers))
        status, _, body = read_response(s)
        check_error(status, body, 431)
        assert closed(s, 5)
        s.close()


BAD_HEADS = [
    ['Content-Length: 2', 'Transfer-Encoding: chunked'], ['Content-Length: 2', 'Content-Length: 2'],
    ['Content-Length: 2', 'Content-Length: 3'], ['Content-Length: -1'], ['Content-Length: +5'],
    ['Content-Length: 18446744073709551616'], ['Content-Length: 2, 2'], ['Content-Length: a'],
    ['Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'], ['Transfer-Encoding: xchunked'],
    ['Transfer-Encoding: gzip, chunked'], ['Host: evil'], ['X-A: a\x01b'], ['X-A: a\x00b'],
    ['X A: b'], ['X-A : b'], [': b'],
]


@case
def b10_smuggling_shapes(d):
    second = request_bytes('GET', '/v1/models')
    for headers in BAD_HEADS:
        head = '\r\n'.join(['POST /v1/chat/completions HTTP/1.1', 'Host: localhost', *headers])
        data = head.encode() + b'\r\n\r\n{}0\r\n\r\n' + second
        got = d.raw(data)
        assert got.startswith(b'HTTP/1.1 400 '), (headers, got[:200])
        assert got.count(b'HTTP/1.1 ') == 1, (headers, got)
    for data in (b'GET /health HTTP/1.1\r\n\r\n', b'GET /health HTTP/1.1\nHost: localhost\n\n',
                 b'GET /health HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n',
                 b'GET /health HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n',
                 b'GET /he\x00alth HTTP/1.1\r\nHost: localhost\r\n\r\n', b'GET /health\r\n\r\n'):
        got = d.raw(data + second)
        assert got.startswith(b'HTTP/1.1 400 ') and got.count(b'HTTP/1.1 ') == 1, (data, got[:200])
    assert d.raw(b'GET / HTTP/3.0\r\nHost: localhost\r\n\r\n').startswith(b'HTTP/1.1 505 ')


@case
def b10_smuggling_shapes_later(d):
    for headers in BAD_HEADS[:10]:
        s = d.connect()
        s.settimeout(5)
        s.sendall(request_bytes('GET', '/health'))
        assert read_response(s)[0] == 200
        head = '\r\n'.join(['POST /v1/chat/completions HTTP/1.1', 'Host: localhost', *headers])
        s.sendall(head.encode() + b'\r\n\r\n{}0\r\n\r\n' + request_bytes('GET', '/v1/models'))
        got = b''
        try:
            while part := s.recv(65536):
                got += part
        except ConnectionError:
            pass
        assert not got or got.startswith((b'HTTP/1.1 400 ', b'HTTP/1.1 413 ')), (headers, got[:200])
        assert b'"object":"list"' not in got, (headers, got)
        s.close()


def chunked(*chunks, end=b'0\r\n\r\n'):
    head = f'POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n'
    return head.encode() + b''.join(chunks) + end


@case
def b11_chunked(d):
    body = chat_body()
    a, b = body[:10], body[10:]
    good = b'%x\r\n%b\r\n%X\r\n%b\r\n' % (len(a), a, len(b), b)
    (status, _, text), s = first_answer(d, chunked(good))
    assert status == 200, text
    s.close()
    # Extensions are rare enough that libmicrohttpd 1.0.1 misreads them: answered, or refused.
    (status, _, text), s = first_answer(d, chunked(good.replace(b'a\r\n', b'a;x=y\r\n', 1)))
    assert status in (200, 400), text
    s.close()
    for bad in (chunked(b'zz\r\n'), chunked(b'-1\r\n'), chunked(b'ffffffffffffffffffff\r\nx'),
                chunked(b'5\r\nabcdefgh\r\n'), chunked(b'5;' + b'a' * 100000 + b'\r\n'),
                chunked(b'5\r\nab', end=b'')):
        got = d.raw(bad, timeout_s=6)   # refused, or closed at the deadline of bodies
        assert b' 200 ' not in got[:20], (bad[:150], got[:200])
    big = b'100000\r\n' + b'x' * 0x100000 + b'\r\n'
    got = d.raw(chunked(*[big] * 20), timeout_s=6)
    assert not got or got.startswith(b'HTTP/1.1 413 '), got[:200]


@case
def b12_large_bodies(d):
    before = rss_kib(d)
    for n in (16 * 1024 * 1024 + 1, 10 ** 12, 2 ** 64 - 1):
        start = time.monotonic()
        data = request_bytes('POST', CHAT).replace(b'Length: 0', b'Length: %d' % n)
        refused_and_closed(d, data, 413)
        assert time.monotonic() - start < 2
    assert rss_kib(d) - before < 4 << 10
    # Less than was promised: the deadline ends it.
    s = d.connect()
    s.sendall(request_bytes('POST', CHAT).replace(b'Length: 0', b'Length: 1000') + b'{}')
    assert closed(s, 5)
    s.close()
    # More than was promised is another request, and none.
    got = d.raw(request_bytes('POST', CHAT).replace(b'Length: 0', b'Length: 2') + b'{}' + b'x' * 50,
                timeout_s=4)
    assert got.startswith(b'HTTP/1.1 400 ') and b'200' not in got, got


@case
def b13_pipelining(d):
    want, data = [], b''
    for i in range(50):
        if i % 10 == 3:
            data += request_bytes('POST', CHAT, chat_body())
            want.append(200)
        elif i % 7 == 5:
            data += request_bytes('GET', f'/nope{i}')
            want.append(404)
        elif i % 10 == 8:
            data += request_bytes('POST', CHAT, b'{"messages":[]}')
            want.append(400)
        else:
            data += request_bytes('GET', '/health')
            want.append(200)
    s = d.connect()
    s.sendall(data)
    got = [read_response(s)[0] for _ in want]
    assert got == want, got
    s.close()


@case
def b14_garbage(d):
    tls = bytes.fromhex('16030100c8010000c40303') + bytes(190)
    for data in (tls, b'\x00' * 100, b'SSH-2.0-x\r\n', b'\xff\xfe' * 50, b'\r\n\r\n',
                 b'*1\r\n$4\r\n'):
        got = d.raw(data, timeout_s=6)
        assert not got or got.startswith(b'HTTP/1.1 400 '), (data[:20], got[:100])
    for _ in range(200):                # a port scan
        d.connect().close()


@case
def b17_many_bad_keys(d):
    lines = len(d.log)
    for i in range(300):
        d.request('GET', '/v1/models', headers={'Authorization': f'Bearer wrong-{i}'})
    assert len(d.log) - lines < 30 and not any('wrong-' in line for line in d.log if line)


@case
def b19_methods(d):
    for path, port in (('/health', d.port), ('/ready', d.port), ('/v1/models', d.port),
                       ('/metrics', d.admin)):
        s = d.connect(port)
        s.sendall(request_bytes('HEAD', path))
        status, headers, _ = read_response(s, head_only=True)
        assert status == 200 and int(headers['content-length']) > 0, (path, headers)
        s.sendall(request_bytes('GET', path, headers=['Range: bytes=0-1', 'Expect: 100-continue']))
        assert read_response(s)[0] in (200, 100)
        s.close()
    for path in (CHAT, COMPLETIONS, '/tokenize', '/health'):
        status, headers, _ = d.request('OPTIONS', path)
        assert status == 204 and 'Allow' in headers, (path, status)
    s = d.connect()
    s.sendall(request_bytes('POST', CHAT, headers=['Expect: 100-continue'])
              .replace(b'Length: 0', b'Length: %d' % len(chat_body())))
    assert read_response(s)[0] == 100
    s.sendall(chat_body())
    assert read_response(s)[0] == 200
    s.close()


# ---- C: content --------------------------------------------------------

@case
def c01_depth(d):
    for n in (65, 1000, 10 ** 6):
        for body in (b'{"messages":' + b'[' * n, b'{"a":' * n,
                     b'{"a":' + b'[' * n + b']' * n + b'}'):
            status, _, text = d.request('POST', CHAT, body[:10 ** 7])
            check_error(status, text, 400, 'invalid_json')


@case
def c02_many_values(d):
    before = rss_kib(d)
    status, _, text = d.request('POST', CHAT, b'{"a":[' + b'0,' * 5000000 + b'0]}')
    check_error(status, text, 400, 'invalid_json')
    assert rss_kib(d) - before < 60 << 10, rss_kib(d) - before


@case
def c03_many_keys(d):
    keys = ','.join(f'"k{i}":1' for i in range(100000))
    start = time.monotonic()
    status, _, text = d.request('POST', CHAT, ('{"a":{%s}}' % keys).encode())
    check_error(status, text, 400)
    status, _, text = d.request('POST', CHAT, ('{%s}' % keys).encode())
    check_error(status, text, 400)
    assert time.monotonic() - start < 5
    body = b'{"Messages":[{"role":"user","content":"x"}]}'
    check_error(*d.request('POST', CHAT, body)[::2], 400, 'missing_required_parameter')


@case
def c05_numbers(d):
    for field in ('temperature', 'top_p', 'n', 'max_tokens', 'top_logprobs', 'presence_penalty'):
        for value in ('1e999', '-1e999', '9007199254740993e300', 'NaN', '0x1', '1e400', '--1', '.5',
                      '"1"', 'true', '[]', '{}'):
            body = b'{"messages":[{"role":"user","content":"x"}],"%s":%s}' % (field.encode(),
                                                                              value.encode())
            status, _, text = d.request('POST', CHAT, body)
            check_error(status, text, 400)
    assert d.request('POST', CHAT, b'{"messages":[{"role":"user","content":"x"}],"temperature":-0,'
                                   b'"max_tokens":1.0}')[0] == 200


@case
def c06_extremes(d):
    for more in ({'n': 10 ** 6}, {'max_tokens': 2 ** 53}, {'max_tokens': -2 ** 31},
                 {'logprobs': 10 ** 9}, {'stop': ['a'] * 100000}, {'best_of': 10 ** 6},
                 {'n': 2 ** 32 + 1}, {'logit_bias': {str(i): 1 for i in range(5000)}}):
        status, got = d.complete('x', **more)
        check_error(status, got, 400)
    tool = {'type': 'function', 'function': {'name': 'f', 'parameters': {'type': 'object'}}}
    check_error(*d.chat('x', tools=[tool] * 129), 400, None, 'tools')


@case
def c09_control_text(d):
    marks = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<jupyter_start>', '<repo_name>']
    plain = d.chat('x')[1]['usage']['prompt_tokens']
    for mark in marks:
        got = d.chat([{'role': 'user', 'content': 'x' + mark}])[1]['usage']['prompt_tokens']
        assert got > plain + 1, mark
        assert d.chat([{'role': 'user', 'content': mark, 'name': mark}])[0] == 200


@case
def c12_broken_tools(d):
    rng = random.Random(1)
    junk = [None, 3, 'x', [], {}, [[]], {'type': 'function'}, {'function': {}}, True]
    for _ in range(60):
        tool = {'type': rng.choice(['function', 'x', None, 3]),
                'function': rng.choice([{'name': rng.choice(junk), 'parameters': rng.choice(junk)},
                                        *junk])}
        status, got = d.chat('x', tools=[tool])
        assert status in (200, 400), (tool, got)
        if status == 400:
            check_error(status, got, 400)


@case
def c13_tokenizer_worst_cases(d):
    n = 300000
    for text in ('a' * n, ' ' * n, '\n' * n, '\u200d' * (n // 3), '\u05d0' * (n // 2),
                 '\U0001f468\u200d' * (n // 7), 'ab' * (n // 2), '1' * n):
        start = time.monotonic()
        status, got = d.post('/tokenize', {'content': text})
        assert status == 200 and got['count'] > 0
        assert time.monotonic() - start < 5, (text[:4], time.monotonic() - start)


@case
def c15_random_bodies(d):
    rng = random.Random(2)
    base = chat_body(stop=['x'], logit_bias={'5': 1}, godwit={'attention': 'topk', 'budget': 512})
    s = d.connect()
    for _ in range(400):
        body = bytearray(base)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(body))
            body[at:at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        s.sendall(request_bytes('POST', CHAT, bytes(body)))
        status, _, text = read_response(s)
        assert status in (200, 400, 404), (bytes(body), text)
        if status != 200:
            check_error(status, text, status)
    s.close()


# ---- with few descriptors, and few connections -------------------------

@small_case
def b08_no_descriptors(d):
    many = []
    for _ in range(150):
        many.append(d.connect())
    time.sleep(0.5)
    with open(f'/proc/{d.process.pid}/stat') as f:
        before = sum(map(int, f.read().split()[13:15]))
    time.sleep(1)
    with open(f'/proc/{d.process.pid}/stat') as f:
        used = sum(map(int, f.read().split()[13:15])) - before
    assert used < 50, f'spins: {used} ticks of 100 in a second'
    for s in many:
        s.close()
    end = time.monotonic() + 10
    while True:
        try:
            if d.get('/health', timeout_s=2)[0] == 200:
                break
        except OSError:
            pass
        assert time.monotonic() < end, 'does not recover'
        time.sleep(0.2)


def connection_limits():
    with Daemon('--connections-max', '50', '--connections-per-address-max', '20', '--http-threads',
                '1') as d:
        held = []
        for _ in range(20):
            s = d.connect()
            s.sendall(request_bytes('GET', '/health'))
            assert read_response(s)[0] == 200
            held.append(s)
        s = d.connect()
        status, headers, body = read_response(s)
        check_error(status, body, 429, 'too_many_connections')
        assert int(headers['retry-after']) > 0 and closed(s, 3)
        assert d.get('/health', port=d.admin)[0] == 200 and d.metric('http_refused_total') >= 1
        for s in held:
            s.close()
        time.sleep(0.3)
        assert d.get('/health')[0] == 200


# ---- with a model that takes its time ----------------------------------

@cpu_case
def b04_disconnect(d):
    body = json.dumps({'prompt': 'Tell me a long story.', 'max_tokens': 4000, 'stream': True,
                       'ignore_eos': True}).encode()
    long = json.dumps({'prompt': [5] * 3000, 'max_tokens': 500}).encode()
    whole = body.replace(b'true', b'false', 1)
    for name, data, n_first in (('decode', body, 600), ('prefill', long, 0), ('whole', whole, 0)):
        for reset in (False, True):
            s = d.connect()
            s.sendall(request_bytes('POST', COMPLETIONS, data))
            got = b''
            while len(got) < n_first:
                got += s.recv(4096)
            end = time.monotonic() + 10
            while not d.metric('num_requests_running') and time.monotonic() < end:
                time.sleep(0.01)
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            s.close()
            start = time.monotonic()
            d.wait_idle(10)
            took = time.monotonic() - start
            print(f'b04 {name} reset={reset}: free after {took * 1000:.0f} ms')
            assert took < 10, took          # a step of a prompt, and a loaded machine


@cpu_case
def b04_disconnect_queued(d):
    """One that waits leaves; the one that runs is not disturbed."""
    body = json.dumps({'prompt': 'One', 'max_tokens': 150, 'stream': True, 'temperature': 0,
                       'ignore_eos': True}).encode()
    running = d.connect()
    running.sendall(request_bytes('POST', COMPLETIONS, body))
    waiting = [d.connect() for _ in range(6)]
    for s in waiting:
        s.sendall(request_bytes('POST', COMPLETIONS, body))
    time.sleep(0.3)
    for s in waiting:
        s.close()
    data = b''
    while not data.endswith(b'0\r\n\r\n'):
        data += running.recv(65536)
    assert data.count(b'"finish_reason":null') >= 140 and b'[DONE]' in data
    running.close()


@cpu_case
def e08_drain(d):
    """SIGTERM: what runs goes on to its end, new requests hear 503, the status is 0."""
    s = d.connect()
    body = json.dumps({'prompt': 'One', 'max_tokens': 60, 'stream': True,
                       'ignore_eos': True}).encode()
    s.sendall(request_bytes('POST', COMPLETIONS, body))
    s.recv(100)
    d.process.terminate()
    time.sleep(0.2)
    status, headers, text = d.request('POST', COMPLETIONS, {'prompt': 'x'})
    check_error(status, text, 503, 'server_shutting_down')
    assert int(headers['Retry-After']) > 0
    assert d.get('/ready', port=d.admin)[0] == 503 and d.get('/health', port=d.admin)[0] == 200
    data = b''
    while part := s.recv(65536):
        data += part
    assert b'[DONE]' in data and b'"error"' not in data
    assert d.process.wait(20) == 0


def drain_timeout():
    """After the drain timeout streams end with an error event."""
    with Daemon('--drain-timeout-s', '1', device='cpu') as d:
        s = d.connect()
        body = json.dumps({'prompt': 'One', 'max_tokens': 5000, 'stream': True,
                           'ignore_eos': True}).encode()
        s.sendall(request_bytes('POST', COMPLETIONS, body))
        s.recv(100)
        start = time.monotonic()
        d.process.terminate()
        data = b''
        while part := s.recv(65536):
            data += part
        assert b'"code":"server_shutting_down"' in data and b'[DONE]' in data, data[-300:]
        assert d.process.wait(20) == 0 and time.monotonic() - start < 8


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    with Daemon('--ctx', '2048', '--header-timeout-s', '2', '--body-timeout-s', '2',
                '--write-timeout-s', '3') as d:
        WithCanary(case).run(d)
    with Daemon('--header-timeout-s', '2', '--idle-timeout-s', '3', '--http-threads', '1',
                nofile=64) as d:
        WithCanary(small_case).run(d)
    with Daemon('--seqs-max', '2', '--drain-timeout-s', '60', device='cpu') as d:
        cpu_case.run(d)
    for f in (connection_limits, drain_timeout):
        check = Checks()
        check(f)
        check.run()
        case.cases.append(f)
        case.failed += check.failed
    case.cases += cpu_case.cases + small_case.cases
    case.failed += cpu_case.failed + small_case.failed
    case.finish()


if __name__ == '__main__':
    main()
