// Protects engine/model/gguf: what the format allows is read, whatever is damaged is refused with
// the field and the byte, before memory is spent on it.
#include "tests/test.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/base.h"
#include "base/str.h"
#include "engine/model/gguf.h"
#include "tests/fuzz/walk_gguf.h"

TEST_MAIN

// ---- a writer ----------------------------------------------------------------------------------

// Files are written as little programs of words after the magic:
//     1:N 2:N 4:N 8:N   an integer of so many bytes
//     s:TEXT            a string with its length; \0 in TEXT is a NUL byte
//     z:N               N zero bytes
//     |N                zero bytes up to a multiple of N
// A program that begins with "!" leaves out the magic.
static void put_word(struct str *out, const char *word, size_t n)
{
    uint64_t v = strtoull(word + (word[0] == '|' ? 1 : 2), NULL, 0);
    if (word[0] == 's') {
        struct str text = {0};
        for (const char *p = word + 2; p < word + n; p++)
            if (p[0] == '\\' && p[1] == '0')
                str_putc(&text, (p++, '\0'));
            else
                str_putc(&text, *p);
        uint64_t len = text.n;
        str_add(out, &len, 8);
        str_add(out, text.p, text.n);
        str_free(&text);
    } else if (word[0] == 'z') {
        while (v--)
            str_putc(out, 0);
    } else if (word[0] == '|') {
        while (out->n % v)
            str_putc(out, 0);
    } else {
        str_add(out, &v, (size_t)(word[0] - '0'));
    }
}

static void put(struct str *out, const char *program)
{
    if (program[0] == '!')
        program++;
    else
        str_puts(out, "GGUF");
    while (*program) {
        size_t n = strcspn(program, " ");
        put_word(out, program, n);
        program += n;
        program += strspn(program, " ");
    }
    REQUIRE(str_ok(out));
}

// Opens a copy of exactly n bytes, so that a sanitizer sees a read of one more. *mem outlives g.
static int open_copy(struct gguf **g, uint8_t **mem, const void *p, size_t n, struct err *e)
{
    *mem = malloc(n ? n : 1);
    REQUIRE(*mem);
    if (n)
        memcpy(*mem, p, n);
    return gguf_open_mem(g, *mem, n, e);
}

static int try_bytes(const void *p, size_t n, struct err *e)
{
    struct gguf *g = NULL;
    uint8_t *mem;
    int rc = open_copy(&g, &mem, p, n, e);
    REQUIRE((rc == 0) == (g != NULL));
    if (g)
        walk_gguf(g);
    gguf_close(g);
    free(mem);
    return rc;
}

// ---- what is allowed ----------------------------------------------------------------------------

#define TENSOR(name, dim, offset) "s:" name " 4:1 8:" dim " 4:0 8:" offset " "
// Every type of value; two tensors, the second first in the data.
#define RICH \
    "4:3 8:2 8:15 " \
    "s:general.alignment 4:10 8:64 " \
    "s:u8 4:0 1:200 s:i8 4:1 1:0xf0 s:u16 4:2 2:60000 s:i16 4:3 2:0xfff0 s:u32 4:4 4:4000000000 " \
    "s:i32 4:5 4:0xfffffff0 s:f32 4:6 4:0x3fc00000 s:true 4:7 1:1 s:text 4:8 s:a\"\\0b " \
    "s:u64 4:10 8:0xffffffffffffffff s:i64 4:11 8:0xfffffffffffffff0 " \
    "s:f64 4:12 8:0x7ff0000000000000 " \
    "s:list 4:9 4:3 8:3 2:1 2:0xffff 2:3 s:words 4:9 4:8 8:2 s:one s:two " \
    "s:a 4:2 8:32 8:2 4:2 8:64 s:b 4:1 8:3 4:0 8:0 |64 z:12 |64 z:36 z:7"

