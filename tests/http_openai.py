#!/usr/bin/env python3
# The `openai` client against the daemon: what its own types and exceptions make of the answers.
#
# usage: tests/http_openai.py GODWITD
import asyncio
import json
import sys

from http_util import SKIP, Checks, Daemon, model_path

try:
    import openai
except ImportError:
    print('skipped: no openai client')
    sys.exit(SKIP)

case = Checks()
USER = [{'role': 'user', 'content': 'Say hello.'}]
MORE = {'temperature': 0, 'max_tokens': 6, 'extra_body': {'ignore_eos': True}}


@case
def models(c, d):
    assert [m.id for m in c.models.list()] == ['smol']
    assert c.models.retrieve('smol').object == 'model'


@case
def chat(c, d):
    r = c.chat.completions.create(model='smol', messages=USER, **MORE)
    assert r.choices[0].message.role == 'assistant' and r.choices[0].message.content
    assert r.choices[0].finish_reason == 'length'
    assert r.usage.completion_tokens == 6 and r.usage.prompt_tokens_details.cached_tokens >= 0
    parts = list(c.chat.completions.create(model='smol', messages=USER, stream=True,
                                           stream_options={'include_usage': True}, **MORE))
    text = ''.join(p.choices[0].delta.content or '' for p in parts if p.choices)
    assert text == r.choices[0].message.content
    assert parts[-1].usage.completion_tokens == 6 and parts[-1].choices == []
    assert len({p.id for p in parts}) == 1


@case
def logprobs(c, d):
    r = c.chat.completions.create(model='smol', messages=USER, logprobs=True, top_logprobs=3,
                                  **MORE)
    entries = r.choices[0].logprobs.content
    assert len(entries) == 6 and all(len(e.top_logprobs) == 3 for e in entries)
    r = c.completions.create(model='smol', prompt='Hello', logprobs=2, echo=True, **MORE)
    assert r.choices[0].logprobs.token_logprobs[0] is None
    assert r.choices[0].text.startswith('Hello')


@case
def completions(c, d):
    r = c.completions.create(model='smol', prompt=['One', 'Two'], n=2, **MORE)
    assert [x.index for x in r.choices] == [0, 1, 2, 3] and r.usage.completion_tokens == 24
    text = ''.join(p.choices[0].text for p in c.completions.create(
        model='smol', prompt='One', stream=True, **MORE))
    assert text == r.choices[0].text


@case
def errors(c, d):
    def raises(kind, **kw):
        try:
            c.chat.completions.create(**{'model': 'smol', 'messages': USER, **kw})
        except kind as e:
            return e
        raise AssertionError(f'no {kind.__name__}')
    e = raises(openai.NotFoundError, model='gpt-4')
    assert e.code == 'model_not_found' and e.param == 'model'
    e = raises(openai.BadRequestError, temperature=3)
    assert e.param == 'temperature' and e.type == 'invalid_request_error'
    raises(openai.BadRequestError, messages=[])
    raises(openai.BadRequestError, response_format={'type': 'json_object'})


@case
def tools(c, d):
    tool = {'type': 'function', 'function': {'name': 'weather', 'description': 'The weather.',
            'parameters': {'type': 'object', 'properties': {'city': {'type': 'string'}}}}}
    r = c.chat.completions.create(model='smol', messages=USER, tools=[tool], tool_choice='auto',
                                  **MORE)
    assert r.choices[0].finish_reason == 'length' and not r.choices[0].message.tool_calls


@case
def many_at_once(c, d):
    async def run():
        a = openai.AsyncOpenAI(base_url=f'http://127.0.0.1:{d.port}/v1', api_key='x')

        async def one(i):
            stream = await a.chat.completions.create(
                model='smol', messages=[{'role': 'user', 'content': f'Count to {i}.'}], stream=True,
                **MORE)
            return [p async for p in stream]
        got = await asyncio.gather(*[one(i) for i in range(32)])
        await a.close()
        return got
    for parts in asyncio.run(run()):
        assert parts[-1].choices[0].finish_reason == 'length'


@case
def early_close(c, d):
    stream = c.chat.completions.create(model='smol', messages=USER, stream=True, max_tokens=8000,
                                       extra_body={'ignore_eos': True})
    next(iter(stream))
    stream.close()
    d.wait_idle(10)


def calls_a_tool(c):
    """A model that was trained to call tools does, whole and streamed."""
    tool = {'type': 'function', 'function': {
        'name': 'get_weather', 'description': 'Get the weather of a city', 'parameters': {
            'type': 'object', 'properties': {'city': {'type': 'string'}}, 'required': ['city']}}}
    ask = {'model': 'qwen', 'tools': [tool], 'temperature': 0, 'max_tokens': 60, 'messages': [
        {'role': 'user', 'content': 'What is the weather in Paris? Use the tool.'}]}
    r = c.chat.completions.create(**ask).choices[0]
    call = r.message.tool_calls[0].function
    assert r.finish_reason == 'tool_calls' and r.message.content is None
    assert call.name == 'get_weather' and json.loads(call.arguments) == {'city': 'Paris'}, call
    parts = [p.choices[0] for p in c.chat.completions.create(stream=True, **ask)]
    pieces = [t for p in parts for t in p.delta.tool_calls or []]
    assert pieces[0].function.name == 'get_weather' and pieces[0].id
    assert ''.join(t.function.arguments for t in pieces) == call.arguments
    assert parts[-1].finish_reason == 'tool_calls'


def main():
    qwen = model_path('qwen2.5-coder-0.5b-instruct.gguf')
    if qwen:
        with Daemon('--ctx', '1024', device='cpu', model='qwen=' + qwen) as d:
            calls_a_tool(openai.OpenAI(base_url=f'http://127.0.0.1:{d.port}/v1', api_key='x'))
    with Daemon() as d:
        c = openai.OpenAI(base_url=f'http://127.0.0.1:{d.port}/v1', api_key='x', max_retries=0)
        case.run(c, d)
    case.finish()


if __name__ == '__main__':
    main()
