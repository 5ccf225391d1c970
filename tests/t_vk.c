// Protects the device layer: the choice of a device, memory, kernels, the order of commands, waits
// that end, and what is left after a fault. Needs a Vulkan device, a software one at least.
#include "tests/test.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "base/base.h"
#include "base/clock.h"
#include "engine/exec/vulkan/vk_int.h"
#include "tests/vk_device.h"

TEST_MAIN

#define WAIT_NS (20 * NS_PER_S)
#define GROUP 64

// ---- choice -----------------------------------------------------------------------------------

static const struct vk_info devices[] = {
    { .name = "llvmpipe (LLVM 15.0.6, 256 bits)", .software = true, .device_bytes = 9000 },
    { .name = "Intel(R) UHD Graphics", .integrated = true, .device_bytes = 8000 },
    { .name = "Old Card", .device_bytes = 7000, .missing = "Vulkan 1.2, 16-bit storage" },
    { .name = "NVIDIA H200", .device_bytes = 4000 },
    { .name = "NVIDIA H100", .device_bytes = 3000 },
};

static void require_choice(const char *name, uint32_t n, int want)
{
    struct err err;
    uint32_t i = 77;
    int r = vk_choose(devices, n, name, &i, &err);
    REQUIRE_INT(r < 0 ? r : (int)i, want);
    REQUIRE_INT(r < 0 ? 77 : i, i);
}

TEST(choose)
{
    struct err err;
    uint32_t i;
    require_choice(NULL, 5, 3);
    require_choice("", 5, 3);
    require_choice("h100", 5, 4);
    require_choice("NVIDIA", 5, 3);
    require_choice("LLVMpipe", 5, 0);
    require_choice("uhd", 5, 1);
    require_choice("old", 5, -ENOTSUP);
    require_choice("radeon", 5, -ENODEV);
    require_choice(NULL, 2, 1);
    require_choice(NULL, 1, -ENODEV);
    require_choice(NULL, 0, -ENODEV);
    REQUIRE_INT(vk_choose(&devices[2], 1, NULL, &i, &err), -ENOTSUP);
    REQUIRE_STR(err.msg, "Old Card lacks Vulkan 1.2, 16-bit storage");
}

TEST(list)
{
    struct err err;
    struct vk_info *info;
    uint32_t n;
    REQUIRE_OK(vk_list(&info, &n, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        REQUIRE(info[i].name[0]);
        if (info[i].missing[0])
            continue;
        REQUIRE(info[i].driver[0] && info[i].device_bytes > 0);
        REQUIRE(info[i].free_bytes <= info[i].device_bytes);
        REQUIRE(info[i].subgroup > 0 && info[i].push_bytes >= VK_PUSH_BYTES);
        REQUIRE(!info[i].matrix || (info[i].tile_f16.m && info[i].f16));
    }
    free(info);
}

TEST(open_unknown)
{
    struct err err;
    struct vk *none = NULL;
    need_device();
    REQUIRE_INT(vk_open(&none, "no such device", &err), -ENODEV);
    REQUIRE(!none && strstr(err.msg, "no such device"));
    vk_close(NULL);
}

// ---- ranges and free lists --------------------------------------------------------------------

static struct vk_use use(uint64_t lo, uint64_t hi, bool write)
{
    return (struct vk_use){ lo, hi - lo, write };
}

TEST(hazards)
{
    static struct vk_hazards h;
    const struct { struct vk_use use; bool meets; } after[] = {
        { { 0, 100, true }, false }, { { 0, 101, true }, true }, { { 0, 101, false }, false },
        { { 150, 1, true }, true }, { { 200, 50, true }, false }, { { 299, 1, false }, false },
        { { 300, 1, false }, true }, { { 399, 1, true }, true }, { { 400, 9, true }, false },
        { { 0, 1000, false }, true }, { { 350, 0, true }, false },
    };
    const struct vk_use uses[] = { use(100, 200, false), use(300, 400, true) };
    REQUIRE(vk_hazards_add(&h, uses, 2));
    for (size_t i = 0; i < ARRAY_LEN(after); i++)
        REQUIRE_INT(vk_hazards_meet(&h, &after[i].use, 1), after[i].meets);
    vk_hazards_clear(&h);
    REQUIRE(!vk_hazards_meet(&h, uses, 2));
}

// Against a map of bytes.
TEST(hazards_merge)
{
    static struct vk_hazards h;
    static bool map[4096];
    uint32_t seed = 1;
    for (int i = 0; i < 3000; i++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t lo = (seed >> 8) % 4000, n = 1 + (seed >> 24) % 12;
        struct vk_use w = use(lo, lo + n, true), r = use(lo, lo + n, false);
        bool meets = memchr(map + lo, true, n) != NULL;
        REQUIRE_INT(vk_hazards_meet(&h, &w, 1), meets);
        REQUIRE_INT(vk_hazards_meet(&h, &r, 1), meets);
        REQUIRE(vk_hazards_add(&h, &w, 1));
        memset(map + lo, true, n);
    }
    for (uint32_t i = 0; i + 1 < h.writes.n; i++)
        REQUIRE(h.writes.item[i].hi < h.writes.item[i + 1].lo);
}

TEST(hazards_full)
{
    static struct vk_hazards h;
    for (uint32_t i = 0; i < VK_RANGES_MAX; i++) {
        struct vk_use w = use(i * 10, i * 10 + 5, true);
        REQUIRE(vk_hazards_add(&h, &w, 1));
    }
    struct vk_use more = use(1000005, 1000006, true), joins = use(5, 10, true);
    REQUIRE(!vk_hazards_add(&h, &more, 1));
    REQUIRE(vk_hazards_add(&h, &joins, 1));     // fills a hole: two ranges become one
    REQUIRE(vk_hazards_add(&h, &more, 1));
}

// Against a map of bytes: pieces never overlap, and all comes back in one gap.
TEST(space)
{
    struct vk_space s;
    struct { size_t at, bytes; } piece[64] = {{0}};
    static bool taken[4096];
    uint32_t seed = 5;
    REQUIRE_INT(vk_space_init(&s, 256, 3840), 0);
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t k = (seed >> 8) % 64, bytes = 1 + (seed >> 20) % 200;
        if (piece[k].bytes) {
            vk_space_give(&s, piece[k].at, piece[k].bytes);
            memset(taken + piece[k].at, false, piece[k].bytes);
            piece[k].bytes = 0;
        } else if (vk_space_take(&s, bytes, &piece[k].at) == 0) {
            piece[k].bytes = bytes;
            REQUIRE(piece[k].at >= 256 && piece[k].at + bytes <= sizeof(taken));
            REQUIRE(!memchr(taken + piece[k].at, true, bytes));
            memset(taken + piece[k].at, true, bytes);
        } else {
            REQUIRE_INT(vk_space_fit(&s, bytes), 0);
        }
    }
    for (uint32_t k = 0; k < 64; k++)
        if (piece[k].bytes)
            vk_space_give(&s, piece[k].at, piece[k].bytes);
    REQUIRE(s.n_gaps == 1 && s.n_pieces == 0);
    REQUIRE(s.gap[0].at == 256 && s.gap[0].bytes == 3840);
    vk_space_finish(&s);
}

