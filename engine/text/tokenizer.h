// Text to tokens and back, from the vocabulary in a GGUF file.
//
// Two algorithms: byte-pair encoding over pre-tokenizer pieces (gpt2, smollm, qwen2, llama-bpe) and
// SentencePiece-style merging by score with byte fallback (gemma, llama). Source: the `tokenizers`
// library's behaviour, which tests compare with; see tests/golden.
// Thread-safety: immutable after tokenizer_open; used from any thread.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct gguf;
struct tokenizer;

struct tokens {                         // a growing list, owned by whoever holds it
    int32_t *id;
    size_t   n, cap;
};
int  tokens_add(struct tokens *t, int32_t id);          // 0 or -ENOMEM
void tokens_free(struct tokens *t);

enum token_type {                       // tokenizer.ggml.token_type
    TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE,
};

enum tokenize_flags {
    TOKENIZE_SPECIAL = 1,   // the text of a control token becomes that token; else it is plain text
    TOKENIZE_BOS = 2,       // put BOS first if the model adds one and the result lacks it
    TOKENIZE_GOES_ON = 4,   // the text stands behind another: no space is put before it
};

// Works on files without tensors. Returns 0, -EINVAL (damaged vocabulary), -ENOTSUP (an unknown
// model or pre-tokenizer, named), -ENOMEM.
int  tokenizer_open(struct tokenizer **ret, const struct gguf *g, struct err *err);
void tokenizer_close(struct tokenizer *t);              // NULL is fine

// Appends the tokens of text[0..n) to out. With `plain` (n bytes), no control token is read where a
// byte of its text is marked non-zero: that is how a chat prompt keeps what users typed plain text
// while the text around it is still tokenised as one run. Invalid UTF-8 is allowed; the time is
// linear or n log n. Where the vocabulary lacks tokens for some bytes (SmolLM2's does), what is no
// UTF-8 becomes U+FFFD, and characters written with such bytes lose those bytes.
// On failure out is as before. Returns 0 or -ENOMEM.
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, const uint8_t *plain,
                     unsigned flags, struct tokens *out, struct err *err);

// The bytes that a token adds to a text; borrowed. Control tokens give their text when `special`,
// else nothing. A token may end within a UTF-8 character.
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool special, size_t *n);

uint32_t        tokenizer_n_vocab(const struct tokenizer *t);
enum token_type tokenizer_type(const struct tokenizer *t, int32_t id);
int32_t         tokenizer_bos(const struct tokenizer *t);       // -1: none
int32_t         tokenizer_eos(const struct tokenizer *t);       // -1: none
bool            tokenizer_adds_bos(const struct tokenizer *t);
// Encoding puts a space before the text; whoever turns tokens back into a whole text drops it.
bool            tokenizer_adds_space(const struct tokenizer *t);
// Ends a generation: EOS, EOT/EOM keys, and the usual end-of-turn control tokens by text.
bool            tokenizer_is_end(const struct tokenizer *t, int32_t id);
// The id whose text is exactly this, or -1.
int32_t         tokenizer_find(const struct tokenizer *t, const char *text, size_t n);