static const char *const good[] = {
    "4:2 8:0 8:0",                                                          // version 2
    "4:3 8:0 8:0 z:9",                                                      // trailing bytes
    "4:3 8:1 8:0 " TENSOR("w", "3", "0") "|32 z:12",                        // no alignment key
    "4:3 8:1 8:1 s:general.alignment 4:4 4:4096 " TENSOR("w", "3", "4096") "|4096 z:4108",
    "4:3 8:2 8:0 " TENSOR("w", "3", "32") TENSOR("v", "8", "0") "|32 z:44", // any order, no gap
    "4:3 8:0 8:1 s:k 4:9 4:8 8:0",                                          // an empty array
    "4:3 8:0 8:2 s:k 4:8 s: s:l 4:7 1:0",                                   // an empty string
    "4:3 8:1 8:0 s:w 4:4 8:32 8:1 8:2 8:3 4:8 8:0 |32 z:204",               // four dimensions
    RICH,
};

TEST(allowed_forms_open)
{
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct str s = {0};
        struct err e = {0};
        put(&s, good[i]);
        if (try_bytes(s.p, s.n, &e) != 0)
            TEST_FAIL("%s: %s", good[i], e.msg);
        str_free(&s);
    }
}

TEST(values_keep_type_and_range)
{
    struct str s = {0};
    struct gguf *g = NULL;
    uint8_t *mem;
    struct err e = {0};
    uint64_t u64 = 7;
    uint32_t u32 = 7;
    float f = 7;
    bool b = false;
    struct gguf_str text;
    struct gguf_array a;
    put(&s, RICH);
    REQUIRE_OK(open_copy(&g, &mem, s.p, s.n, &e), e);

    REQUIRE_INT(gguf_u64(g, "none", 0, 9, &u64, &e), -ENOENT);
    REQUIRE(e.code == 0 && u64 == 7);
    REQUIRE_OK(gguf_u64(g, "u8", 200, 200, &u64, &e), e);
    REQUIRE_INT(u64, 200);
    REQUIRE_OK(gguf_u32(g, "u32", 0, UINT32_MAX, &u32, &e), e);
    REQUIRE(u32 == 4000000000u);
    REQUIRE_INT(gguf_u32(g, "u64", 0, UINT32_MAX, &u32, &e), -EINVAL);
    REQUIRE_OK(gguf_u64(g, "u64", 0, UINT64_MAX, &u64, &e), e);
    REQUIRE(u64 == UINT64_MAX && u32 == 4000000000u);
    REQUIRE_INT(gguf_u64(g, "i8", 0, UINT64_MAX, &u64, &e), -EINVAL);
    REQUIRE_STR(e.msg, "key i8: -16 is negative");
    REQUIRE_INT(gguf_u32(g, "u16", 0, 59999, &u32, &e), -EINVAL);
    REQUIRE_STR(e.msg, "key u16: 60000 is not within 0 to 59999");
    REQUIRE_INT(gguf_u64(g, "true", 0, 9, &u64, &e), -EINVAL);
    REQUIRE_INT(gguf_u64(g, "list", 0, 9, &u64, &e), -EINVAL);
    REQUIRE_STR(e.msg, "key list: is an array of i16, not an integer");

    REQUIRE_OK(gguf_f32(g, "f32", &f, &e), e);
    REQUIRE(f == 1.5f);
    REQUIRE_OK(gguf_f32(g, "i64", &f, &e), e);
    REQUIRE(f == -16);
    REQUIRE_OK(gguf_f32(g, "u64", &f, &e), e);
    REQUIRE(f == 0x1p64f);
    REQUIRE_INT(gguf_f32(g, "f64", &f, &e), -EINVAL);       // infinite
    REQUIRE_INT(gguf_f32(g, "text", &f, &e), -EINVAL);
    REQUIRE_OK(gguf_bool(g, "true", &b, &e), e);
    REQUIRE(b);
    REQUIRE_INT(gguf_bool(g, "u8", &b, &e), -EINVAL);
    REQUIRE_OK(gguf_string(g, "text", &text, &e), e);
    REQUIRE(text.n == 4 && memcmp(text.p, "a\"\0b", 4) == 0);
    REQUIRE_INT(gguf_string(g, "words", &text, &e), -EINVAL);

    REQUIRE_OK(gguf_get_array(g, "list", &a, &e), e);
    REQUIRE(a.n == 3 && a.type == GGUF_I16 && gguf_array_int(&a, 1) == -1);
    REQUIRE(gguf_array_f32(&a, 2) == 3);
    REQUIRE_OK(gguf_get_array(g, "words", &a, &e), e);
    REQUIRE(a.n == 2 && !a.data && a.str[1].n == 3 && memcmp(a.str[1].p, "two", 3) == 0);
    REQUIRE_INT(gguf_get_array(g, "text", &a, &e), -EINVAL);
    gguf_close(g);
    free(mem);
    str_free(&s);
}