// ---- memory types ------------------------------------------------------------------------------

#define L VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define V (VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
#define C VK_MEMORY_PROPERTY_HOST_CACHED_BIT
#define ODD VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD

struct board {                          // heaps in GiB; types as {flags, heap}
    VkPhysicalDeviceMemoryProperties memory;
    int want[VK_HOME_COUNT][VK_MEMORY_CHOICES];     // -1: none
};

static const struct board boards[] = {
    // All of it mapped by the host (ReBAR).
    { { 5, { { 0, 1 }, { L, 0 }, { V, 1 }, { V | C, 1 }, { L | V, 0 } }, 2, { { 140 }, { 94 } } },
      { { 1, 1 }, { 4, 2 }, { 3, 2 } } },
    // A window of a quarter GiB, and types with more than we know.
    { { 7, { { L, 0 }, { V, 1 }, { L | V, 2 }, { V | C, 1 }, { L | ODD, 0 }, { L | V | ODD, 2 },
             { V | C | ODD, 1 } }, 3, { { 16 << 2 }, { 32 << 2 }, { 1 } } },
      { { 0, 0 }, { 2, 1 }, { 3, 1 } } },
    // One memory for both.
    { { 2, { { L | V, 0 }, { L | V | C, 0 } }, 1, { { 16 } } }, { { 0, 0 }, { 0, 0 }, { 1, 0 } } },
    { { 1, { { L | V | C, 0 } }, 1, { { 16 } } }, { { 0, 0 }, { 0, 0 }, { 0, 0 } } },
    // Nothing that the host could write in place.
    { { 3, { { L, 0 }, { V, 1 }, { V | C, 1 } }, 2, { { 8 }, { 16 } } },
      { { 0, 0 }, { -1, 1 }, { 2, 1 } } },
};

TEST(memory_types)
{
    for (size_t b = 0; b < ARRAY_LEN(boards); b++) {
        struct vk_caps caps = { .memory = boards[b].memory };
        for (uint32_t i = 0; i < caps.memory.memoryHeapCount; i++)
            caps.memory.memoryHeaps[i].size <<= 30;
        for (enum vk_home home = 0; home < VK_HOME_COUNT; home++)
            for (uint32_t choice = 0; choice < VK_MEMORY_CHOICES; choice++) {
                uint32_t type = 0;
                bool found = vk_memory_type(&caps, home, choice, UINT32_MAX, &type);
                REQUIRE_INT(found ? (int)type : -1, boards[b].want[home][choice]);
                REQUIRE(!vk_memory_type(&caps, home, choice, 1u << 31, &type));
            }
    }
}

#undef L
#undef V
#undef C
#undef ODD

// ---- memory -----------------------------------------------------------------------------------

static struct vk_mem get(enum vk_home home, size_t bytes)
{
    struct err err;
    struct vk_mem m = {0};
    REQUIRE_OK(vk_alloc(vk, home, bytes, &m, &err), err);
    REQUIRE_INT(m.addr % 256, 0);
    REQUIRE_INT(m.bytes, bytes);
    REQUIRE(!m.map == (home == VK_HOME_DEVICE));
    return m;
}

static struct vk_cmd *begin(void)
{
    struct err err;
    struct vk_cmd *c = NULL;
    REQUIRE_OK(vk_cmd_create(vk, &c, &err), err);
    vk_cmd_begin(c);
    return c;
}

