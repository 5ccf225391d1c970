// The test harness: a test program is a table of cases.
//
//     TEST(name) { REQUIRE(1 + 1 == 2); }
//     int main(int argc, char **argv) { return test_main(argc, argv); }
//
// Cases register themselves in file order. A failed REQUIRE prints place and expression and ends
// the case; the program's last line is "N passed, N failed, N skipped". An argument runs only the
// cases whose name contains it. Exit status: 0 passed, 1 failed, 77 everything skipped.
#pragma once
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case { const char *name; void (*run)(void); struct test_case *next; };

extern struct test_case *test_first, **test_last;
extern jmp_buf test_out;
enum { TEST_FAILED = 1, TEST_SKIPPED = 2 };

static inline int test_main(int argc, char **argv)
{
    // static: values that a longjmp must not lose
    static unsigned passed, failed, skipped;
    static struct test_case *t;
    for (t = test_first; t; t = t->next) {
        if (argc > 1 && !strstr(t->name, argv[1]))
            continue;
        int r = setjmp(test_out);
        if (r == 0) {
            t->run();
            passed++;
        } else if (r == TEST_SKIPPED) {
            skipped++;
        } else {
            printf("FAILED %s\n", t->name);
            failed++;
        }
        fflush(stdout);
    }
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed ? 1 : passed ? 0 : 77;
}

#define TEST(id) \
    static void test_##id(void); \
    __attribute__((constructor)) static void test_add_##id(void) \
    { \
        static struct test_case c = { #id, test_##id, NULL }; \
        *test_last = &c; \
        test_last = &c.next; \
    } \
    static void test_##id(void)

#define TEST_MAIN \
    struct test_case *test_first, **test_last = &test_first; \
    jmp_buf test_out; \
    int main(int argc, char **argv) { return test_main(argc, argv); }

#define TEST_FAIL(...) \
    do { \
        printf("%s:%d: ", __FILE__, __LINE__); \
        printf(__VA_ARGS__); \
        putchar('\n'); \
        longjmp(test_out, TEST_FAILED); \
    } while (0)

// Whether this build is instrumented: then compilers inside drivers are several times slower, and
// cases that only differ in what they let them compile are fewer.
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED true
#endif
#endif
#ifndef TEST_SANITIZED
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED true
#else
#define TEST_SANITIZED false
#endif
#endif

#define REQUIRE(x) do { if (!(x)) TEST_FAIL("REQUIRE(%s)", #x); } while (0)

#define REQUIRE_INT(a, b) \
    do { \
        long long a_ = (long long)(a), b_ = (long long)(b); \
        if (a_ != b_) \
            TEST_FAIL("%s = %lld, not %s = %lld", #a, a_, #b, b_); \
    } while (0)

#define REQUIRE_STR(a, b) \
    do { \
        const char *a_ = (a), *b_ = (b); \
        if (strcmp(a_, b_) != 0) \
            TEST_FAIL("%s = \"%s\", not \"%s\"", #a, a_, b_); \
    } while (0)

#define REQUIRE_BELOW(value, limit) \
    do { \
        double v_ = (value), l_ = (limit); \
        if (!(v_ <= l_)) \
            TEST_FAIL("%s = %g, more than %g", #value, v_, l_); \
    } while (0)

// A call that must succeed; e is its struct err.
#define REQUIRE_OK(call, e) \
    do { \
        int r_ = (call); \
        if (r_ != 0) \
            TEST_FAIL("%s = %d: %s", #call, r_, (e).msg); \
    } while (0)

#define SKIP(...) \
    do { \
        printf("skipped: "); \
        printf(__VA_ARGS__); \
        putchar('\n'); \
        longjmp(test_out, TEST_SKIPPED); \
    } while (0)

// The folder of test models, or NULL: $GODWIT_MODELS, else the cache folder of tools/model.
static inline const char *test_model(const char *file, char *buf, size_t size)
{
    const char *dir = getenv("GODWIT_MODELS"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (dir)
        snprintf(buf, size, "%s/%s", dir, file);
    else if (cache && *cache)
        snprintf(buf, size, "%s/godwit/models/%s", cache, file);
    else
        snprintf(buf, size, "%s/.cache/godwit/models/%s", home ? home : "", file);
    FILE *f = fopen(buf, "rb");
    if (!f)
        return NULL;
    fclose(f);
    return buf;
}
