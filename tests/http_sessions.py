#!/usr/bin/env python3
# Sessions over HTTP: the endpoints, `session` in requests, and what is left when a client goes away
# or the daemon is killed in the middle of a prompt.
#
# usage: tests/http_sessions.py GODWITD [CASE]
import json
import os
import signal
import tempfile
import time

from http_util import Checks, Daemon, check_error, need_model, request_bytes

case = Checks()
SESSIONS = '/v1/sessions'
STORY = 'Once upon a time there was a small fox who lived in the woods. '
MORE = {'temperature': 0, 'ignore_eos': True}


class Stored(Daemon):
    """godwitd with a store in `folder`."""

    def __init__(self, folder, *args, device='null', ctx='2048', **kw):
        super().__init__('--kv-store', folder + '/kv', '--kv-store-bytes', '512M', '--ctx', ctx,
                         *args, device=device, **kw)

    def create(self, **spec):
        status, got = self.post(SESSIONS, spec)
        assert status == 200, got
        assert got['object'] == 'session' and got['durable'], got
        return got

    def session(self, name, want=200, **kw):
        status, text = self.get(f'{SESSIONS}/{name}', **kw)
        assert status == want, (status, text)
        return json.loads(text)

    def delete(self, name, want=200, **kw):
        status, _, text = self.request('DELETE', f'{SESSIONS}/{name}', **kw)
        assert status == want, (status, text)
        return json.loads(text)

    def wait(self, name, what, timeout_s=30):
        """The session once what(session) is true."""
        end = time.monotonic() + timeout_s
        while not what(got := self.session(name)):
            assert time.monotonic() < end, got
            time.sleep(0.02)
        return got

    def wait_durable(self, name):
        return self.wait(name, lambda s: s['durable'] and not s['running'])


def cached(answer):
    return answer['usage']['prompt_tokens_details']['cached_tokens']


# ---- the endpoints -----------------------------------------------------

@case
def objects():
    with tempfile.TemporaryDirectory() as folder, Stored(folder) as d:
        got = d.create(id='work', metadata={'title': 'A "book"', 'x': ''}, ttl_seconds=3600)
        assert got['id'] == 'work' and got['model'] == 'smol' and got['tokens'] == 0, got
        assert got['metadata'] == {'title': 'A "book"', 'x': ''} and got['pin'] is True, got
        assert got['expires_at'] == got['created'] + 3600 and got['parent'] is None, got
        assert d.session('work') == got
        made = d.create(pin=False)
        assert made['id'].startswith('sess_') and len(made['id']) == 29 and not made['pin'], made
        assert made['expires_at'] is None and made['metadata'] == {}, made
        status, text = d.get(SESSIONS)
        page = json.loads(text)
        assert {s['id'] for s in page['data']} == {'work', made['id']}, page
        assert page['object'] == 'list' and page['has_more'] is False, page
        assert d.metric('sessions') == 2
        assert d.delete('work') == {'id': 'work', 'object': 'session.deleted', 'deleted': True}
        check_error(404, d.session('work', 404), 404, 'session_not_found')
        check_error(404, d.delete('work', 404), 404, 'session_not_found')
        status, headers, _ = d.request('PUT', SESSIONS + '/work')
        assert status == 405 and headers['Allow'] == 'GET, HEAD, DELETE, OPTIONS', headers['Allow']
        status, headers, _ = d.request('DELETE', SESSIONS)
        assert status == 405 and headers['Allow'] == 'GET, HEAD, POST, OPTIONS', headers['Allow']


@case
def pages():
    with tempfile.TemporaryDirectory() as folder, \
            Stored(folder, '--model', 'other=' + need_model()) as d:
        names = {d.create(model=m)['id'] for m in ('smol', 'other') for _ in range(5)}
        seen, after = [], ''
        while True:
            page = json.loads(d.get(f'{SESSIONS}?limit=3{after}')[1])
            seen += page['data']
            if not page['has_more']:
                break
            assert page['last_id'] == seen[-1]['id'] and len(page['data']) == 3, page
            after = '&after=' + page['last_id']
        assert len(seen) == 10 and {s['id'] for s in seen} == names, seen
        assert {s['model'] for s in seen} == {'smol', 'other'}
        assert seen == sorted(seen, key=lambda s: (-s['created'], s['id']))
        for query, param in (('limit=0', 'limit'), ('limit=101', 'limit'), ('limit=x', 'limit'),
                             ('limit=5x', 'limit')):
            check_error(*d.get(f'{SESSIONS}?{query}'), 400, 'invalid_value', param)
        check_error(*d.get(f'{SESSIONS}?after=nobody'), 404, 'session_not_found', 'after')