static void run(struct vk_cmd *c)
{
    struct err err;
    REQUIRE_OK(vk_cmd_end(c, &err), err);
    REQUIRE_OK(vk_run(vk, c, WAIT_NS, &err), err);
}

// Runs once and is gone.
static void finish(struct vk_cmd *c)
{
    run(c);
    vk_cmd_destroy(c);
}

// Device memory through a copy in host memory.
static struct vk_mem fetch(const struct vk_mem *m)
{
    struct vk_mem host = get(VK_HOME_HOST, m->bytes);
    struct vk_cmd *c = begin();
    vk_copy(c, &host, 0, m, 0, m->bytes);
    finish(c);
    return host;
}

static bool is_all(const struct vk_mem *m, uint32_t word)
{
    const uint32_t *p = m->map;
    for (size_t i = 0; i < m->bytes / 4; i++)
        if (p[i] != word)
            return false;
    return true;
}

TEST(memory_is_zeroed_again)
{
    need_device();
    for (enum vk_home home = 0; home < VK_HOME_COUNT; home++)
        for (int pass = 0; pass < 3; pass++) {
            struct vk_mem m = get(home, 40000);
            struct vk_mem seen = fetch(&m);
            REQUIRE(is_all(&seen, 0));
            struct vk_cmd *c = begin();
            vk_fill(c, &m, 0, m.bytes, 0xdeadbeef);
            finish(c);
            vk_free(vk, &seen);
            seen = fetch(&m);
            REQUIRE(is_all(&seen, 0xdeadbeef));
            vk_free(vk, &seen);
            vk_free(vk, &m);
            REQUIRE(!m.buffer && !m.bytes);
        }
    vk_free(vk, NULL);
}

TEST(memory_dirty_is_not_filled)
{
    struct err err;
    struct vk_mem m;
    need_device();
    uint32_t fills = vk->n_zeros;
    REQUIRE_OK(vk_alloc_dirty(vk, VK_HOME_DEVICE, 1000, &m, &err), err);
    REQUIRE(vk->n_zeros == fills && m.bytes == 1000);
    struct vk_cmd *c = begin();
    vk_fill(c, &m, 0, 1000, 3);
    finish(c);
    struct vk_mem seen = fetch(&m);
    REQUIRE(is_all(&seen, 3));
    vk_free(vk, &seen);
    vk_free(vk, &m);
}

TEST(memory_pieces_share_a_slab_and_join)
{
    struct vk_mem m[16];
    need_device();
    for (int i = 0; i < 16; i++)
        m[i] = get(VK_HOME_UPLOAD, 1 << 20);
    for (int i = 0; i < 16; i++)
        REQUIRE(m[i].slab == m[0].slab && (char *)m[i].map - (char *)m[0].map ==
                (ptrdiff_t)(m[i].addr - m[0].addr));
    VkDeviceAddress first = m[0].addr;
    for (int i = 0; i < 16; i++)
        vk_free(vk, &m[i ^ 5]);
    struct vk_mem whole = get(VK_HOME_UPLOAD, 16 << 20);
    REQUIRE_INT(whole.addr, first);
    vk_free(vk, &whole);
}

TEST(memory_empty_slabs_go_back)
{
    need_device();
    uint64_t before[VK_MAX_MEMORY_HEAPS];
    struct vk_mem small = get(VK_HOME_DEVICE, 100), large;
    memcpy(before, vk->taken_bytes, sizeof(before));
    large = get(VK_HOME_DEVICE, 100 << 20);
    REQUIRE(large.slab != small.slab);
    REQUIRE(memcmp(before, vk->taken_bytes, sizeof(before)) != 0);
    vk_free(vk, &large);
    REQUIRE(memcmp(before, vk->taken_bytes, sizeof(before)) == 0);
    vk_free(vk, &small);
}

TEST(memory_too_large)
{
    struct err err;
    struct vk_mem m = {0};
    char bytes[32];
    need_device();
    snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)vk_info(vk)->alloc_max_bytes + 1);
    REQUIRE_INT(vk_alloc(vk, VK_HOME_DEVICE, vk_info(vk)->alloc_max_bytes + 1, &m, &err), -ENOMEM);
    REQUIRE(strstr(err.msg, bytes) && !m.buffer);
    REQUIRE_INT(vk_alloc(vk, VK_HOME_HOST, SIZE_MAX, &m, &err), -ENOMEM);
    REQUIRE(vk_left_bytes(vk, VK_HOME_DEVICE) > 0);
    REQUIRE(!vk_lost(vk));
}

TEST(memory_injected)
{
    struct err err;
    struct vk_mem m[2] = {{0}};
    need_device();
    vk_inject(vk, VK_FAULT_ALLOC, 1);
    REQUIRE_OK(vk_alloc(vk, VK_HOME_DEVICE, 1000, &m[0], &err), err);
    REQUIRE_INT(vk_alloc(vk, VK_HOME_DEVICE, 1234, &m[1], &err), -ENOMEM);
    REQUIRE(strstr(err.msg, "1234 bytes of device memory") && strstr(err.msg, "left"));
    REQUIRE_OK(vk_alloc(vk, VK_HOME_DEVICE, 1000, &m[1], &err), err);
    vk_free(vk, &m[0]);
    vk_free(vk, &m[1]);
}

// ---- kernels ----------------------------------------------------------------------------------