TEST(tensors_keep_file_order)
{
    struct str s = {0};
    struct gguf *g = NULL;
    uint8_t *mem;
    struct err e = {0};
    put(&s, RICH);
    REQUIRE_OK(open_copy(&g, &mem, s.p, s.n, &e), e);
    REQUIRE_INT(gguf_n_tensors(g), 2);
    const struct tensor *a = gguf_tensor_at(g, 0), *b = gguf_tensor(g, "b");
    REQUIRE_STR(a->name, "a");
    REQUIRE(a->n_dims == 2 && a->dim[0] == 32 && a->dim[1] == 2);
    REQUIRE(a->dim[2] == 1 && a->dim[3] == 1);
    REQUIRE(a->quant == &quants[QUANT_q4_0] && a->bytes == 36);
    REQUIRE(b->bytes == 12 && b == gguf_tensor_at(g, 1));
    REQUIRE((const uint8_t *)a->data == (const uint8_t *)b->data + 64);
    REQUIRE(((const uint8_t *)b->data - mem) % 64 == 0);
    REQUIRE(!gguf_tensor(g, "c"));
    REQUIRE_INT(gguf_file_bytes(g), s.n);
    gguf_close(g);
    free(mem);
    str_free(&s);
}

static void check_json(const struct gguf *g, const char *name, size_t max_items, const char *want)
{
    const char *key;
    enum gguf_type type;
    size_t i = 0;
    struct str s = {0};
    while (gguf_key_at(g, i, &key, &type) && strcmp(key, name) != 0)
        i++;
    gguf_key_json(g, i, max_items, &s);
    REQUIRE_STR(s.p, want);
    str_free(&s);
}

TEST(values_print_as_json)
{
    struct str s = {0};
    struct gguf *g = NULL;
    uint8_t *mem;
    struct err e = {0};
    put(&s, RICH);
    REQUIRE_OK(open_copy(&g, &mem, s.p, s.n, &e), e);
    check_json(g, "text", 8, "\"a\\\"\\u0000b\"");
    check_json(g, "u64", 8, "18446744073709551615");
    check_json(g, "i64", 8, "-16");
    check_json(g, "f32", 8, "1.5");
    check_json(g, "f64", 8, "null");
    check_json(g, "true", 8, "true");
    check_json(g, "list", 8, "[1,-1,3]");
    check_json(g, "list", 2, "{\"type\":\"i16\",\"count\":3,\"first\":[1,-1]}");
    check_json(g, "words", 8, "[\"one\",\"two\"]");
    gguf_close(g);
    free(mem);
    str_clear(&s);
    // 31 letters, then a character that the limit of 32 bytes would cut; an ill-formed byte.
    put(&s, "4:3 8:0 8:2 s:k 4:8 s:0123456789012345678901234567890\xc3\xa9 s:l 4:8 s:\xff\xc3\xa9");
    REQUIRE_OK(open_copy(&g, &mem, s.p, s.n, &e), e);
    check_json(g, "k", 1, "{\"bytes\":33,\"first\":\"0123456789012345678901234567890\"}");
    check_json(g, "l", 1, "\"\\ufffd\xc3\xa9\"");
    gguf_close(g);
    free(mem);
    str_free(&s);
}

