# What the tests of godwitd share: starting it, talking to it, and counting what went wrong.
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

SKIP = 77


def model_path(file):
    """A test model, or None: $GODWIT_MODELS, else the cache folder of tools/model."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    folder = os.environ.get('GODWIT_MODELS') or os.path.join(cache, 'godwit/models')
    path = os.path.join(folder, file)
    return path if os.path.exists(path) else None


def need_model(file='SmolLM2-135M-Instruct.Q4_1.gguf'):
    path = model_path(file)
    if not path:
        print(f'skipped: no {file}')
        sys.exit(SKIP)
    return path


class Daemon:
    """godwitd on free ports; leaving the context checks that it drains and ends with `status`."""

    def __init__(self, *args, device='null', wait=True, env=None, nofile=None, model=None,
                 status=0):
        self.status = status
        command = [os.environ.get('GODWITD') or sys.argv[1], '--listen', '127.0.0.1:0', '--admin',
                   '127.0.0.1:0', '--device', device, '--model', model or 'smol=' + need_model(),
                   '--drain-timeout-s', '5', *args]
        if nofile:
            command = ['prlimit', f'--nofile={nofile}:{nofile}', *command]
        # Memory that the address sanitizer keeps from reuse would look like a leak of ours.
        asan = os.environ.get('ASAN_OPTIONS', '') + ':quarantine_size_mb=2'
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, 'ASAN_OPTIONS': asan, **(env or {})})
        self.log = []
        self.seen = threading.Condition()
        threading.Thread(target=self._read_log, daemon=True).start()
        self.port = int(self._wait_log(r'main listens on .*:(\d+)')[1])
        self.admin = int(self._wait_log(r'admin listens on .*:(\d+)')[1])
        if wait:
            self._wait_log(r'\bready$')

    def _read_log(self):
        for line in self.process.stderr:
            with self.seen:
                self.log.append(line.rstrip('\n'))
                self.seen.notify_all()
        with self.seen:
            self.log.append(None)
            self.seen.notify_all()

    def _wait_log(self, pattern, timeout_s=120):
        end = time.monotonic() + timeout_s
        with self.seen:
            while True:
                for line in self.log:
                    if line is not None and (m := re.search(pattern, line)):
                        return m
                if (self.log and self.log[-1] is None) or time.monotonic() > end:
                    raise RuntimeError('godwitd did not start:\n' + self.text())
                self.seen.wait(1)

    def text(self):
        return '\n'.join(line for line in self.log if line is not None)

    def stop(self, sig=signal.SIGTERM, timeout_s=30):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        got = self.stop()
        if kind is None and got != self.status:
            raise RuntimeError(f'godwitd ended with status {got}:\n{self.text()[-4000:]}')
        if kind is not None:
            print('log of godwitd:\n' + self.text()[-4000:])

    # ---- requests ----

    def request(self, method, path, body=None, headers=None, port=None, timeout_s=60):
        """(status, headers, body) of one request on its own connection."""
        c = http.client.HTTPConnection('127.0.0.1', port or self.port, timeout=timeout_s)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        c.request(method, path, data, headers or {})
        r = c.getresponse()
        text = r.read()
        c.close()
        return r.status, r.headers, text

    def post(self, path, body, **kw):
        """(status, object)"""
        status, _, text = self.request('POST', path, body, **kw)
        return status, json.loads(text)

    def get(self, path, **kw):
        status, _, text = self.request('GET', path, **kw)
        return status, text

    def chat(self, messages, **more):
        if isinstance(messages, str):
            messages = [{'role': 'user', 'content': messages}]
        return self.post('/v1/chat/completions', {'messages': messages, 'max_tokens': 4, **more})

    def complete(self, prompt, **more):
        return self.post('/v1/completions', {'prompt': prompt, 'max_tokens': 4, **more})

    def events(self, path, body, **kw):
        """The events of a stream, parsed; the last is '[DONE]'."""
        status, headers, text = self.request('POST', path, {**body, 'stream': True}, **kw)
        assert status == 200, text
        assert headers['Content-Type'].startswith('text/event-stream'), headers
        return parse_events(text)

    def raw(self, data, port=None, timeout_s=10, half_close=False):
        """Everything that comes back for these bytes until the server closes or says nothing."""
        s = self.connect(port)
        s.settimeout(timeout_s)
        got = b''
        try:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            while part := s.recv(65536):
                got += part
        except (socket.timeout, ConnectionError):
            pass
        s.close()
        return got

    def connect(self, port=None, rcvbuf=None):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.connect(('127.0.0.1', port or self.port))
        s.settimeout(30)
        return s

    def metric(self, name):
        """The sum of a metric over its labels."""
        _, text = self.get('/metrics', port=self.admin)
        found = re.findall(rf'^godwit_{name}(?:{{[^}}]*}})? (\S+)$', text.decode(), re.M)
        assert found, f'no metric {name}'
        return sum(map(float, found))

    def wait_idle(self, timeout_s=5):
        end = time.monotonic() + timeout_s
        while self.metric('num_requests_running') + self.metric('num_requests_waiting'):
            assert time.monotonic() < end, 'requests still run'
            time.sleep(0.02)


def parse_events(text):
    events = []
    for block in text.decode().split('\n\n'):
        if not block or block.startswith(':'):
            continue
        assert block.startswith('data: ') and '\n' not in block, block
        events.append('[DONE]' if block == 'data: [DONE]' else json.loads(block[6:]))
    return events


def request_bytes(method, path, body=b'', headers=()):
    head = [f'{method} {path} HTTP/1.1', 'Host: localhost', *headers]
    if body or method == 'POST':
        head.append(f'Content-Length: {len(body)}')
    return '\r\n'.join(head).encode() + b'\r\n\r\n' + body


def read_response(s, head_only=False):
    """(status, headers, body) of the next response on a socket; None when it was closed."""
    data = b''
    while b'\r\n\r\n' not in data:
        part = s.recv(1)
        if not part:
            return None
        data += part
    head, _, _ = data.partition(b'\r\n\r\n')
    lines = head.decode().split('\r\n')
    headers = {k.lower(): v.strip() for k, v in (line.split(':', 1) for line in lines[1:])}
    body = b''
    want = 0 if head_only else int(headers.get('content-length', 0))
    while len(body) < want:
        part = s.recv(want - len(body))
        if not part:
            break
        body += part
    return int(lines[0].split()[1]), headers, body


def closed(s, timeout_s):
    """True if the server closes within the time, whatever it sends before."""
    end = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(s, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            try:
                if not s.recv(65536):
                    return True
            except ConnectionError:
                return True
    return False


class Checks:
    """Named cases; all run, failures are counted."""

    def __init__(self):
        self.cases = []
        self.failed = 0

    def __call__(self, f):
        self.cases.append(f)
        return f

    def run(self, *args):
        for f in self.cases:
            if len(sys.argv) > 2 and sys.argv[2] not in f.__name__:
                continue
            try:
                f(*args)
            except Exception as e:          # the rest still runs
                self.failed += 1
                print(f'FAILED {f.__name__}: {type(e).__name__}: {str(e)[:600]}')
                traceback.print_tb(e.__traceback__)

    def finish(self):
        print(f'{len(self.cases) - self.failed} passed, {self.failed} failed')
        sys.exit(self.failed != 0)


def check_error(status, body, want, code=None, param=None):
    """The one shape of errors."""
    error = body['error'] if isinstance(body, dict) else json.loads(body)['error']
    assert status == want, (status, error)
    assert set(error) == {'message', 'type', 'param', 'code'}, error
    assert error['message'] and isinstance(error['message'], str), error
    assert error['code'] is None or isinstance(error['code'], str), error
    if code is not None:
        assert error['code'] == code, error
    if param is not None:
        assert error['param'] == param, error
    for secret in ('0x', '.c:', 'server/', '/root', '/home'):
        assert secret not in error['message'], error
    return error