static const struct vk_kernel *pattern(void)
{
    struct err err;
    const struct vk_kernel *k = NULL;
    REQUIRE_OK(vk_kernel(vk, KERNEL_fill_pattern, (uint32_t[]){ GROUP }, 1, &k, &err), err);
    return k;
}

struct pattern_push { VkDeviceAddress dst; uint32_t n, base; };

// dst[i] = base + i for words [at, at + n).
static void add_pattern(struct vk_cmd *c, const struct vk_mem *m, uint32_t at, uint32_t n,
                        uint32_t base)
{
    const struct pattern_push push = { m->addr + at * 4, n, base };
    const struct vk_use uses[] = { { push.dst, n * 4, true } };
    vk_dispatch(c, pattern(), "pattern", &push, sizeof(push),
                (struct vk_groups){ DIV_UP(n, GROUP), 1, 1 }, uses, 1);
}

TEST(kernel_writes_through_an_address)
{
    need_device();
    struct vk_mem m = get(VK_HOME_DEVICE, 4 * 1000);
    struct vk_cmd *c = begin();
    add_pattern(c, &m, 0, 999, 7);
    REQUIRE_INT(vk_cmd_dispatches(c), 1);
    finish(c);
    struct vk_mem seen = fetch(&m);
    const uint32_t *p = seen.map;
    for (uint32_t i = 0; i < 999; i++)
        REQUIRE_INT(p[i], 7 + i);
    REQUIRE_INT(p[999], 0);
    vk_free(vk, &seen);
    vk_free(vk, &m);
}

static const struct vk_kernel *kernel(enum kernel_id id, const uint32_t *spec, uint32_t n_spec)
{
    struct err err;
    const struct vk_kernel *k = NULL;
    if (!vk_kernel_runs(vk, id))
        SKIP("this build or %s has no %s", vk_info(vk)->name,
             vk_kernel_built(id) ? spirv_of(id)->name : "such kernel");
    REQUIRE_OK(vk_kernel(vk, id, spec, n_spec, &k, &err), err);
    return k;
}

TEST(kernel_subgroups_are_full)
{
    need_device();
    uint32_t size = vk_info(vk)->subgroup, n = 4;
    const struct vk_kernel *k = kernel(KERNEL_probe_subgroup, (uint32_t[]){ size * n }, 1);
    struct vk_mem m = get(VK_HOME_HOST, 16 * n);
    struct vk_use uses[] = { vk_writes(&m) };
    struct vk_cmd *c = begin();
    vk_dispatch(c, k, "probe", &m.addr, sizeof(m.addr), (struct vk_groups){ 1, 1, 1 }, uses, 1);
    finish(c);
    const uint32_t *p = m.map;
    for (uint32_t i = 0; i < n; i++) {
        REQUIRE_INT(p[4 * i], size);
        REQUIRE_INT(p[4 * i + 1], n);
        REQUIRE_INT(p[4 * i + 2], size);
        REQUIRE_INT(p[4 * i + 3], i);
    }
    vk_free(vk, &m);
}

TEST(kernel_integer_dot)
{
    enum { WORDS = 100 };
    need_device();
    const struct vk_kernel *k = kernel(KERNEL_probe_dot, (uint32_t[]){ GROUP }, 1);
    struct vk_mem m = get(VK_HOME_UPLOAD, 4 * 2 * WORDS), out = get(VK_HOME_HOST, 4 * WORDS);
    int8_t *a = m.map, *b = a + 4 * WORDS;
    const struct { VkDeviceAddress dst, a, b; uint32_t n; } push = {
        out.addr, m.addr, m.addr + 4 * WORDS, WORDS };
    struct vk_use uses[] = { vk_reads(&m), vk_writes(&out) };
    for (int i = 0; i < 4 * WORDS; i++) {
        a[i] = (int8_t)(i * 37);
        b[i] = (int8_t)(i * 91 + 5);
    }
    struct vk_cmd *c = begin();
    vk_dispatch(c, k, "dot", &push, 28, (struct vk_groups){ 2, 1, 1 }, uses, 2);
    finish(c);
    for (int i = 0; i < WORDS; i++) {
        int32_t sum = 0;
        for (int j = 4 * i; j < 4 * i + 4; j++)
            sum += (int8_t)(j * 37) * (int8_t)(j * 91 + 5);
        REQUIRE_INT(((const int32_t *)out.map)[i], sum);
    }
    vk_free(vk, &m);
    vk_free(vk, &out);
}

// A small whole number as a half.
static uint16_t half(int x)
{
    uint16_t sign = x < 0 ? 0x8000 : 0;
    unsigned v = (unsigned)(x < 0 ? -x : x), e = 0;
    while (v >> (e + 1))
        e++;
    return v ? (uint16_t)(sign | (e + 15) << 10 | ((v << (10 - e)) & 0x3ff)) : 0;
}

static int a_of(uint32_t i) { return (int)(i * 7 % 23) - 11; }
static int b_of(uint32_t i) { return (int)(i * 5 % 19) - 9; }