@case
def refused():
    with tempfile.TemporaryDirectory() as folder, \
            Stored(folder, '--model', 'other=' + need_model()) as d:
        d.create(id='a')
        for body, status, code, param in (
                ({'id': 'a'}, 409, 'session_exists', 'id'),
                ({'id': 'a', 'model': 'other'}, 409, 'session_exists', 'id'),
                ({'id': 'a/b'}, 400, 'invalid_value', 'id'), ({'id': ''}, 400, None, 'id'),
                ({'id': 'x' * 65}, 400, None, 'id'), ({'id': 3}, 400, None, 'id'),
                ({'model': 'gpt-4'}, 404, 'model_not_found', 'model'),
                ({'ttl_seconds': 0}, 400, None, 'ttl_seconds'),
                ({'ttl_seconds': 1.5}, 400, None, 'ttl_seconds'),
                ({'pin': 'yes'}, 400, None, 'pin'),
                ({'metadata': []}, 400, None, 'metadata'),
                ({'metadata': {'a': 1}}, 400, None, 'metadata'),
                ({'metadata': {'a': 'x' * 1024}}, 400, None, 'metadata'),
                ({'at_token': 3}, 400, None, 'fork_from'),
                ({'fork_from': 'b'}, 404, 'session_not_found', 'fork_from'),
                ({'fork_from': 'a', 'at_token': 1}, 400, None, 'at_token'),
                ({'fork_from': 'a', 'model': 'other'}, 409, 'session_mismatch', 'fork_from')):
            check_error(*d.post(SESSIONS, body), status, code, param)
        for body, status, code, param in (
                ({'session': 'b'}, 404, 'session_not_found', 'session'),
                ({'session': '../a'}, 404, 'session_not_found', 'session'),
                ({'session': 3}, 400, None, 'session'),
                ({'session': 'a', 'model': 'other'}, 409, 'session_mismatch', 'session'),
                ({'session': 'a', 'n': 2}, 400, None, 'n'),
                ({'session': 'a', 'cache_salt': 'x'}, 400, None, 'cache_salt'),
                ({'session': 'a', 'prompt': ['x', 'y']}, 400, None, 'prompt'),
                ({'session': 'a', 'prompt': ''}, 400, None, 'prompt'),
                ({'session': 'a', 'prompt': '', 'godwit': {'append': True}}, 400, None, 'prompt'),
                ({'session': 'a', 'prompt': [10 ** 9]}, 400, None, 'prompt'),
                ({'session': 'a', 'prompt': [5] * 3000}, 400, 'context_length_exceeded', 'prompt'),
                ({'godwit': {'append': True}}, 400, None, 'godwit.append'),
                ({'session': 'a', 'echo': True, 'godwit': {'append': True}}, 400,
                 'unsupported_parameter', 'echo')):
            check_error(*d.complete(**{'prompt': 'x', **body}), status, code, param)
        assert d.complete('x', session='a')[0] == 200       # no refusal keeps it taken


@case
def without_a_store():
    with Daemon() as d:
        for status, _, text in (d.request('POST', SESSIONS, {}), d.request('GET', SESSIONS),
                                d.request('GET', SESSIONS + '/a'),
                                d.request('DELETE', SESSIONS + '/a')):
            check_error(status, text, 501, 'sessions_unavailable')
        check_error(*d.complete('x', session='a'), 501, 'sessions_unavailable')


@case
def of_one_key():
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + '/keys', 'w', encoding='utf-8') as f:
            f.write('ann:key-a\nbob:key-b\n')
        ann, bob = ({'headers': {'Authorization': 'Bearer ' + k}} for k in ('key-a', 'key-b'))
        with Stored(folder, '--api-key-file', folder + '/keys') as d:
            assert d.post(SESSIONS, {'id': 'a', 'metadata': {'of': 'ann'}}, **ann)[0] == 200
            assert d.get(SESSIONS + '/a', **ann)[0] == 200
            d.session('a', 404, **bob)
            d.delete('a', 404, **bob)
            assert json.loads(d.get(SESSIONS, **bob)[1])['data'] == []
            body = {'prompt': 'x', 'session': 'a'}
            check_error(*d.post('/v1/completions', body, **bob), 404, 'session_not_found')
            check_error(*d.post(SESSIONS, {'fork_from': 'a'}, **bob), 404, 'session_not_found')
            assert d.post(SESSIONS, {'id': 'a', 'metadata': {'of': 'bob'}}, **bob)[0] == 200
            assert d.session('a', **ann)['metadata'] == {'of': 'ann'}
            d.session('a', 401)


