# docs/gpu.md out of what tools/bench_gpu.py measured.
from gpu_figures import CEILINGS, Figure, figure_of, floor_rate, goal, in_order
from model_shape import Shape

OPS_SHOWN = 12                  # of a profile
OPS_NAMED = 3                   # beside a figure
TOPK_FAR, TOPK_NEAR, TOPK_GOAL = 128 * 1024, 8 * 1024, 1.15
PROFILES = (Figure('decode', 0), Figure('decode', 32 * 1024), Figure('decode', 0, 64),
            Figure('prefill', 2048))

PAGE = '''# Speed on a GPU

Made by `tools/bench_gpu.py` on {date}, {gpu}, driver {driver}, commit {commit}. The files have
random weights in the shapes of known models; "q4_k" has an output matrix in q6_k. KV is float16.
Unless a note says otherwise, all programs ran in turn on one machine, on the same files; each
figure is the best of {repeat}, but `llama-batched-bench` runs once. What stands before a decode
was computed by the peers and filled with copies of computed blocks by godwit, which cost the same
to read. The peers' figures do not sample, ours do. Topk reads 4,096 tokens a row, beside the
digests of all.{note}

The floor of a decode is the time to read every weight and the KV that attention reads, that of a
prefill the time of its multiplications: {ceilings}. "Busy" is what the
device's operations take of a step when each is timed alone, and then which of them take the most.

{tables}'''


def describe(found):
    """What the page needs of `godwit inspect --json`."""
    return {'metadata': {k: v for k, v in found['metadata'].items()
                         if not k.startswith('tokenizer.')},
            'tensors': [{k: t[k] for k in ('name', 'dims', 'bytes')} for t in found['tensors']]}


def ceilings_of(machine):
    return next((c for name, c in CEILINGS.items() if name in machine.get('gpu', '')), None)


def number(x):
    return f'{x:.4g}' if x < 1000 else f'{x:.0f}'


def cell(record):
    if not record:
        return ''
    return number(record['value']) if 'value' in record else 'failed'


def value(by_program, program):
    return by_program.get(program, {}).get('value')


def ratio(figure, by_program, program):
    ours, theirs = value(by_program, 'godwit'), value(by_program, program)
    if not ours or not theirs:
        return None
    return theirs / ours if figure.less_is_better else ours / theirs


def goal_cell(model, figure, by_program):
    wanted = goal(model, figure)
    if not wanted:
        return ''
    program, factor = wanted
    found = ratio(figure, by_program, program)
    met = '' if found is None else ', met' if found >= factor else f', {found / factor:.0%} of it'
    return f'{factor:g} x {program}{met}'


def busy_cell(figure, record):
    """How much of a step the device's operations fill, and the dearest of them."""
    profile = record.get('profile') if record else None
    if not profile or not profile['ops']:
        return ''
    total = sum(op['ns'] for op in profile['ops'])
    tokens = figure.tokens if figure.what == 'prefill' else figure.streams * profile['steps']
    busy = total / 1e9 / (tokens / record['value']) if tokens and record.get('value') else 0
    ops = ', '.join(f'{op["label"]} {op["ns"] / total:.0%}' for op in profile['ops'][:OPS_NAMED]
                    if total)
    return f'{busy:.0%}: {ops}'


def table(model, shape, records, titles, ceilings):
    figures = in_order(figure_of(k) for k in records)
    programs = [p for p in titles if any(p in r for r in records.values())]
    columns = ['', 'godwit', *(titles[p] for p in programs), *(f'ratio to {p}' for p in programs),
               'goal', 'floor', 'of the floor', 'busy']
    yield '| ' + ' | '.join(columns) + ' |'
    yield '|---' * len(columns) + '|'
    for f in figures:
        by = records[f.key]
        ours, floor = value(by, 'godwit'), floor_rate(shape, f, ceilings)
        ratios = [ratio(f, by, p) for p in programs]
        cells = [f.title, cell(by.get('godwit')), *(cell(by.get(p)) for p in programs),
                 *(f'{r:.2f}' if r else '' for r in ratios), goal_cell(model, f, by),
                 number(floor) if floor else '', f'{ours / floor:.0%}' if ours and floor else '',
                 busy_cell(f, by.get('godwit'))]
        yield '| ' + ' | '.join(cells) + ' |'


def notes(shape, records):
    load = value(records.get(Figure('load').key, {}), 'godwit')
    if load:
        yield f'Load: {shape.file_bytes / 1e9:.2f} GB at {shape.file_bytes / 1e9 / load:.1f} GB/s.'
    far, near = (value(records.get(Figure('decode', n, 1, 'topk').key, {}), 'godwit')
                 for n in (TOPK_FAR, TOPK_NEAR))
    if far and near:
        yield (f'A token of topk at 128k costs {near / far:.2f} times one at 8k; the goal is '
               f'{TOPK_GOAL}.')


def errors(records, titles):
    failed = {}
    for f in in_order(figure_of(k) for k in records):
        for program, record in records[f.key].items():
            if 'error' in record:
                failed.setdefault((program, record['error']), []).append(f.title)
    for (program, error), figures in failed.items():
        yield f'- {titles.get(program, program)} failed, {"; ".join(figures)}: {error}'


def profile_table(figure, record):
    profile = record['profile']
    total, steps = sum(op['ns'] for op in profile['ops']), max(profile['steps'], 1)
    yield f'{figure.title.removesuffix(", t/s")}: {total / 1e6 / steps:.3f} ms a step'
    yield ''
    yield '| operation | ms a step | share | times a step | us each |'
    yield '|---|---|---|---|---|'
    for op in profile['ops'][:OPS_SHOWN]:
        yield (f'| {op["label"]} | {op["ns"] / 1e6 / steps:.3f} | {op["ns"] / max(total, 1):.1%} | '
               f'{op["n"] / steps:.1f} | {op["ns"] / 1e3 / max(op["n"], 1):.2f} |')
    yield ''


def section(model, found, records, titles, ceilings):
    shape = Shape(found)
    yield f'## {model}'
    yield ''
    yield from table(model, shape, records, titles, ceilings)
    yield ''
    for line in notes(shape, records):
        yield line
        yield ''
    failed = list(errors(records, titles))
    yield from failed + [''] * bool(failed)
    for figure in PROFILES:
        record = records.get(figure.key, {}).get('godwit', {})
        if record.get('profile', {}).get('ops'):
            yield from profile_table(figure, record)


def page(data, titles):
    machine = data['machine']
    ceilings = ceilings_of(machine)
    said = (f'{ceilings[0] / 1e12:g} TB/s and {ceilings[1] / 1e12:g} Top/s, as measured on such a '
            f'device' if ceilings else 'not known for this device')
    lines = []
    for model, records in data['records'].items():
        lines += section(model, data['models'][model], records, titles, ceilings)
    note = machine.pop('note', '')
    return PAGE.format(ceilings=said, tables='\n'.join(lines).rstrip('\n') + '\n',
                       note='\n\n' + note if note else '', **machine)