// dst = a b with whole numbers, so that every order of sums gives the same.
static void require_product(const struct vk_kernel *k, struct vk_tile t)
{
    uint32_t n_a = t.m * t.k, n_b = t.k * t.n;
    struct vk_mem a = get(VK_HOME_UPLOAD, n_a * 2), b = get(VK_HOME_UPLOAD, n_b * 2);
    struct vk_mem out = get(VK_HOME_HOST, t.m * t.n * sizeof(float));
    const VkDeviceAddress push[] = { out.addr, a.addr, b.addr };
    struct vk_use uses[] = { vk_reads(&a), vk_reads(&b), vk_writes(&out) };
    for (uint32_t i = 0; i < n_a; i++)
        ((uint16_t *)a.map)[i] = half(a_of(i));
    for (uint32_t i = 0; i < n_b; i++)
        ((uint16_t *)b.map)[i] = half(b_of(i));
    struct vk_cmd *c = begin();
    vk_dispatch(c, k, "product", push, sizeof(push), (struct vk_groups){ 1, 1, 1 }, uses, 3);
    finish(c);
    for (uint32_t row = 0; row < t.m; row++)
        for (uint32_t col = 0; col < t.n; col++) {
            int sum = 0;
            for (uint32_t i = 0; i < t.k; i++)
                sum += a_of(row * t.k + i) * b_of(i * t.n + col);
            REQUIRE_INT(((const float *)out.map)[row * t.n + col], sum);
        }
    vk_free(vk, &a);
    vk_free(vk, &b);
    vk_free(vk, &out);
}

TEST(kernel_matrix)
{
    need_device();
    struct vk_tile t = vk_info(vk)->tile_f16;
    const uint32_t spec[] = { vk_info(vk)->subgroup, t.m, t.n, t.k };
    require_product(kernel(KERNEL_probe_matrix, spec, 4), t);
}

TEST(kernel_matrix2)
{
    need_device();
    require_product(kernel(KERNEL_probe_matrix2, (uint32_t[]){ 128, 64, 64, 32 }, 4),
                    (struct vk_tile){ 64, 64, 32 });
}

TEST(kernel_is_made_once)
{
    struct err err;
    const struct vk_kernel *a, *b, *c;
    need_device();
    REQUIRE_OK(vk_kernel(vk, KERNEL_fill_pattern, (uint32_t[]){ 32 }, 1, &a, &err), err);
    REQUIRE_OK(vk_kernel(vk, KERNEL_fill_pattern, (uint32_t[]){ 32 }, 1, &b, &err), err);
    REQUIRE_OK(vk_kernel(vk, KERNEL_fill_pattern, (uint32_t[]){ 64 }, 1, &c, &err), err);
    REQUIRE(a == b && a != c);
    REQUIRE(vk_kernel_built(KERNEL_fill_pattern) && vk_kernel_runs(vk, KERNEL_fill_pattern));
    REQUIRE_INT(vk_kernel(vk, KERNEL_fill_pattern, (uint32_t[]){ 1u << 31 }, 1, &a, &err),
                -ENOTSUP);
}

TEST(kernel_not_built)
{
    struct err err;
    const struct vk_kernel *k = NULL;
    bool is_complete = true;
    need_device();
    for (enum kernel_id id = 0; id < KERNEL_COUNT; id++) {
        if (vk_kernel_runs(vk, id))
            continue;
        is_complete = false;
        REQUIRE_INT(vk_kernel(vk, id, (uint32_t[]){ GROUP }, 1, &k, &err), -ENOTSUP);
        REQUIRE(!k && !vk_lost(vk));
    }
    if (is_complete)
        SKIP("this build has all kernels and this device runs them");
}

// ---- order ------------------------------------------------------------------------------------

TEST(independent_commands_have_no_barrier)
{
    need_device();
    struct vk_mem m = get(VK_HOME_DEVICE, 4 * 64 * 100), n = get(VK_HOME_DEVICE, 4 * 100);
    struct vk_cmd *c = begin();
    for (uint32_t i = 0; i < 64; i += 2)
        add_pattern(c, &m, i * 100, 100, i);
    for (uint32_t i = 1; i < 64; i += 2)
        add_pattern(c, &m, i * 100, 100, i);
    REQUIRE_INT(vk_cmd_barriers(c), 0);
    REQUIRE_INT(vk_cmd_dispatches(c), 64);
    vk_copy(c, &n, 0, &m, 100 * 63 * 4, 400);       // reads what was written
    REQUIRE_INT(vk_cmd_barriers(c), 1);
    vk_copy(c, &n, 0, &m, 0, 0);                    // nothing
    add_pattern(c, &m, 0, 100, 5);                  // nobody read that since
    REQUIRE_INT(vk_cmd_barriers(c), 1);
    add_pattern(c, &m, 6300, 100, 5);               // the copy reads that
    REQUIRE_INT(vk_cmd_barriers(c), 2);
    finish(c);
    struct vk_mem seen = fetch(&m), copied = fetch(&n);
    for (uint32_t i = 1; i < 63; i++)
        REQUIRE_INT(((const uint32_t *)seen.map)[i * 100 + 99], i + 99);
    REQUIRE_INT(((const uint32_t *)copied.map)[99], 63 + 99);
    vk_free(vk, &copied);
    vk_free(vk, &seen);
    vk_free(vk, &m);
    vk_free(vk, &n);
}

