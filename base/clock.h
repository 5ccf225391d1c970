// Monotonic time. Whatever must be testable takes `now_ns` as an argument instead of calling this.
#pragma once
#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

uint64_t clock_now_ns(void);    // CLOCK_MONOTONIC
int64_t  clock_unix_s(void);    // seconds since 1970, for `created` fields
