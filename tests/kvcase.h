// What test cases of the store share.
#pragma once
#include "tests/test.h"
#include "tests/kvrig.h"

static inline struct kv_store *open_store(const struct kv_store_params *p)
{
    struct kv_store *s = NULL;
    struct err e = {0};
    REQUIRE_OK(kv_store_open(&s, p, &e), e);
    return s;
}

static inline struct kv_stats stats(struct kv_store *s)
{
    struct kv_stats st;
    kv_store_stats(s, &st);
    return st;
}