// Each command reads what the one before wrote: copies there and back, fills and dispatches.
TEST(dependent_commands_wait)
{
    need_device();
    enum { WORDS = 5000, ROUNDS = 20 };
    struct vk_mem a = get(VK_HOME_DEVICE, 4 * WORDS), b = get(VK_HOME_DEVICE, 4 * WORDS);
    struct vk_cmd *c = begin();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        add_pattern(c, &a, 0, WORDS, i * 1000);
        vk_copy(c, &b, 0, &a, 0, a.bytes);
        vk_fill(c, &a, 0, a.bytes, i);
        vk_copy(c, &a, 4, &b, 4, 400);
    }
    REQUIRE_INT(vk_cmd_barriers(c), ROUNDS * 4 - 1);
    finish(c);
    struct vk_mem seen = fetch(&a);
    const uint32_t *p = seen.map;
    REQUIRE_INT(p[0], ROUNDS - 1);
    for (uint32_t i = 1; i <= 100; i++)
        REQUIRE_INT(p[i], (ROUNDS - 1) * 1000 + i);
    REQUIRE_INT(p[101], ROUNDS - 1);
    vk_free(vk, &seen);
    vk_free(vk, &a);
    vk_free(vk, &b);
}

// Dispatch after dispatch, from one half to the other and back.
TEST(dependent_dispatches_wait)
{
    enum { WORDS = 100000, ROUNDS = 50 };
    need_device();
    const struct vk_kernel *k = kernel(KERNEL_affine, (uint32_t[]){ GROUP }, 1);
    struct vk_mem m[2] = { get(VK_HOME_DEVICE, 4 * WORDS), get(VK_HOME_DEVICE, 4 * WORDS) };
    struct vk_cmd *c = begin();
    uint32_t mul = 1, add = 0;
    add_pattern(c, &m[0], 0, WORDS, 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct vk_mem *src = &m[i % 2], *dst = &m[(i + 1) % 2];
        const struct { VkDeviceAddress dst, src; uint32_t n, mul, add; } push = {
            dst->addr, src->addr, WORDS, 3, i };
        struct vk_use uses[] = { vk_writes(dst), vk_reads(src) };
        vk_dispatch(c, k, "affine", &push, 28, (struct vk_groups){ DIV_UP(WORDS, GROUP), 1, 1 },
                    uses, 2);
        mul *= 3;
        add = add * 3 + i;
    }
    REQUIRE_INT(vk_cmd_barriers(c), ROUNDS);
    finish(c);
    struct vk_mem seen = fetch(&m[ROUNDS % 2]);
    for (uint32_t i = 0; i < WORDS; i++)
        REQUIRE_INT(((const uint32_t *)seen.map)[i], i * mul + add);
    vk_free(vk, &seen);
    vk_free(vk, &m[0]);
    vk_free(vk, &m[1]);
}

static void add_reader(struct vk_cmd *c, const struct vk_mem *dst, const struct vk_mem *src)
{
    const struct pattern_push push = { dst->addr, GROUP, 7 };
    const struct vk_use uses[] = { vk_writes(dst), vk_reads(src) };
    vk_dispatch(c, pattern(), "reader", &push, sizeof(push), (struct vk_groups){ 1, 1, 1 }, uses,
                2);
}

// A barrier between dispatches settles nothing for a copy, nor for counts and who writes them.
TEST(copies_and_counts_wait_for_settled_writes)
{
    need_device();
    struct vk_mem m = get(VK_HOME_DEVICE, 4 * 100), n = get(VK_HOME_DEVICE, 4 * 100);
    struct vk_mem args = get(VK_HOME_DEVICE, 64), other = get(VK_HOME_DEVICE, 4 * GROUP);
    const struct pattern_push push = { other.addr, GROUP, 9 };
    const struct vk_use use = vk_writes(&other);
    struct vk_cmd *c = begin();
    vk_fill(c, &args, 8, 12, 1);
    add_pattern(c, &m, 0, 100, 1);
    add_reader(c, &n, &m);
    REQUIRE_INT(vk_cmd_barriers(c), 1);             // the fill is settled too, for dispatches
    vk_dispatch_indirect(c, pattern(), "indirect", &push, sizeof(push), &args, 8, &use, 1);
    REQUIRE_INT(vk_cmd_barriers(c), 2);
    add_pattern(c, &m, 0, 100, 3);
    REQUIRE_INT(vk_cmd_barriers(c), 2);
    add_pattern(c, &args, 2, 3, 0);
    REQUIRE_INT(vk_cmd_barriers(c), 3);
    add_pattern(c, &m, 0, 100, 5);
    add_reader(c, &n, &m);
    REQUIRE_INT(vk_cmd_barriers(c), 4);
    vk_copy(c, &n, 4 * GROUP, &m, 0, 40);
    REQUIRE_INT(vk_cmd_barriers(c), 5);
    finish(c);
    struct vk_mem seen = fetch(&n), counted = fetch(&other);
    REQUIRE_INT(((const uint32_t *)seen.map)[GROUP - 1], 7 + GROUP - 1);
    REQUIRE_INT(((const uint32_t *)seen.map)[GROUP + 9], 5 + 9);
    REQUIRE_INT(((const uint32_t *)counted.map)[GROUP - 1], 9 + GROUP - 1);
    vk_free(vk, &counted);
    vk_free(vk, &seen);
    vk_free(vk, &m);
    vk_free(vk, &n);
    vk_free(vk, &args);
    vk_free(vk, &other);
}