// ---- what is refused ---------------------------------------------------------------------------

static const struct bad { const char *program; int code; const char *message; } bad[] = {
    { "!", -EINVAL, "magic at byte 0" },
    { "", -EINVAL, "version at byte 4" },
    { "!1:0x47 1:0x47 1:0x55 1:0x45 4:3 8:0 8:0", -EINVAL, "not a GGUF file" },
    { "4:0 8:0 8:0", -ENOTSUP, "version at byte 4: 0" },
    { "4:1 8:0 8:0", -ENOTSUP, "version at byte 4: 1" },
    { "4:4 8:0 8:0", -ENOTSUP, "version at byte 4: 4" },
    { "4:0x03000000 8:0 8:0", -ENOTSUP, "big-endian" },

    // Counts
    { "4:3 8:0xffffffffffffffff 8:0", -EINVAL, "number of tensors at byte 8" },
    { "4:3 8:1000 8:0", -EINVAL, "number of tensors at byte 8: 1000 cannot fit in 8 bytes" },
    { "4:3 8:0 8:0xffffffffffffffff", -EINVAL, "number of keys at byte 16" },
    { "4:3 8:0 8:1 z:13", -EINVAL, "number of keys at byte 16: 1 cannot fit in 13 bytes" },

    // Keys
    { "4:3 8:0 8:1 8:0xffffffffffffffff z:20", -EINVAL, "key at byte 24" },
    { "4:3 8:0 8:1 8:0x8000000000000000 z:20", -EINVAL, "key at byte 24" },
    { "4:3 8:0 8:1 8:65537 z:70000", -EINVAL, "65537 is more than 65536" },
    { "4:3 8:0 8:1 8:21 z:20", -EINVAL, "key at byte 24: 21 cannot fit in 20 bytes" },
    { "4:3 8:0 8:1 s: 4:0 1:0 z:9", -EINVAL, "key at byte 24: empty" },
    { "4:3 8:0 8:1 s:a\\0b 4:0 1:0 z:9", -EINVAL, "key at byte 24: holds the control byte 0x00" },
    { "4:3 8:0 8:1 s:a\nb 4:0 1:0 z:9", -EINVAL, "holds the control byte 0x0a" },
    { "4:3 8:0 8:1 s:k 4:13 z:9", -EINVAL, "key k: type at byte 33: unknown type 13" },
    { "4:3 8:0 8:1 s:k 4:10 z:7", -EINVAL, "key k: value at byte 37: needs 8 bytes, 7 remain" },
    { "4:3 8:0 8:1 s:k 4:8 8:16777217 z:16777217", -EINVAL, "string at byte 37: 16777217 is more" },
    { "4:3 8:0 8:1 s:k 4:8 8:0xffffffffffffffff z:9", -EINVAL, "key k: string at byte 37" },
    { "4:3 8:0 8:1 s:k 4:7 1:2", -EINVAL, "key k: value at byte 37: a bool of 2" },
    { "4:3 8:0 8:1 s:k 4:9 4:7 8:2 1:1 1:7", -EINVAL, "value at byte 50: a bool of 7" },
    { "4:3 8:0 8:2 s:k 4:0 1:0 s:k 4:0 1:0", -EINVAL, "key k appears twice" },

    // Arrays
    { "4:3 8:0 8:1 s:k 4:9 4:9 8:1 4:0 8:1 1:0", -EINVAL, "key k: array type at byte 37" },
    { "4:3 8:0 8:1 s:k 4:9 4:0 8:0x1000001 z:0x1000001", -EINVAL, "array length at byte 41" },
    { "4:3 8:0 8:1 s:k 4:9 4:10 8:0x2000000000000001 z:8", -EINVAL, "array length at byte 41" },
    { "4:3 8:0 8:1 s:k 4:9 4:10 8:3 z:23", -EINVAL, "array length at byte 41: 3 cannot fit in 23" },
    { "4:3 8:0 8:1 s:k 4:9 4:8 8:0xffffff z:99", -EINVAL, "array length at byte 41" },
    { "4:3 8:0 8:1 s:k 4:9 4:8 8:2 s:a 8:99", -EINVAL, "string at byte 58: 99 cannot fit in 0" },

    // Alignment
    { "4:3 8:0 8:1 s:general.alignment 4:4 4:0", -EINVAL, "key general.alignment: 0" },
    { "4:3 8:0 8:1 s:general.alignment 4:4 4:4", -EINVAL, "key general.alignment: 4" },
    { "4:3 8:0 8:1 s:general.alignment 4:4 4:48", -EINVAL, "48 is no power of two" },
    { "4:3 8:0 8:1 s:general.alignment 4:4 4:131072", -EINVAL, "key general.alignment: 131072" },
    { "4:3 8:0 8:1 s:general.alignment 4:5 4:0xffffffe0", -EINVAL, "-32 is negative" },
    { "4:3 8:0 8:1 s:general.alignment 4:8 s:32", -EINVAL, "is string, not an integer" },

    // Tensors
    { "4:3 8:1 8:0 s: 4:1 8:1 4:0 8:0 |32 z:9", -EINVAL, "tensor name at byte 24: empty" },
    { "4:3 8:1 8:0 s:w\\0 4:1 8:1 4:0 8:0 |32 z:9", -EINVAL, "tensor name at byte 24: holds" },
    { "4:3 8:1 8:0 s:w 4:0 4:0 8:0 |32 z:99", -EINVAL, "tensor w: dimensions at byte 33: 0" },
    { "4:3 8:1 8:0 s:w 4:5 8:1 8:1 8:1 8:1 8:1 4:0 8:0 |32 z:99", -EINVAL, "tensor w: dimensions" },
    { "4:3 8:1 8:0 s:w 4:2 8:32 8:0 4:0 8:0 |32 z:99", -EINVAL, "dimension at byte 45: zero" },
    { "4:3 8:1 8:0 s:w 4:4 8:0x7fffffffffffffff 8:2 8:1 8:1 4:0 8:0 |32 z:99",
      -EINVAL, "more than" },
    { "4:3 8:1 8:0 s:w 4:2 8:0x100000000 8:0x100000000 4:0 8:0 |32 z:99",
      -EINVAL, "byte 45: more" },
    { "4:3 8:1 8:0 s:w 4:1 8:0x1000000000001 4:0 8:0 |32 z:99", -EINVAL, "byte 37: more than" },
    { "4:3 8:1 8:0 s:w 4:1 8:0x1000000000000 4:0 8:0 |32 z:99", -EINVAL, "end beyond the file" },
    { "4:3 8:1 8:0 s:w 4:2 8:31 8:32 4:2 8:0 |32 z:999",
      -EINVAL, "rows of 31 are no multiple of 32" },
    { "4:3 8:1 8:0 s:w 4:1 8:128 4:12 8:0 |32 z:999",
      -EINVAL, "no multiple of 256, the block of q4_k" },
    { "4:3 8:1 8:0 s:w 4:1 8:256 4:10 8:0 |32 z:999",
      -ENOTSUP, "tensor w: type at byte 45: Q2_K (10)" },
    { "4:3 8:1 8:0 s:w 4:1 8:256 4:999 8:0 |32 z:999", -ENOTSUP, "unknown (999)" },
    { "4:3 8:1 8:0 " TENSOR("w", "3", "16") "|32 z:99",
      -EINVAL, "tensor w: offset 16 is no multiple" },
    { "4:3 8:1 8:0 " TENSOR("w", "3", "0") "|32 z:11", -EINVAL, "tensor w: 12 bytes at offset 0" },
    { "4:3 8:1 8:0 " TENSOR("w", "3", "0"), -EINVAL, "tensor data at byte 57: beyond" },
    { "4:3 8:1 8:0 " TENSOR("w", "3", "0xffffffffffffffe0") "|32 z:99", -EINVAL, "end beyond" },
    { "4:3 8:1 8:0 " TENSOR("w", "9", "0xffffffffffffffe0") "|32 z:99", -EINVAL, "end beyond" },
    { "4:3 8:2 8:0 " TENSOR("v", "9", "0") TENSOR("w", "3", "32") "|32 z:99",
      -EINVAL, "overlaps tensor v" },
    { "4:3 8:2 8:0 " TENSOR("v", "3", "0") TENSOR("w", "3", "0") "|32 z:99",
      -EINVAL, "overlaps tensor v" },
    { "4:3 8:2 8:0 " TENSOR("v", "3", "0") TENSOR("v", "3", "32") "|32 z:99",
      -EINVAL, "v appears twice" },
    { "4:3 8:0 8:1 s:split.count 4:2 2:3", -EINVAL, "split.count" },
};