@case
def one_request_at_a_time():
    with tempfile.TemporaryDirectory() as folder, Stored(folder, device='null:5ms') as d:
        d.create(id='a')
        s = d.connect()
        s.sendall(request_bytes('POST', '/v1/completions', json.dumps(
            {**MORE, 'prompt': 'x', 'session': 'a', 'max_tokens': 1500, 'stream': True}).encode()))
        s.recv(100)
        d.wait('a', lambda x: x['running'])
        assert d.metric('sessions_running') == 1
        status, headers, text = d.request('POST', '/v1/completions', {'prompt': 'x',
                                                                      'session': 'a'})
        check_error(status, text, 409, 'session_busy', 'session')
        assert headers['Retry-After'] == '1'
        check_error(409, d.delete('a', 409), 409, 'session_busy')
        assert d.post(SESSIONS, {'fork_from': 'a'})[0] == 200
        s.close()
        d.wait('a', lambda x: not x['running'])
        assert d.complete('x', session='a')[0] == 200


# ---- texts -------------------------------------------------------------

@case
def a_chat_goes_on_after_kill():
    with tempfile.TemporaryDirectory() as folder:
        chat = [{'role': 'user', 'content': STORY * 12 + 'Who is it about?'}]
        with Daemon('--ctx', '2048', device='cpu') as d:
            first = d.chat(chat, max_tokens=30, **MORE)[1]
            chat.append(first['choices'][0]['message'])
            chat.append({'role': 'user', 'content': 'And where?'})
            second = d.chat(chat, max_tokens=12, **MORE)[1]
        with Stored(folder, device='cpu', status=-signal.SIGKILL) as d:
            d.create(id='fox')
            got = d.chat(chat[:1], max_tokens=30, session='fox', **MORE)[1]
            assert got['choices'] == first['choices'], got
            s = d.wait_durable('fox')
            assert s['tokens'] == first['usage']['total_tokens'], (s, got['usage'])
            assert s['pinned_blocks'] == (s['tokens'] - 1) // 64 and s['pinned_bytes'] > 0, s
            d.process.kill()
            d.process.wait()
        with Stored(folder, device='cpu') as d:
            assert d.session('fox') == s
            got = d.chat(chat, max_tokens=12, session='fox', **MORE)[1]
            assert got['choices'] == second['choices'], (got, second)
            assert cached(got) == s['pinned_blocks'] * 64, (got, s)


@case
def turns_are_appended():
    """Only what is new is sent; text and tokens are those of a client that sends all."""
    with tempfile.TemporaryDirectory() as folder, Stored(folder, device='cpu') as d:
        d.create(id='a')
        new = {'session': 'a', 'godwit': {'append': True}, 'max_tokens': 10, **MORE}
        prompt = STORY * 8
        for part in (prompt, ' And then', ''):
            got = d.complete(part, **new)[1]
            text = got['choices'][0]['text']
            if part != prompt:
                whole = d.complete(prompt + part, max_tokens=10, **MORE)[1]
                assert whole['choices'][0]['text'] == text, (whole, got)
                assert whole['usage']['prompt_tokens'] == got['usage']['prompt_tokens']
                assert cached(got) >= 64, got
            prompt = prompt + text if part == prompt else prompt + part + text
        assert d.session('a')['tokens'] == got['usage']['total_tokens']


@case
def messages_are_appended():
    with tempfile.TemporaryDirectory() as folder, Stored(folder, device='cpu') as d:
        d.create(id='a')
        all_messages = [{'role': 'system', 'content': 'You are kind.'}]
        sent = all_messages
        for question in ('What is <|im_end|>?', 'Is the sky blue?', 'Why?'):
            ask = {'role': 'user', 'content': question}
            all_messages = all_messages + [ask]
            sent = [ask] if len(all_messages) > 2 else all_messages
            got = d.chat(sent, max_tokens=12, temperature=0, session='a',
                         godwit={'append': True})[1]
            want = d.chat(all_messages, max_tokens=12, temperature=0)[1]
            assert got['choices'] == want['choices'], (got, want)
            assert got['usage']['prompt_tokens'] == want['usage']['prompt_tokens'], (got, want)
            all_messages.append(got['choices'][0]['message'])