TEST(indirect_dispatch)
{
    need_device();
    struct vk_mem m = get(VK_HOME_DEVICE, 4 * GROUP * 8), args = get(VK_HOME_DEVICE, 64);
    const struct pattern_push push = { m.addr, GROUP * 8, 100 };
    const struct vk_use uses[] = { vk_writes(&m) };
    struct vk_cmd *c = begin();
    vk_fill(c, &args, 8, 12, 1);
    vk_fill(c, &args, 8, 4, 3);
    vk_dispatch_indirect(c, pattern(), "indirect", &push, sizeof(push), &args, 8, uses, 1);
    REQUIRE_INT(vk_cmd_barriers(c), 2);
    REQUIRE_INT(vk_cmd_dispatches(c), 1);
    finish(c);
    struct vk_mem seen = fetch(&m);
    const uint32_t *p = seen.map;
    REQUIRE_INT(p[3 * GROUP - 1], 100 + 3 * GROUP - 1);
    REQUIRE_INT(p[3 * GROUP], 0);
    vk_free(vk, &seen);
    vk_free(vk, &m);
    vk_free(vk, &args);
}

TEST(commands_run_again)
{
    struct err err;
    uint64_t ticket[2];
    need_device();
    struct vk_mem in = get(VK_HOME_UPLOAD, 400), out = get(VK_HOME_HOST, 400);
    struct vk_mem mid = get(VK_HOME_DEVICE, 400);
    struct vk_cmd *c = begin(), *next = begin();
    vk_copy(c, &mid, 0, &in, 0, 400);
    vk_copy(next, &out, 0, &mid, 0, 400);
    REQUIRE_OK(vk_cmd_end(c, &err), err);
    REQUIRE_OK(vk_cmd_end(next, &err), err);
    for (uint32_t i = 1; i < 50; i++) {
        ((uint32_t *)in.map)[99] = i;
        REQUIRE_OK(vk_submit(vk, c, &ticket[0], &err), err);
        REQUIRE_OK(vk_submit(vk, next, &ticket[1], &err), err);
        REQUIRE(ticket[1] > ticket[0]);
        REQUIRE_OK(vk_wait(vk, ticket[1], WAIT_NS, &err), err);
        REQUIRE_OK(vk_wait(vk, ticket[0], 0, &err), err);
        REQUIRE_INT(((uint32_t *)out.map)[99], i);
    }
    vk_cmd_begin(next);         // and is recorded again
    vk_fill(next, &out, 0, 400, 9);
    run(next);
    REQUIRE(is_all(&out, 9));
    vk_cmd_destroy(c);
    vk_cmd_destroy(next);
    vk_cmd_destroy(NULL);
    vk_free(vk, &in);
    vk_free(vk, &out);
    vk_free(vk, &mid);
}

// ---- profile ----------------------------------------------------------------------------------

struct seen_label { const char *label; uint64_t ns, n; };

static void see(void *ctx, const char *label, uint64_t ns, uint64_t n)
{
    struct seen_label *s = ctx;
    while (s->label && strcmp(s->label, label) != 0)
        s++;
    *s = (struct seen_label){ label, ns, n };
}

TEST(profile_sums_by_label)
{
    struct err err;
    struct seen_label seen[8] = {{0}};
    need_device();
    if (!vk_info(vk)->timestamps)
        SKIP("the device has no timestamps");
    struct vk_mem m = get(VK_HOME_DEVICE, 4 * 1000);
    vk_profile_enable(vk, true);
    struct vk_cmd *c = begin();
    for (uint32_t i = 0; i < 700; i++)              // more than one pool of timestamps
        add_pattern(c, &m, i, 1, i);
    vk_fill(c, &m, 0, 4000, 0);
    REQUIRE_OK(vk_cmd_end(c, &err), err);
    vk_profile_enable(vk, false);
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(vk_run(vk, c, WAIT_NS, &err), err);
    vk_profile(vk, see, seen);
    REQUIRE(seen[0].label && seen[1].label && !seen[2].label);
    REQUIRE_STR(seen[0].label, "pattern");
    REQUIRE_INT(seen[0].n, 2100);
    REQUIRE(seen[0].ns > 0 && seen[0].ns < WAIT_NS);
    REQUIRE_STR(seen[1].label, "fill");
    REQUIRE_INT(seen[1].n, 3);
    memset(seen, 0, sizeof(seen));
    vk_profile(vk, see, seen);
    REQUIRE(!seen[0].label);
    vk_cmd_destroy(c);
    vk_free(vk, &m);
}

// ---- the pipeline cache -----------------------------------------------------------------------

static struct vk *open_same(void)
{
    struct err err;
    struct vk *other = NULL;
    REQUIRE_OK(vk_open(&other, vk_info(vk)->name, &err), err);
    return other;
}

static void patch(const char *path, long at, char with)
{
    FILE *f = fopen(path, "r+b");
    REQUIRE(f && fseek(f, at, at < 0 ? SEEK_END : SEEK_SET) == 0);
    REQUIRE(fputc(with, f) != EOF && fclose(f) == 0);
}