TEST(damaged_files_are_refused_by_field_and_byte)
{
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct str s = {0};
        struct err e = {0};
        put(&s, bad[i].program);
        int rc = try_bytes(s.p, s.n, &e);
        if (rc != bad[i].code || !strstr(e.msg, bad[i].message))
            TEST_FAIL("%s: %d \"%s\", not %d \"%s\"", bad[i].program, rc, e.msg, bad[i].code,
                      bad[i].message);
        REQUIRE_INT(e.code, rc);
        str_free(&s);
    }
}

TEST(metadata_beyond_its_limit_is_refused)
{
    struct str s = {0};
    struct err e = {0};
    put(&s, "4:3 8:0 8:17");
    for (char c = 'a'; c < 'a' + 17; c++) {
        put(&s, "!s:k");
        s.p[s.n - 1] = c;
        put(&s, "!4:8 8:0x1000000");
        char *zeros = calloc(1, 1 << 24);
        REQUIRE(zeros);
        str_add(&s, zeros, 1 << 24);
        free(zeros);
    }
    struct gguf *g = NULL;
    REQUIRE_INT(gguf_open_mem(&g, s.p, s.n, &e), -EINVAL);
    REQUIRE(strstr(e.msg, "key p") && strstr(e.msg, "more than 268435456 bytes"));
    str_free(&s);
}