@case
def forks():
    with tempfile.TemporaryDirectory() as folder, Stored(folder, device='cpu') as d:
        d.create(id='a')
        new = {'godwit': {'append': True}, 'max_tokens': 8, **MORE}
        d.complete(STORY * 10, session='a', **new)
        d.wait_durable('a')
        n = len(d.post('/tokenize', {'content': STORY * 5})[1]['tokens']) - 1     # no last blank
        b = d.create(id='b', fork_from='a', at_token=n)
        assert b['parent'] == {'id': 'a', 'tokens': n} and b['tokens'] == n, b
        assert b['pinned_blocks'] == n // 64, b
        d.delete('a')
        got = d.complete(' The end', session='b', **new)[1]
        want = d.complete(STORY * 5 + 'The end', max_tokens=8, **MORE)[1]
        assert got['choices'][0]['text'] == want['choices'][0]['text'], (got, want)
        assert cached(got) == n // 64 * 64, got


# ---- files -------------------------------------------------------------

def export(d, name):
    status, headers, data = d.request('GET', f'{SESSIONS}/{name}/export')
    assert status == 200, data
    assert headers['Content-Type'] == 'application/octet-stream', headers
    assert int(headers['Content-Length']) == len(data)
    return data


def refused_file(d, data, status, code, query=''):
    got, _, text = d.request('POST', f'{SESSIONS}/import{query}', data)
    return check_error(got, text, status, code)


@case
def a_session_moves():
    new = {'session': 'a', 'godwit': {'append': True}, 'max_tokens': 10, **MORE}
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        with Stored(here, device='cpu') as d:
            d.create(id='a', metadata={'k': 'v'}, ttl_seconds=5000)
            d.complete(STORY * 10, **new)
            s = d.wait_durable('a')
            data = export(d, 'a')
            status, headers, body = d.request('HEAD', f'{SESSIONS}/a/export')
            assert status == 200 and int(headers['Content-Length']) == len(data) and not body
            want = d.complete(' The end', **new)[1]
            check_error(*d.get(SESSIONS + '/b/export'), 404, 'session_not_found')
        with Stored(there, '--model', 'other=' + need_model('qwen2.5-coder-0.5b-instruct.gguf'),
                    device='cpu', model='tiny=' + need_model()) as d:
            refused_file(d, data, 409, 'session_mismatch', '?model=other')
            refused_file(d, data, 404, 'model_not_found', '?model=gpt-4')
            refused_file(d, data, 400, 'invalid_value', '?id=a%2Fb')
            status, _, text = d.request('POST', SESSIONS + '/import', data)
            got = json.loads(text)
            assert status == 200, got
            for key in ('id', 'tokens', 'pinned_blocks', 'metadata', 'ttl_seconds', 'attention'):
                assert got[key] == s[key], (key, got, s)
            assert got['model'] == 'tiny' and got['imported'] and got['durable'], got
            refused_file(d, data, 409, 'session_exists')
            refused_file(d, data, 409, 'session_exists', '?id=a')
            assert d.request('POST', SESSIONS + '/import?id=b', data)[0] == 200
            got = d.complete(' The end', **new)[1]
            assert got['choices'] == want['choices'], (got, want)
            assert cached(got) == s['pinned_blocks'] * 64
            # Only this session finds what came in the file.
            assert cached(d.complete(STORY * 10, max_tokens=1)[1]) == 0


