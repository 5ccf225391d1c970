# A small byte-pair encoder over a GGUF vocabulary, to turn the texts of prompts/ into tokens. It
# knows no control tokens and no normalisation: the tokenizers' own golden files are for that.
import regex

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_letters():
    """The printable character that GPT-2 vocabularies write for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = (chr(256 + i) for i in range(256))
    return [chr(b) if b in plain else next(other) for b in range(256)]


class Bpe:
    def __init__(self, reader):
        def meta(key, default=None):
            field = reader.fields.get('tokenizer.ggml.' + key)
            return field.contents() if field else default

        self.tokens = meta('tokens')
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        self.letters = byte_letters() if meta('model') == 'gpt2' else None
        self.pattern = QWEN2 if meta('pre') == 'qwen2' else GPT2
        self.prefix = [meta('bos_token_id')] if meta('add_bos_token') else []
        if self.letters:
            self.rank = {tuple(m.split(' ')): i for i, m in enumerate(meta('merges'))}
        else:
            self.score = meta('scores')

    def cost(self, a, b):
        """The lower, the earlier a and b are merged; None: never."""
        if self.letters:
            return self.rank.get((a, b))
        i = self.ids.get(a + b)
        return None if i is None else -self.score[i]

    def merge(self, symbols):
        while True:
            costs = [self.cost(a, b) for a, b in zip(symbols, symbols[1:])]
            known = [(c, i) for i, c in enumerate(costs) if c is not None]
            if not known:
                return symbols
            i = min(known)[1]
            symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]

    def encode(self, text):
        if self.letters:
            words = regex.findall(self.pattern, text)
            words = [[self.letters[b] for b in w.encode()] for w in words]
        else:
            text = text.replace(' ', '\u2581')
            words = [list(w) for w in regex.findall('\u2581?[^\u2581]+|\u2581', text)]
        out = list(self.prefix)
        for symbol in (s for w in words for s in self.merge(w)):
            if symbol in self.ids:
                out.append(self.ids[symbol])
            else:
                out += [self.ids[f'<0x{b:02X}>'] for b in symbol.encode()]
        return out

    def decode(self, ids):
        text = ''.join(self.tokens[i] for i in ids)
        if not self.letters:
            return text.replace('\u2581', ' ')
        byte = {c: b for b, c in enumerate(self.letters)}
        return bytes(byte[c] for c in text if c in byte).decode(errors='replace')