TEST(cache_in_a_file)
{
    struct err err;
    char name[64], path[128];
    const struct vk_kernel *k;
    need_device();
    struct vk *other = open_same();
    vk_cache_name(other, name, sizeof(name));
    REQUIRE(strstr(name, "pipelines-") == name && !strchr(name, '/'));
    snprintf(path, sizeof(path), "/tmp/t_vk-%ld-%.40s", (long)getpid(), name);
    REQUIRE_OK(vk_cache_load(other, path, &err), err);          // there is none
    REQUIRE_OK(vk_kernel(other, KERNEL_fill_pattern, (uint32_t[]){ 32 }, 1, &k, &err), err);
    REQUIRE_OK(vk_cache_save(other, path, &err), err);
    vk_close(other);

    other = open_same();
    REQUIRE_OK(vk_cache_load(other, path, &err), err);
    struct hash loaded = other->cached, none = {0};
    REQUIRE(!hash_equal(&loaded, &none));
    REQUIRE_OK(vk_kernel(other, KERNEL_fill_pattern, (uint32_t[]){ 32 }, 1, &k, &err), err);
    REQUIRE_OK(vk_cache_save(other, path, &err), err);
    vk_close(other);

    for (int i = 0; i < 3; i++) {
        patch(path, i == 0 ? 0 : i == 1 ? 60 : -1, 'x');
        other = open_same();
        REQUIRE_OK(vk_cache_load(other, path, &err), err);
        REQUIRE(hash_equal(&other->cached, &none));
        REQUIRE_OK(vk_kernel(other, KERNEL_fill_pattern, (uint32_t[]){ 32 }, 1, &k, &err), err);
        REQUIRE_OK(vk_cache_save(other, path, &err), err);      // whole again
        vk_close(other);
    }
    REQUIRE_INT(remove(path), 0);
    other = open_same();
    REQUIRE(vk_cache_save(other, "/no such folder/file", &err) < 0);
    vk_close(other);
}

// ---- faults -----------------------------------------------------------------------------------

// A device of its own, and a command that has run on it once.
static struct vk *victim(struct vk_mem *m, struct vk_cmd **c)
{
    struct err err;
    struct vk *other = open_same();
    REQUIRE_OK(vk_alloc(other, VK_HOME_HOST, 4000, m, &err), err);
    REQUIRE_OK(vk_cmd_create(other, c, &err), err);
    vk_cmd_begin(*c);
    vk_fill(*c, m, 0, 4000, 1);
    REQUIRE_OK(vk_cmd_end(*c, &err), err);
    REQUIRE_OK(vk_run(other, *c, WAIT_NS, &err), err);
    REQUIRE(!vk_lost(other));
    return other;
}

static void require_all_fail(struct vk *other, struct vk_cmd *c)
{
    struct err err;
    uint64_t ticket;
    struct vk_mem m = {0};
    struct vk_cmd *none = NULL;
    REQUIRE(vk_lost(other));
    REQUIRE_INT(vk_submit(other, c, &ticket, &err), -EIO);
    REQUIRE_INT(vk_run(other, c, WAIT_NS, &err), -EIO);
    REQUIRE_INT(vk_alloc(other, VK_HOME_DEVICE, 100, &m, &err), -EIO);
    REQUIRE_INT(vk_cmd_create(other, &none, &err), -EIO);
    REQUIRE_INT(vk_cache_save(other, "/tmp/never", &err), -EIO);
    REQUIRE(!m.buffer && !none);
    vk_cmd_begin(c);
    vk_fill(c, &m, 0, 0, 0);
    REQUIRE_INT(vk_cmd_end(c, &err), -EIO);
}

TEST(loss_injected)
{
    struct err err;
    struct vk_mem m;
    struct vk_cmd *c;
    need_device();
    struct vk *other = victim(&m, &c);
    vk_inject(other, VK_FAULT_LOST, 2);
    REQUIRE_OK(vk_run(other, c, WAIT_NS, &err), err);
    REQUIRE_OK(vk_run(other, c, WAIT_NS, &err), err);
    REQUIRE_INT(vk_run(other, c, WAIT_NS, &err), -EIO);
    REQUIRE(strstr(err.msg, "lost"));
    require_all_fail(other, c);
    vk_cmd_destroy(c);
    vk_free(other, &m);
    vk_close(other);
}

TEST(timeout_injected)
{
    struct err err;
    struct vk_mem m;
    struct vk_cmd *c;
    uint64_t ticket;
    need_device();
    struct vk *other = victim(&m, &c);
    vk_inject(other, VK_FAULT_TIMEOUT, 0);
    REQUIRE_OK(vk_submit(other, c, &ticket, &err), err);
    REQUIRE_INT(vk_wait(other, ticket, 1500 * NS_PER_MS, &err), -ETIMEDOUT);
    REQUIRE(strstr(err.msg, "1.500 s"));
    REQUIRE_INT(vk_wait(other, ticket, WAIT_NS, &err), -EIO);
    require_all_fail(other, c);
    vk_cmd_destroy(c);
    vk_free(other, &m);
    vk_close(other);
}

// A wait that really is too short.
TEST(timeout_real)
{
    struct err err;
    uint64_t ticket;
    need_device();
    struct vk *kept = vk;
    struct vk *other = vk = open_same();
    struct vk_mem m = get(VK_HOME_DEVICE, 64 << 20);
    struct vk_cmd *c = begin();
    for (int i = 0; i < 50; i++)
        vk_fill(c, &m, 0, m.bytes, (uint32_t)i);
    vk = kept;
    REQUIRE_OK(vk_cmd_end(c, &err), err);
    REQUIRE_OK(vk_submit(other, c, &ticket, &err), err);
    REQUIRE_INT(vk_wait(other, ticket, 1000, &err), -ETIMEDOUT);
    require_all_fail(other, c);
    vk_cmd_destroy(c);
    vk_free(other, &m);
    vk_close(other);
}
