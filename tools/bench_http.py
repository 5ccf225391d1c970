#!/usr/bin/env python3
# Makes docs/http.md: what the HTTP side carries when the engine costs nothing. Starts godwitd on
# the null executor, asks both listeners for /health with wrk, then reads many event streams at
# once, at a fixed pace and as fast as they come: are all events there, and how late are they?
#
# usage: tools/bench_http.py [--streams 1000] [--tokens 100] [--seconds 5] [--out FILE]
#        tools/bench_http.py --url http://127.0.0.1:8080 [...]      streams of a running godwitd
# Prints a JSON object for each kind of load. Status 1 if a stream was cut, lost an event or ended
# in an error.
import argparse
import datetime
import json
import os
import re
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from urllib.parse import urlparse

from venvs import ROOT, commit, machine, model_file, release_build

PERIOD_S = 0.05                 # of the null executor's steps when paced: 20 tokens/s a stream
CONNECT_PER_S = 500             # new streams, when paced
BUSY = 0.8                      # of a core: what counts as all of it
HEALTH_CONNECTIONS = 64
TICKS_PER_S = os.sysconf('SC_CLK_TCK')


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
            self.end(str(e))
            return
        if not part:
            self.end('closed early')
            return
        self.data += part
        self.take_events(now)

    def end(self, problem):
        self.problem = self.problem or problem
        self.done = True

    def take_events(self, now):
        # Whole events only; parsing each as JSON would measure this program instead of the server.
        if self.data.startswith(b'HTTP/') and b' 200 ' not in self.data[:20]:
            self.end(self.data[:60].decode(errors='replace').strip())
            return
        whole, _, self.data = self.data.rpartition(b'\n\n')
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
            self.end(None if self.usage else 'no usage')


def run_streams(address, n, tokens, connect_per_s=None):
    """The streams, when all have ended, and the seconds that took. Without a rate all at once."""
    body = json.dumps({'prompt': 'Once upon a time', 'max_tokens': tokens, 'stream': True,
                       'temperature': 0, 'ignore_eos': True,
                       'stream_options': {'include_usage': True}}).encode()
    poll, streams, running = selectors.DefaultSelector(), [], 0
    began = time.monotonic()
    while len(streams) < n or running:
        while len(streams) < n and (not connect_per_s or len(streams)
                                    <= (time.monotonic() - began) * connect_per_s):
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


def quantile(values, q):
    return round(values[min(len(values) - 1, int(len(values) * q))], 4) if values else None


def summary(streams, tokens, took):
    problems = [s.problem for s in streams if s.problem]
    events = sum(s.tokens for s in streams)
    gaps = sorted(b - a for s in streams for a, b in zip(s.times, s.times[1:]))
    first = sorted(s.times[0] - s.start for s in streams if s.times)
    rates = sorted((len(s.times) - 1) / (s.times[-1] - s.times[0]) for s in streams
                   if len(s.times) > 1 and s.times[-1] > s.times[0])
    return {'streams': len(streams), 'seconds': round(took, 2), 'events': events,
            'lost_events': len(streams) * tokens - events, 'problems': len(problems),
            'first_problem': problems[0] if problems else None,
            'tokens_per_s_each': {'least': quantile(rates, 0), 'median': quantile(rates, 0.5)},
            'first_token_s': {q: quantile(first, q) for q in (0.5, 0.99, 1)},
            'gap_s': {q: quantile(gaps, q) for q in (0.5, 0.99, 0.999, 1)}}


# ---- the server ---------------------------------------------------------------------------------

