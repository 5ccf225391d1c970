#!/usr/bin/env python3
# godwitd as a service: what it tells the service manager, sockets it is handed, signals, exit
# statuses, and what it refuses to start with.
#
# usage: tests/http_daemon.py GODWITD [CASE]
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from http_util import Checks, Daemon, check_error, need_model, read_response, request_bytes

case = Checks()
GODWITD = os.environ.get('GODWITD') or sys.argv[1]


def run(*args, timeout_s=60):
    r = subprocess.run([GODWITD, *args], capture_output=True, text=True, timeout=timeout_s)
    return r.returncode, r.stdout, r.stderr


def spawn_with(sockets, names, *args):
    """The protocol of socket activation: descriptors from 3 on, named in the environment."""
    pid = os.fork()
    if pid:
        return pid
    high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in sockets]
    for i, fd in enumerate(high):
        os.dup2(fd, 3 + i)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)),
                      LISTEN_FDNAMES=names)
    os.execv(GODWITD, [GODWITD, '--model', 'a=' + need_model(), '--device', 'null', *args])


class Manager:
    """The socket of a service manager."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = self.folder.name + '/notify'
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.folder.cleanup()

    def wait(self, text, timeout_s=30):
        """All messages up to one that has this text."""
        seen = []
        self.socket.settimeout(timeout_s)
        while not any(text in m for m in seen):
            seen.append(self.socket.recv(4096).decode())
        return seen


@case
def refuses_to_start():
    model = need_model()
    for args, word in (
            ([], 'model'), (['--nope'], '--nope'), (['--model', '/nowhere.gguf'], 'nowhere'),
            (['--model', GODWITD], 'GGUF'), (['--model', model, '--device', 'abacus'], 'abacus'),
            (['--model', model, '--attention', 'magic'], 'magic'),
            (['--model', model, '--listen', '127.0.0.1'], '127.0.0.1'),
            (['--model', model, '--listen', '0.0.0.0:0'], 'api-key-file'),
            (['--model', model, '--api-key-file', '/nowhere'], 'nowhere'),
            (['--model', 'a=' + model, '--model', 'a=' + model], 'twice'),
            (['--model', model, '--model-alias', 'x=y'], 'model-alias')):
        more = [] if '--listen' in args else ['--listen', '127.0.0.1:0']
        status, out, err = run('--admin', '127.0.0.1:0', *more, *args)
        last = err.strip().split('\n')[-1]
        assert status == 78 and word in last and not out, (args, status, err)
        assert sum(' error ' in line for line in err.split('\n')) == 1, err


@case
def help_and_version():
    status, out, err = run('--help')
    assert status == 0 and '--model' in out and '--drain-timeout-s' in out and not err
    assert run('--version')[0] == 0


@case
def public_with_permission():
    with Daemon('--listen', '0.0.0.0:0', '--allow-public') as d:
        assert d.get('/health')[0] == 200
        # Whoever listens in public has other names than this machine's own.
        assert d.request('GET', '/health', headers={'Host': 'llm.example'})[0] == 200


@case
def hosts_of_a_proxy():
    with Daemon('--allow-host', 'llm.example, Chat.Example') as d:
        for host, want in (('llm.example', 200), ('LLM.example:443', 200), ('chat.example', 200),
                           ('localhost', 200), ('example', 403), ('evil.example', 403)):
            for port in (d.port, d.admin):
                status, _, text = d.request('GET', '/health', headers={'Host': host}, port=port)
                assert status == want, (host, status, text)


@case
def any_host_through_a_unix_socket():
    with tempfile.TemporaryDirectory() as folder:
        path = folder + '/api'
        with socket.socket(socket.AF_UNIX) as api:
            api.bind(path)
            api.listen()
            pid = spawn_with([api], 'main', '--admin', 'off')
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(30)
                s.connect(path)
                s.sendall(request_bytes('GET', '/health').replace(b'localhost', b'llm.example'))
                assert read_response(s)[0] in (200, 503)    # 503: it still loads
        finally:
            os.kill(pid, signal.SIGTERM)
            status = os.waitpid(pid, 0)[1]
        assert status == 0, status


@case
def configuration_file():
    with tempfile.NamedTemporaryFile('w', suffix='.conf') as f:
        f.write('model-alias = *\nbody-max-bytes = 4K\n')
        f.flush()
        with Daemon('--config', f.name) as d:
            assert d.chat('hi', model='whatever')[0] == 200
            status, got = d.chat('x' * 5000)
            check_error(status, got, 413)


@case
def any_name_of_a_model():
    name = 'a"b\\c'
    with Daemon(model=name + '=' + need_model()) as d:
        assert json.loads(d.get('/v1/models')[1])['data'][0]['id'] == name
        text = d.get('/metrics', port=d.admin)[1].decode()
        assert 'godwit_kv_blocks{model="a\\"b\\\\c"} ' in text, text


@case
def tells_the_manager():
    with Manager() as m:
        env = {'NOTIFY_SOCKET': m.path, 'WATCHDOG_USEC': '2000000'}
        d = Daemon(env=env)
        m.wait('READY=1')
        m.wait('WATCHDOG=1')
        m.wait('WATCHDOG=1')            # also while nobody asks
        d.process.terminate()
        m.wait('STOPPING=1')
        assert d.process.wait(20) == 0


@case
def a_stopped_engine_feeds_no_watchdog():
    with Manager() as m, Daemon(env={'NOTIFY_SOCKET': m.path, 'WATCHDOG_USEC': '2000000'}) as d:
        m.wait('WATCHDOG=1')
        d.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        m.socket.setblocking(False)
        try:
            while m.socket.recv(4096):
                pass
        except BlockingIOError:
            pass
        d.process.send_signal(signal.SIGCONT)
        m.wait('WATCHDOG=1')


@case
def a_standstill_cuts_no_stream():
    body = {'prompt': 'Once upon a time', 'max_tokens': 1000, 'temperature': 0, 'ignore_eos': True}
    got = []
    with Daemon('--write-timeout-s', '1') as d:
        def read():
            got.append(len(d.events('/v1/completions', body)))
        threads = [threading.Thread(target=read) for _ in range(24)]
        for t in threads:
            t.start()
        while d.metric('generation_tokens_total') < 2000:
            time.sleep(0.01)
        for _ in range(4):
            d.process.send_signal(signal.SIGSTOP)
            time.sleep(1.2)             # longer than a reader may take nothing
            d.process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
        for t in threads:
            t.join()
    assert got == [1002] * len(threads), got    # tokens, the end, [DONE]


@case
def takes_sockets():
    api, admin = socket.create_server(('127.0.0.1', 0)), socket.create_server(('127.0.0.1', 0))
    ports = api.getsockname()[1], admin.getsockname()[1]

    pid = spawn_with([api, admin], 'main:admin')
    for port in ports:                  # the kernel queues what comes before the daemon is up
        with socket.create_connection(('127.0.0.1', port)) as s:
            s.settimeout(30)
            s.sendall(request_bytes('GET', '/health'))
            assert s.recv(20).startswith(b'HTTP/1.1 ')
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == 0
    for listener in (api, admin):       # still open for the next daemon
        listener.settimeout(5)
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()
        listener.close()


@case
def loading_is_not_ready():
    with Manager() as m:
        d = Daemon(env={'NOTIFY_SOCKET': m.path}, wait=False)
        status, text = d.get('/ready', port=d.admin)
        if status != 200:               # else it was faster than we
            assert json.loads(text) == {'ready': False} and status == 503
        m.wait('READY=1')
        assert d.get('/ready', port=d.admin)[0] == 200
        assert d.stop() == 0


@case
def signals():
    with Daemon() as d:
        for s in (signal.SIGPIPE, signal.SIGHUP):
            d.process.send_signal(s)
        time.sleep(0.3)
        assert d.get('/health')[0] == 200
    assert d.stop(signal.SIGINT) == 0


@case
def second_signal_ends_at_once():
    with Daemon('--drain-timeout-s', '60', device='cpu') as d:
        s = d.connect()
        body = json.dumps({'prompt': 'One', 'max_tokens': 8000, 'stream': True,
                           'ignore_eos': True}).encode()
        s.sendall(request_bytes('POST', '/v1/completions', body))
        s.recv(100)
        d.process.terminate()
        d._wait_log('draining')
        start = time.monotonic()
        d.process.terminate()
        assert d.process.wait(20) == 0 and time.monotonic() - start < 10


@case
def a_bad_logit_fails_one_request():
    with Daemon(device='null:1ms,bad=4321') as d:
        status, got = d.complete([1000, 4321])
        check_error(status, got, 500)
        assert got['error']['code'] == 'engine_failed' and 'finite' in got['error']['message'], got
        assert d.complete([1000, 1001])[0] == 200
        assert d.get('/ready', port=d.admin)[0] == 200
        text = d.get('/metrics', port=d.admin)[1].decode()
        assert re.search(r'godwit_requests_nonfinite_total{[^}]*} 1\n', text), text
        d._wait_log(r'warning .* failed: after 2 tokens: a logit is no number')


@case
def a_lost_device_ends_the_daemon():
    """Who waits hears of it, /ready is red until the end, and the status asks for a new start."""
    body = {'prompt': 'One', 'max_tokens': 2000, 'ignore_eos': True}
    with Manager() as m, Daemon('--model', 'other=' + need_model(), device='null:10ms,lost=200',
                                status=75, env={'NOTIFY_SOCKET': m.path}) as d:
        m.wait('READY=1')
        answers = {}

        def ask(model):
            answers[model] = d.events('/v1/completions', {**body, 'model': model})

        threads = [threading.Thread(target=ask, args=(model,)) for model in ('smol', 'other')]
        threads[0].start()
        time.sleep(1)
        threads[1].start()
        threads[0].join()               # lost; the other model's answer is still on its way
        for path in ('/ready', '/health'):
            assert d.get(path, port=d.admin)[0] == 503, path
        m.wait('STOPPING=1')
        assert d.get('/ready', port=d.admin)[0] == 503
        status, got = d.complete('One')
        check_error(status, got, 503)
        threads[1].join()
        assert d.process.wait(20) == 75
        for events in answers.values():
            assert len(events) > 50 and events[-1] == '[DONE]', events[-3:]
            assert events[-2]['error']['code'] == 'engine_lost', events[-3:]
        assert sum(' error ' in line for line in d.text().split('\n')) == 1, d.text()
        assert 'model smol is lost' in d.text() and 'told to fail' in d.text()


@case
def a_device_lost_before_it_is_ready():
    for args, where in (((), 'warming up'), (('--no-warmup',), 'the first token failed')):
        status, _, err = run('--admin', '127.0.0.1:0', '--listen', '127.0.0.1:0', '--model',
                             'm=' + need_model(), '--device', 'null:lost=1', *args)
        assert status == 75 and f'm: {where}: ' in err and 'told to fail' in err, (status, err)


@case
def warming_up_is_not_counted():
    for args in ((), ('--no-warmup',)):
        with Daemon('--model', 'other=' + need_model(), *args) as d:
            assert d.text().count('warmed up in ') == (0 if args else 2), d.text()
            assert d.metric('steps_total') == 2             # each model's first token
            assert d.metric('step_rows_total') == 2


def wait_metric(d, name, least, timeout_s=60):
    end = time.monotonic() + timeout_s
    while d.metric(name) < least:
        assert time.monotonic() < end, f'{name} stays below {least}'
        time.sleep(0.02)


@case
def a_store_outlives_kill():
    """Killed while it generates; the next one reads the blocks on disk and gives the same text."""
    body = {'prompt': 'Once upon a time there was a small fox who lived in the woods. ' * 20,
            'max_tokens': 40, 'temperature': 0, 'ignore_eos': True}
    with tempfile.TemporaryDirectory() as folder:
        args = ('--kv-store', folder + '/kv', '--kv-store-bytes', '256M', '--ctx', '2048')
        with Daemon('--ctx', '2048', device='cpu') as d:
            status, want = d.post('/v1/completions', body)
            assert status == 200, want
            assert d.metric('kv_store_capacity_bytes') == 0
        with Daemon(*args, device='cpu', status=-signal.SIGKILL) as d:
            s = d.connect()
            s.sendall(request_bytes('POST', '/v1/completions', json.dumps(
                {**body, 'max_tokens': 1500, 'stream': True}).encode()))
            s.recv(100)
            wait_metric(d, 'kv_store_written_blocks_total', 4)
            assert d.metric('num_requests_running') == 1
            d.process.kill()
            d.process.wait()
        n_full = want['usage']['prompt_tokens'] // 64 * 64
        with Daemon(*args, device='cpu') as d:
            assert os.listdir(folder + '/kv') == ['smol']
            status, got = d.post('/v1/completions', body)
            assert status == 200 and got['choices'] == want['choices'], (got, want)
            cached = got['usage']['prompt_tokens_details']['cached_tokens']
            assert 256 <= cached <= n_full, (cached, n_full)
            assert d.metric('kv_store_read_blocks_total') == cached / 64
            assert d.metric('kv_store_loads_total') == 1
            assert d.metric('kv_store_disk_errors_total') == 0
        # What the drain found queued is there too.
        with Daemon(*args, device='cpu') as d:
            status, got = d.post('/v1/completions', body)
            assert status == 200 and got['choices'] == want['choices'], (got, want)
            assert got['usage']['prompt_tokens_details']['cached_tokens'] == n_full


@case
def a_store_that_is_none():
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + '/m', 'w', encoding='utf-8'):
            pass
        for path in (folder, folder + '/a/b', '/dev/null'):
            status, _, err = run('--admin', '127.0.0.1:0', '--listen', '127.0.0.1:0', '--model',
                                 'm=' + need_model(), '--device', 'null', '--kv-store', path)
            assert status == 78 and 'kv-store ' + path in err, (path, status, err)


def main():
    case.run()
    case.finish()


if __name__ == '__main__':
    main()
