#!/usr/bin/env python3
# Makes tests/golden/tokenizer.txt: what the `tokenizers` library gives for awkward texts.
#
#     pip install gguf tokenizers
#     python3 tests/golden/tokenizer.py [FOLDER OF THE THREE MODELS] > tests/golden/tokenizer.txt
#
# The vocabularies come from the GGUF files; normalizers, pre-tokenizers and merge rules are those
# of the families' published tokenizer.json. reference() can be imported for wider comparisons.
import os
import sys
import unicodedata

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

MODELS = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "qwen2": "qwen2.5-coder-0.5b-instruct.gguf",
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")


def gpt4_split(digits):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(GPT4 % digits), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
    "qwen2": gpt4_split(r"\p{N}"),
    "llama-bpe": gpt4_split(r"\p{N}{1,3}"),
}


def merges_by_score(scores):
    """All ways to cut a token in two, the highest score first, as transformers derives them."""
    found = []
    for piece, score in scores.items():
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found += [(score, len(l), len(r), l, r) for l, r in cuts if l in scores and r in scores]
    found.sort(key=lambda m: m[:3], reverse=True)
    return [(l, r) for _, _, _, l, r in found]


def spm_model(tokens, types, scores):
    # The converter wrote runs of spaces with spaces and gave every special token a score of -1000;
    # in the original, user-defined pieces have the score 0 and U+2581.
    text = [t.replace(" ", "\u2581") if ty == USER_DEFINED else t for t, ty in zip(tokens, types)]
    score = {t: 0.0 if ty == USER_DEFINED else s
             for t, ty, s in zip(text, types, scores) if ty in (NORMAL, USER_DEFINED)}
    model = BPE({t: i for i, t in enumerate(text)}, merges_by_score(score), byte_fallback=True,
                fuse_unk=True, unk_token="<unk>")
    tok = Tokenizer(model)
    tok.normalizer = normalizers.Replace(" ", "\u2581")
    return tok, text


def reference(path):
    """The reference tokenizer of a GGUF file. encode(text) reads control tokens; see plain()."""
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = get("tokens"), get("token_type")
    if get("model") == "llama":
        tok, tokens = spm_model(tokens, types, get("scores"))
    else:
        merges = [tuple(m.split(" ")) for m in get("merges")]
        tok = Tokenizer(BPE({t: i for i, t in enumerate(tokens)}, merges))
        tok.pre_tokenizer = PRE[get("pre")]
        if get("pre") == "qwen2":
            tok.normalizer = normalizers.NFC()
    added = [AddedToken(t, normalized=False, special=ty != USER_DEFINED)
             for t, ty in zip(tokens, types) if ty in (UNKNOWN, CONTROL, USER_DEFINED)]
    tok.add_special_tokens([a for a in added if a.special])
    tok.add_tokens([a for a in added if not a.special])
    return tok


def encode(tok, text, special):
    tok.encode_special_tokens = not special     # True: the text of special tokens is plain text
    return tok.encode(text, add_special_tokens=False).ids