class Daemon:
    """godwitd on a null executor and free ports."""

    def __init__(self, program, device, streams):
        self.log = tempfile.NamedTemporaryFile('w+', suffix='.log')
        self.process = subprocess.Popen(
            [program, '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0', '--device', device,
             '--model', f'null={model_file("smollm2")}', '--ctx', '2048',
             '--seqs-max', str(min(streams, 1024)), '--queue-max', str(streams),
             '--kv-memory-bytes', '64G', '--drain-timeout-s', '1'], stderr=self.log)
        self.wait_log(r'\bready$')
        self.main, self.admin = map(self.address, ('main', 'admin'))

    def address(self, name):
        return '127.0.0.1', int(self.wait_log(name + r' listens on .*:(\d+)')[1])

    def wait_log(self, pattern):
        while True:
            running = self.process.poll() is None
            text = Path(self.log.name).read_text()
            found = re.search(pattern, text, re.MULTILINE)
            if found:
                return found
            if not running:
                sys.exit(f'godwitd did not start:\n{text}')
            time.sleep(0.02)

    def cpu_s(self):
        """CPU seconds of each thread, by its number and name."""
        found = {}
        for task in Path(f'/proc/{self.process.pid}/task').iterdir():
            head, _, tail = (task / 'stat').read_text().rpartition(')')
            fields = tail.split()
            name = head.partition('(')[2].replace('MHD-single', 'HTTP')
            found[task.name, name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def own_cpu_s():
    return sum(u.ru_utime + u.ru_stime for u in map(
        resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def with_cpu(daemon, function):
    """function()'s dictionary, and how many cores the server and the client kept busy."""
    start, before, client = time.monotonic(), daemon.cpu_s(), own_cpu_s()
    found = function()
    took = time.monotonic() - start
    threads = {t: (s - before.get(t, 0)) / took for t, s in daemon.cpu_s().items()}
    (_, name), most = max(threads.items(), key=lambda t: t[1])
    return {**found, 'server_cores': round(sum(threads.values()), 2),
            'client_cores': round((own_cpu_s() - client) / took, 2),
            'busiest_thread': [name, round(most, 2)]}


def health(address, seconds):
    text = subprocess.run(
        ['wrk', '-t1', f'-c{HEALTH_CONNECTIONS}', f'-d{seconds}s', '--latency',
         f'http://{address[0]}:{address[1]}/health'], text=True, check=True,
        stdout=subprocess.PIPE).stdout
    delay = {q: re.search(rf'^ +{q}% +(\S+)$', text, re.MULTILINE)[1] for q in (50, 99)}
    errors = re.findall(r'^ +(?:Socket errors|Non-2xx).*$', text, re.MULTILINE)
    return {'requests_per_s': float(re.search(r'Requests/sec: +(\S+)', text)[1]),
            'delay': delay, 'errors': ' '.join(e.strip() for e in errors) or None}


def measure(args):
    program = release_build('server/godwitd') / 'server' / 'godwitd'
    found = {}

    def note(name, daemon, function):
        found[name] = with_cpu(daemon, function)
        print(json.dumps({name: found[name]}), flush=True)

    def streams(daemon, connect_per_s=None):
        done, took = run_streams(daemon.main, args.streams, args.tokens, connect_per_s)
        return summary(done, args.tokens, took)

    with Daemon(program, 'null', args.streams) as daemon:
        note('main', daemon, lambda: health(daemon.main, args.seconds))
        note('admin', daemon, lambda: health(daemon.admin, args.seconds))
        note('unpaced', daemon, lambda: streams(daemon))
    with Daemon(program, f'null:{PERIOD_S * 1000:.0f}ms', args.streams) as daemon:
        note('paced', daemon, lambda: streams(daemon, CONNECT_PER_S))
    return found


# ---- the page -----------------------------------------------------------------------------------

PAGE = '''# The HTTP side

{made}

godwitd runs on the null executor, which computes nothing: what is measured is HTTP, the scheduler,
sampling over a vocabulary of 49,152, text and events. The clients run on the same machine and take
their share of it.

## Health

`wrk`, one thread, {connections} connections kept alive, {seconds} s. Each listener has threads of
its own, so that the admin listener answers whatever the other one does.

| listener | requests/s | median | 99 % | errors | cores: server, client |
|---|---|---|---|---|---|
{health}

## Streams

{n} streams of {tokens} tokens, each a connection of its own that asks `/v1/completions`; one Python
process reads them all. Paced, the executor ends a step every {period:.0f} ms, so that a stream has
{rate:.0f} tokens/s at most, and {connect} streams begin in a second. Unpaced, all begin at once and
steps take no time of their own. The server has just started: it learns from these streams what a
step costs, and lets prompts in as it learns.

| | paced | unpaced |
|---|---|---|
{streams}

{bound}
'''


def health_rows(found):
    for name in ('main', 'admin'):
        f = found[name]
        yield (f"| {name} | {f['requests_per_s']:,.0f} | {f['delay'][50]} | {f['delay'][99]} "
               f"| {f['errors'] or 'none'} | {f['server_cores']}, {f['client_cores']} |")


def stream_rows(found):
    def row(title, cell):
        return f"| {title} | {cell(found['paced'])} | {cell(found['unpaced'])} |"

    def ms(f, name, q):
        return f'{f[name][q] * 1000:,.0f} ms'
    yield row('streams cut or failed', lambda f: f['problems'])
    yield row('events, lost', lambda f: f"{f['events']:,}, {f['lost_events']}")
    yield row('events/s', lambda f: f"{f['events'] / f['seconds']:,.0f}")
    yield row('tokens/s of a stream: median, least',
              lambda f: ', '.join(f"{f['tokens_per_s_each'][k]:.1f}" for k in ('median', 'least')))
    yield row('first token: median, 99 %, last',
              lambda f: ', '.join(ms(f, 'first_token_s', q) for q in (0.5, 0.99, 1)))
    yield row('between tokens: median, 99.9 %, longest',
              lambda f: ', '.join(ms(f, 'gap_s', q) for q in (0.5, 0.999, 1)))
    yield row('cores: server, client', lambda f: f"{f['server_cores']}, {f['client_cores']}")
    yield row("the server's busiest thread, cores",
              lambda f: '{}, {}'.format(*f['busiest_thread']))


def bound(found):
    """What bounds each load, by who was busy."""
    cores, paced, unpaced = os.cpu_count(), found['paced'], found['unpaced']
    server, client, (thread, most) = (unpaced[k] for k in ('server_cores', 'client_cores',
                                                           'busiest_thread'))
    text = (f"Bound by: paced, the executor's rhythm, with {paced['server_cores']:.2f} and "
            f"{paced['client_cores']:.2f} of {cores} cores in use by server and client. Unpaced, ")
    if client > BUSY:
        text += 'the client, whose one thread is always busy.'
    elif most > BUSY:
        text += f'one thread of the server, called {thread}, which is always busy.'
    elif server + client > BUSY * cores:
        text += (f'the machine: all its cores are busy, {client / (server + client):.0%} of that '
                 f"with the client; the server's busiest thread, {thread}, uses {most:.2f} of one.")
    else:
        text += 'nothing that the server or the client uses: other programs had the cores.'
    return textwrap.fill(text, 100)


def write_page(args, found):
    made = (f'Made by `tools/bench_http.py` on {datetime.date.today()}, {machine()}, commit '
            f'{commit()}. {args.note or ""}')
    args.out.write_text(PAGE.format(
        made=textwrap.fill(made.rstrip(), 100), seconds=args.seconds,
        connections=HEALTH_CONNECTIONS, n=f'{args.streams:,}', tokens=args.tokens,
        period=PERIOD_S * 1000, rate=1 / PERIOD_S, connect=CONNECT_PER_S, bound=bound(found),
        health='\n'.join(health_rows(found)), streams='\n'.join(stream_rows(found))))


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--url')
    p.add_argument('--streams', type=int, default=1000)
    p.add_argument('--tokens', type=int, default=100)
    p.add_argument('--connect-per-s', type=float, default=CONNECT_PER_S, help='only with --url')
    p.add_argument('--seconds', type=int, default=5, help='of wrk for each listener')
    p.add_argument('--note', help='a sentence for the page: what was special about this run')
    p.add_argument('--out', type=Path, default=ROOT / 'docs' / 'http.md')
    args = p.parse_args()
    if args.url:
        url = urlparse(args.url)
        done, took = run_streams((url.hostname, url.port or 80), args.streams, args.tokens,
                                 args.connect_per_s)
        found = {'paced': summary(done, args.tokens, took)}
        print(json.dumps(found['paced']))
    elif not shutil.which('wrk'):
        sys.exit('bench_http: there is no wrk; Debian and Ubuntu have a package of that name')
    else:
        found = measure(args)
        write_page(args, found)
    sys.exit(any(f.get('problems') or f.get('lost_events') or f.get('errors')
                 for f in found.values()))


if __name__ == '__main__':
    main()
