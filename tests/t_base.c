// Protects base/: arenas, growing strings, errors, hashes.
#include "tests/test.h"
#include <errno.h>
#include "base/arena.h"
#include "base/base.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"

TEST_MAIN

TEST(arena_aligns_and_zeroes)
{
    struct arena a = {0};
    for (size_t n = 1; n < 40000; n = n * 3 + 1) {
        char *p = arena_alloc(&a, n);
        REQUIRE(p && (uintptr_t)p % 16 == 0);
        for (size_t i = 0; i < n; i++)
            REQUIRE(p[i] == 0);
        memset(p, 0xff, n);
    }
    arena_reset(&a);
    REQUIRE_INT(a.used_bytes, 0);
}

TEST(arena_limit_and_overflow)
{
    struct arena a = { .max_bytes = 100 };
    REQUIRE(arena_alloc(&a, 80));
    REQUIRE(!arena_alloc(&a, 80));
    REQUIRE(!arena_calloc(&a, SIZE_MAX / 2, 3));
    REQUIRE(!arena_alloc(&a, SIZE_MAX));
    arena_reset(&a);
}

TEST(str_grows)
{
    struct str s = {0};
    for (int i = 0; i < 1000; i++)
        str_printf(&s, "%d,", i);
    REQUIRE(str_ok(&s));
    REQUIRE_INT(s.n, 3890);
    REQUIRE_INT(s.p[s.n], 0);
    str_add(&s, "a\0b", 3);
    REQUIRE_INT(s.n, 3893);
    str_free(&s);
    REQUIRE(s.p == NULL);
}

TEST(err_prefix_keeps_code)
{
    struct err e = {0};
    REQUIRE_INT(err_set(&e, -EINVAL, "bad %d", 7), -EINVAL);
    REQUIRE_INT(err_prefix(&e, "file %s", "x"), -EINVAL);
    REQUIRE_STR(e.msg, "file x: bad 7");
    char big[2 * ERR_MSG_MAX];
    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    err_prefix(&e, "%s", big);
    REQUIRE_INT(strlen(e.msg), ERR_MSG_MAX - 1);
    REQUIRE(strncmp(e.msg, "xxx", 3) == 0 && strstr(e.msg, "x: f"));
    REQUIRE_INT(err_set(NULL, -ENOMEM, "nobody reads this"), -ENOMEM);
}

TEST(hash_is_blake2b_256)
{
    // RFC 7693's function with a 32-byte digest of "abc", from `b2sum -l 256`.
    static const uint8_t want[HASH_BYTES] = {
        0xbd, 0xdd, 0x81, 0x3c, 0x63, 0x42, 0x39, 0x72, 0x31, 0x71, 0xef, 0x3f,
        0xee, 0x98, 0x57, 0x9b, 0x94, 0x96, 0x4e, 0x3b, 0xb1, 0xcb, 0x3e, 0x42,
        0x72, 0x62, 0xc8, 0xc0, 0x68, 0xd5, 0x23, 0x19,
    };
    struct hash h, again;
    hash_bytes("abc", 3, &h);
    REQUIRE(memcmp(h.b, want, HASH_BYTES) == 0);
    struct hash_state s;
    hash_start(&s);
    hash_add(&s, "a", 1);
    hash_add(&s, "bc", 2);
    hash_end(&s, &again);
    REQUIRE(hash_equal(&h, &again) && hash_equal_secret(&h, &again));
    again.b[31] ^= 1;
    REQUIRE(!hash_equal(&h, &again) && !hash_equal_secret(&h, &again));
}