TEST(every_truncation_is_refused)
{
    struct str s = {0};
    put(&s, RICH);
    size_t whole = s.n - 7;         // the rest is trailing bytes
    for (size_t n = 0; n < s.n; n++) {
        struct err e = {0};
        int rc = try_bytes(s.p, n, &e);
        if (rc != (n < whole ? -EINVAL : 0))
            TEST_FAIL("%zu of %zu bytes: %d %s", n, s.n, rc, e.msg);
        REQUIRE(rc == 0 || strstr(e.msg, " byte"));
    }
    str_free(&s);
}

// What a byte was damaged to does not matter: the file is refused or sound.
TEST(random_damage_never_crashes)
{
    uint64_t seed = 20, refused = 0;
    struct str s = {0};
    put(&s, RICH);
    for (int i = 0; i < 20000; i++) {
        char old[4];
        size_t at[4];
        for (int j = 0; j < 4; j++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            at[j] = (seed >> 33) % s.n;
            old[j] = s.p[at[j]];
            s.p[at[j]] = (char)(seed >> 20 & 3 ? seed >> 25 : 0xff);
        }
        refused += try_bytes(s.p, s.n, NULL) != 0;
        for (int j = 3; j >= 0; j--)
            s.p[at[j]] = old[j];
    }
    REQUIRE(refused > 10000);
    str_free(&s);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static rlim_t data_bytes_now(void)
{
    char line[256];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    REQUIRE(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "VmData: %lu kB", &kib) == 1)
            break;
    fclose(f);
    REQUIRE(kib > 0);
    return (rlim_t)kib * 1024;
}

