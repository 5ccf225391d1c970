// What a tokenizer is made of, for tokenizer.c and encode.c alone.
#pragma once
#include "engine/text/bpe.h"
#include "engine/text/pretok.h"
#include "engine/text/special.h"
#include "engine/text/spm.h"
#include "engine/text/vocab.h"

struct tokenizer {
    struct vocab   vocab;
    struct special special;
    struct bpe     bpe;                 // VOCAB_BPE, with pretok
    struct pretok *pretok;              // owned
    bool           nfc;
    struct spm     spm;                 // VOCAB_SPM
    bool           add_space;           // before every run of text
    bool           add_bos;
    int32_t        bos, eos, eot, eom;  // -1: none
};