TEXTS = [
    "", " ", "a", "Hello, world!", " leading", "trailing ", "two  spaces   three    four",
    "The quick brown fox jumps over the lazy dog. It's 3:45 p.m., isn't it? They'll've "
    "gone; I'd say we're "
    "done, you're 'right', don't SHOUT'S 'S 'LL 'Re 'tis",
    "\n", "\n\n", "\r\n", "a\r\nb\r\n\r\nc\rd\n\re", "\t", "\t\tif x:\n\t\t\treturn 1\n",
    " \n \n  \n\n   ", "x \n", "x\n ", "  \n\t \r\n \x0b\x0c ", "\n" * 40, " " * 31,
    " " * 40 + "x", "\t" * 35, " \t" * 9 + "z",
    "0", "7", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000.50",
    "a1b22c333d4444", "0x1F", " 42 ", "٣٤٥ ४५६ ⅷ ½ ² ①", "2024-12-31T23:59:59Z",
    "def f(x):\n    \"\"\"Doc.\"\"\"\n    return {k: v**2 for k, v in x.items() if v != 0}\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2.5f; } // sum\n#include <stdio.h>\n",
    "<div class=\"x\"><table><tr><td>1</td></tr></table></div><b>bold</b><bR></s><s>",
    "https://example.com/a/b?c=d&e=%20f#g user@example.org C:\\path\\to",
    "snake_case camelCase PascalCase SCREAMING",
    "Größe, naïve café, Ærøskøbing, İstanbul ıI, ΑΒΓ αβγς, Привет, мир!", "你好，世界。今天天气怎么样？",
    "日本語のテキストとカタカナ、ひらがな。", "한국어 텍스트입니다.", "สวัสดีชาวโลก", "नमस्ते दुनिया क्षत्रिय",
    "שָׁלוֹם עֲלֵיכֶם", "مرحبا بالعالم \u200fRTL\u200e", "ქართული Հայերեն ቋንቋ",
    "cafe\u0301 vs café", "e\u0301\u0323 e\u0323\u0301 A\u030a Å \u212b \u2126",
    "\u1112\u1161\u11ab 한 \uc8e8\u11a7 \u1112\u1161\u11a7\u11a8", "\u0344 \u0958 \ufb1d \u2adc",
    "a" + "\u0301\u0327\u0323\u0308" * 12,
    "\u0301start", "q\u0307\u0323 s\u0323\u0307 \u1e69", "ﬁ ﬂ ㎏ Ⅳ ｆｕｌｌ　ｗｉｄｔｈ", "👍",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 ☺️ ❤️‍🔥", "🤖🦀𝕳𝖊𝖑𝖑𝖔 𐍈 𓀀", "\U0001f468\u200d\U0001f52c\u200d",
    "\u00a0nbsp\u00a0 \u2003em \u3000ideographic \u200bzwsp \ufeffbom "
    "\u2028line\u2029para\u0085nel \u1680ogham \u180emvs",
    "\u2581", "\u2581hello\u2581world", "a\u2581 b", "x\u2581", "\u2581\u2581\u2581z",
    ">\u2581</ > </ >  </", "<|endoftext|>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "<|im_start",
    "|im_end|>", "<|im_start|><|im_start|>", "<bos><eos><pad><unk><mask>",
    "<start_of_turn>user\nhi<end_of_turn>\n", "<unused0><unused99><unused6241>",
    "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    "<repo_name>x<file_sep>y", "<s>[INST] x [/INST]</s>",
    "[multimodal]<start_of_image><end_of_image>", "[PAD151665]", "<0x0A><0x41>",
    "<|object_ref_start|>", "<|im_\u200bstart|>", "<|IM_START|>", "< |im_start|>",
    "<|im_start|> <|im_end|>  x", "<code>  </code>\t\t<code>", "\x00nul\x01\x02\x7f",
    "\x1b[31mred\x1b[0m", "\ufffd \uffff \U0010ffff \ue000",
    "!!! ??? ... --- ___ *** ### $$$ %%% ^^^ &&& ((( ))) [[[ ]]] {{{ }}}", "a.b,c;d:e!f?g",
    "'''\"\"\"```", "''s ' s 'ſ 've'VE'vE",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "Donaudampfschifffahrtsgesellschaft", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababababababababababababababababab", "=" * 70, "-" * 33 + "|" * 17,
    "Mixed 语言 text と emoji 🎉 and العربية in one линия, ok?",
]
REPEATED = [(700, "a"), (400, "ab"), (300, "  "), (250, "é"), (120, "ha!"), (90, "漢字"),
            (60, "\r\n\t"), (50, "👩‍👧"), (200, "x1")]


def escape(text):
    out = ""
    for c in text:
        hidden = unicodedata.category(c)[0] in "CZ" and c != " "
        hexes = "".join("\\x%02x" % b for b in c.encode())
        out += "\\\\" if c == "\\" else hexes if hidden else c
    return out


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.expanduser("~/.cache/godwit/models")
    toks = {name: reference(os.path.join(folder, file)) for name, file in MODELS.items()}
    print("# Made by tests/golden/tokenizer.py; do not edit. Each `text N STRING` (N times\n"
          "# over, bytes as \\xNN) is followed by its form C where that differs, the lengths of\n"
          "# pieces in bytes, and token ids.")
    for times, text in [(1, t) for t in TEXTS] + REPEATED:
        print("text %d %s" % (times, escape(text)))
        whole = text * times
        if unicodedata.normalize("NFC", whole) != whole:
            print("nfc " + escape(unicodedata.normalize("NFC", text)))
        for name, pre in PRE.items():
            ends = [b for _, (_, b) in pre.pre_tokenize_str(whole)]
            sizes = [len(whole[a:b].encode()) for a, b in zip([0] + ends, ends)]
            print("pieces %s %s" % (name, " ".join(map(str, sizes))))
        for name, tok in toks.items():
            plain, special = encode(tok, whole, False), encode(tok, whole, True)
            if plain == special:
                print("both %s %s" % (name, " ".join(map(str, plain))))
            else:
                print("plain %s %s" % (name, " ".join(map(str, plain))))
                print("special %s %s" % (name, " ".join(map(str, special))))


if __name__ == "__main__":
    main()