TEST(small_files_cost_little_memory)
{
#ifdef SANITIZED
    SKIP("the sanitizer has its own memory");
#endif
    static const char *const program[] = {
        "4:3 8:0xfffff 8:0", "4:3 8:0 8:0xffff", "4:3 8:0 8:1 s:k 4:9 4:8 8:0xffffff",
        "4:3 8:0 8:1 s:k 4:8 8:0xffffff", "4:3 8:0 8:1 8:65536 z:8", "4:3 8:0xfffff 8:0xffff",
    };
    struct rlimit old, low;
    REQUIRE(getrlimit(RLIMIT_DATA, &old) == 0);
    low = old;
    low.rlim_cur = data_bytes_now() + (1 << 20);
    for (size_t i = 0; i < ARRAY_LEN(program); i++) {
        struct str s = {0};
        struct err e = {0};
        put(&s, program[i]);
        REQUIRE(setrlimit(RLIMIT_DATA, &low) == 0);
        int rc = try_bytes(s.p, s.n, &e);
        REQUIRE(setrlimit(RLIMIT_DATA, &old) == 0);
        if (rc != -EINVAL)
            TEST_FAIL("%s: %d %s", program[i], rc, e.msg);
        str_free(&s);
    }
}

// ---- files -----------------------------------------------------------------------------------

static char dir[64];

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void write_file(const char *name, const char *program)
{
    struct str s = {0};
    put(&s, program);
    FILE *f = fopen(path_of(name), "wb");
    REQUIRE(f && (s.n == 0 || fwrite(s.p, 1, s.n, f) == s.n) && fclose(f) == 0);
    str_free(&s);
}

static void make_dir(void)
{
    snprintf(dir, sizeof(dir), "/tmp/t_gguf.XXXXXX");
    REQUIRE(mkdtemp(dir));
}

TEST(odd_paths_are_refused)
{
    struct gguf *g = NULL;
    struct err e = {0};
    make_dir();
    REQUIRE_INT(gguf_open(&g, path_of("none"), &e), -ENOENT);
    REQUIRE(strstr(e.msg, path_of("none")) && e.code == -ENOENT);
    REQUIRE_INT(gguf_open(&g, dir, &e), -EINVAL);
    REQUIRE(strstr(e.msg, "not a regular file"));
    write_file("empty", "!");
    REQUIRE_INT(gguf_open(&g, path_of("empty"), &e), -EINVAL);
    REQUIRE(strstr(e.msg, "magic at byte 0") && !g);
    unlink(path_of("empty"));
    rmdir(dir);
}

TEST(a_shrunk_file_is_noticed)
{
    struct gguf *g = NULL;
    struct err e = {0};
    make_dir();
    write_file("m", "4:3 8:1 8:0 " TENSOR("w", "3", "0") "|32 z:12");
    REQUIRE_OK(gguf_open(&g, path_of("m"), &e), e);
    REQUIRE_OK(gguf_check_size(g, &e), e);
    REQUIRE(truncate(path_of("m"), 70) == 0);
    REQUIRE_INT(gguf_check_size(g, &e), -EIO);
    gguf_close(g);
    unlink(path_of("m"));
    rmdir(dir);
}

#define SPLIT(no, count) "s:split.no 4:2 2:" no " s:split.count 4:2 2:" count " "

static void write_set(const char *third)
{
    write_file("m-00001-of-00003.gguf", "4:3 8:1 8:4 " SPLIT("0", "3")
               "s:split.tensors.count 4:5 4:4 s:general.alignment 4:4 4:64 "
               TENSOR("a", "3", "0") "|64 z:12");
    write_file("m-00002-of-00003.gguf", "4:3 8:2 8:2 " SPLIT("1", "3") TENSOR("b", "3", "32")
               TENSOR("c", "3", "0") "|32 z:44");
    write_file("m-00003-of-00003.gguf", third);
}

static void expect_set(int code, const char *message)
{
    struct gguf *g = NULL;
    struct err e = {0};
    REQUIRE_INT(gguf_open(&g, path_of("m-00001-of-00003.gguf"), &e), code);
    if (!strstr(e.msg, message) || g)
        TEST_FAIL("\"%s\", not \"%s\"", e.msg, message);
}