@case
def files_that_are_none():
    with tempfile.TemporaryDirectory() as folder:
        with Stored(folder, '--import-max-bytes', '4M') as d:
            d.create(id='a')
            d.complete(STORY * 10, session='a', **MORE)
            d.wait_durable('a')
            data = export(d, 'a')
            d.delete('a')
            for n in (0, 1, 255, 256, 500, len(data) // 2, len(data) - 1):
                refused_file(d, data[:n], 400, 'invalid_value')
            refused_file(d, data + b'x', 400, 'invalid_value')
            for at in (0, 8, 20, 300, 1500, len(data) - 1):
                damaged = bytearray(data)
                damaged[at] ^= 1
                refused_file(d, bytes(damaged), 400, None)
            got = d.raw(request_bytes('POST', SESSIONS + '/import', headers=[
                f'Content-Length: {(4 << 20) + 1}']).replace(b'Content-Length: 0\r\n', b''))
            assert got.startswith(b'HTTP/1.1 413'), got
            assert json.loads(d.get(SESSIONS)[1])['data'] == []
            assert d.request('POST', SESSIONS + '/import', data)[0] == 200
            # Who leaves in the middle of a file, or reads it slowly.
            for n in (1, 100000):
                s = d.connect(rcvbuf=4096)
                s.sendall(request_bytes('GET', SESSIONS + '/a/export'))
                while n > 0:
                    n -= len(s.recv(n))
                s.close()
            assert export(d, 'a')[300:] != b''
            d.delete('a')
        with Stored(folder, '--kv', 'q8_0') as d:
            assert 'layout' in refused_file(d, data, 409, 'session_mismatch')['message']
    with Daemon() as d:
        refused_file(d, data, 501, 'sessions_unavailable')


# ---- prompts that are cut ----------------------------------------------

LONG = {'prompt': STORY * 280, 'max_tokens': 4, **MORE}
LONG_CTX = '8192'
SLOW = ('--max-step-ms', '50', '--threads', '1')     # so that there is a middle to be cut in


def begin(d, body, written):
    """Sends a long prompt and waits until so many blocks of it are on disk."""
    s = d.connect()
    s.sendall(request_bytes('POST', '/v1/completions', json.dumps(body).encode()))
    end = time.monotonic() + 120
    while d.metric('kv_store_written_blocks_total') < written:
        assert time.monotonic() < end, 'nothing is written'
        time.sleep(0.01)
    assert d.metric('num_requests_running') == 1
    return s


def check_retry(d, body, want, least):
    got = d.post('/v1/completions', body)[1]
    assert got['choices'] == want['choices'], (got, want)
    n_full = (got['usage']['prompt_tokens'] - 1) // 64 * 64
    assert least <= cached(got) < n_full, (got, n_full)


def truth():
    """What computing all of it gives."""
    with Daemon('--ctx', LONG_CTX, device='cpu') as d:
        return d.post('/v1/completions', LONG)[1]


@case
def a_prefill_goes_on_when_the_client_left():
    want, body = truth(), {**LONG, 'session': 'a'}
    with tempfile.TemporaryDirectory() as folder, \
            Stored(folder, *SLOW, device='cpu', ctx=LONG_CTX) as d:
        d.create(id='a')
        begin(d, body, 4).close()
        d.wait_idle()
        s = d.wait_durable('a')
        assert s['tokens'] >= 256 and s['pinned_blocks'] == s['tokens'] // 64, s
        check_retry(d, body, want, s['tokens'])


@case
def a_prefill_goes_on_after_kill():
    want = truth()
    with tempfile.TemporaryDirectory() as folder:
        with Stored(folder, *SLOW, device='cpu', ctx=LONG_CTX, status=-signal.SIGKILL) as d:
            begin(d, LONG, 4)
            d.process.kill()
            d.process.wait()
        with Stored(folder, device='cpu', ctx=LONG_CTX) as d:
            check_retry(d, LONG, want, 256)


# ---- the client --------------------------------------------------------

@case
def openai_client():
    try:
        import openai
    except ImportError:
        print('openai_client: no openai client')
        return
    with tempfile.TemporaryDirectory() as folder, Stored(folder) as d:
        c = openai.OpenAI(base_url=f'http://127.0.0.1:{d.port}/v1', api_key='x', max_retries=0)
        s = c.post('/sessions', cast_to=object, body={'id': 'mine'})
        assert s['id'] == 'mine', s
        more = {'temperature': 0, 'max_tokens': 6}
        extra = {'session': 'mine', 'ignore_eos': True, 'godwit': {'append': True}}
        user = [{'role': 'user', 'content': 'Say hello.'}]
        r = c.chat.completions.create(model='smol', messages=user, extra_body=extra, **more)
        n = r.usage.total_tokens
        parts = list(c.chat.completions.create(model='smol', messages=user, extra_body=extra,
                                               stream=True, stream_options={'include_usage': True},
                                               **more))
        assert parts[-1].usage.prompt_tokens > n and parts[-1].choices == []
        r = c.completions.create(model='smol', prompt='', extra_body=extra, **more)
        assert r.usage.prompt_tokens == parts[-1].usage.total_tokens
        assert c.get('/sessions/mine', cast_to=object)['tokens'] == r.usage.total_tokens
        assert c.get('/sessions', cast_to=object)['data'][0]['id'] == 'mine'
        try:
            c.completions.create(model='smol', prompt='x', extra_body={'session': 'nobody'})
            raise AssertionError('no NotFoundError')
        except openai.NotFoundError as e:
            assert e.code == 'session_not_found' and e.param == 'session'
        assert c.delete('/sessions/mine', cast_to=object)['deleted'] is True


def main():
    need_model()
    case.run()
    case.finish()


if __name__ == '__main__':
    main()