TEST(split_sets_open_as_one)
{
    struct gguf *g = NULL;
    struct err e = {0};
    struct hash h, other;
    make_dir();
    write_set("4:3 8:1 8:2 " SPLIT("2", "3") TENSOR("d", "1", "0") "|32 4:0x3f800000");
    REQUIRE_OK(gguf_open(&g, path_of("m-00001-of-00003.gguf"), &e), e);
    REQUIRE_INT(gguf_n_tensors(g), 4);
    for (size_t i = 0; i < 4; i++)
        REQUIRE_INT(gguf_tensor_at(g, i)->name[0], 'a' + (int)i);
    REQUIRE(*(const float *)gguf_tensor(g, "d")->data == 1);
    walk_gguf(g);
    gguf_header_hash(g, &h);
    gguf_close(g);
    g = NULL;

    REQUIRE_INT(gguf_open(&g, path_of("m-00002-of-00003.gguf"), &e), -EINVAL);
    REQUIRE(strstr(e.msg, "part 2 of 3, open the first"));
    write_set("4:3 8:1 8:2 " SPLIT("2", "3") TENSOR("x", "1", "0") "|32 4:0x3f800000");
    REQUIRE_OK(gguf_open(&g, path_of("m-00001-of-00003.gguf"), &e), e);
    gguf_header_hash(g, &other);
    REQUIRE(!hash_equal(&h, &other));
    gguf_close(g);

    write_set("4:3 8:1 8:2 " SPLIT("2", "3") TENSOR("b", "1", "0") "|32 4:0");
    expect_set(-EINVAL, "tensor b appears twice");
    write_set("4:3 8:1 8:2 " SPLIT("1", "3") TENSOR("d", "1", "0") "|32 4:0");
    expect_set(-EINVAL, "m-00003-of-00003.gguf: key split.no: 1 is not within 2 to 2");
    write_set("4:3 8:0 8:2 " SPLIT("2", "3"));
    expect_set(-EINVAL, "split.tensors.count: 4 is not within 3 to 3");
    write_set("4:3 8:1 8:0 " TENSOR("d", "1", "0") "|32 4:0");
    expect_set(-EINVAL, "no key split.count");
    unlink(path_of("m-00003-of-00003.gguf"));
    expect_set(-ENOENT, "m-00003-of-00003.gguf");
    write_file("n.gguf", "4:3 8:0 8:2 " SPLIT("0", "3"));
    REQUIRE_INT(gguf_open(&g, path_of("n.gguf"), &e), -EINVAL);
    REQUIRE(strstr(e.msg, "its name must end in -00001-of-00003.gguf"));
    unlink(path_of("n.gguf"));
    unlink(path_of("m-00001-of-00003.gguf"));
    unlink(path_of("m-00002-of-00003.gguf"));
    rmdir(dir);
}

static void check_model(const char *file, size_t n_tensors, size_t n_keys, const char *arch)
{
    char path[4096];
    struct gguf *g = NULL;
    struct err e = {0};
    struct gguf_str s;
    const char *name;
    enum gguf_type type;
    if (!test_model(file, path, sizeof(path)))
        SKIP("no %s", file);
    REQUIRE_OK(gguf_open(&g, path, &e), e);
    REQUIRE_INT(gguf_n_tensors(g), n_tensors);
    REQUIRE(gguf_key_at(g, n_keys - 1, &name, &type) && !gguf_key_at(g, n_keys, &name, &type));
    REQUIRE_OK(gguf_string(g, "general.architecture", &s, &e), e);
    REQUIRE(s.n == strlen(arch) && memcmp(s.p, arch, s.n) == 0);
    walk_gguf(g);
    gguf_close(g);
}

TEST(smollm2) { check_model("SmolLM2-135M-Instruct.Q4_1.gguf", 272, 33, "llama"); }
TEST(qwen2) { check_model("qwen2.5-coder-0.5b-instruct.gguf", 291, 26, "qwen2"); }
TEST(gemma3) { check_model("gemma-3-270m-q4_k_m.gguf", 236, 33, "gemma3"); }
