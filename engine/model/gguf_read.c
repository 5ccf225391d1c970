// The parser of one GGUF file in memory.
//
// The input is hostile: each length is compared with the bytes that remain before it is used or
// anything is allocated for it, and all arithmetic on it is checked. A refusal says which field and
// at which byte.
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/model/gguf_file.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read in place");

struct reader {
    const uint8_t *p;
    size_t         pos, n;          // pos <= n
    struct arena  *arena;
    struct err    *err;
};

static int take(struct reader *r, const char *field, size_t bytes, const void **ret)
{
    size_t left = r->n - r->pos;
    if (bytes > left)
        return err_set(r->err, -EINVAL, "%s at byte %zu: needs %zu bytes, %zu remain", field,
                       r->pos, bytes, left);
    *ret = r->p + r->pos;
    r->pos += bytes;
    return 0;
}

static int read_u32(struct reader *r, const char *field, uint32_t *ret)
{
    const void *p = NULL;
    int rc = take(r, field, sizeof(*ret), &p);
    if (rc == 0)
        memcpy(ret, p, sizeof(*ret));
    return rc;
}

static int read_u64(struct reader *r, const char *field, uint64_t *ret)
{
    const void *p = NULL;
    int rc = take(r, field, sizeof(*ret), &p);
    if (rc == 0)
        memcpy(ret, p, sizeof(*ret));
    return rc;
}

// A 64-bit count of things that take at least item_bytes each.
static int read_count(struct reader *r, const char *field, size_t max, size_t item_bytes,
                      size_t *ret)
{
    uint64_t n = 0;
    size_t at = r->pos;
    int rc = read_u64(r, field, &n);
    if (rc < 0)
        return rc;
    if (n > max)
        return err_set(r->err, -EINVAL, "%s at byte %zu: %" PRIu64 " is more than %zu", field, at,
                       n, max);
    if (n > (r->n - r->pos) / item_bytes)
        return err_set(r->err, -EINVAL, "%s at byte %zu: %" PRIu64 " cannot fit in %zu bytes",
                       field, at, n, r->n - r->pos);
    *ret = (size_t)n;
    return 0;
}

static int read_string(struct reader *r, const char *field, size_t max, struct gguf_str *ret)
{
    const void *p = NULL;
    size_t n = 0;
    int rc = read_count(r, field, max, 1, &n);
    if (rc == 0)
        rc = take(r, field, n, &p);
    if (rc == 0)
        *ret = (struct gguf_str){ p, n };
    return rc;
}

// Names become C strings and go into messages: no control characters.
static int read_name(struct reader *r, const char *field, const char **ret)
{
    struct gguf_str s = {0};
    size_t at = r->pos;
    int rc = read_string(r, field, GGUF_NAME_BYTES_MAX, &s);
    if (rc < 0)
        return rc;
    if (s.n == 0)
        return err_set(r->err, -EINVAL, "%s at byte %zu: empty", field, at);
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < ' ' || s.p[i] == 0x7f)
            return err_set(r->err, -EINVAL, "%s at byte %zu: holds the control byte 0x%02x", field,
                           at, (unsigned char)s.p[i]);
    char *name = arena_memdup(r->arena, s.p, s.n);
    if (!name)
        return err_set(r->err, -ENOMEM, "%s: out of memory", field);
    *ret = name;
    return 0;
}

// ---- metadata ----------------------------------------------------------------------------------

size_t gguf_type_bytes(enum gguf_type type)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4,
        [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8,
        [GGUF_F64] = 8,
    };
    return (size_t)type < ARRAY_LEN(bytes) ? bytes[type] : 0;
}

static int read_type(struct reader *r, const char *field, enum gguf_type *ret)
{
    uint32_t type = 0;
    size_t at = r->pos;
    int rc = read_u32(r, field, &type);
    if (rc < 0)
        return rc;
    if (type > GGUF_F64)
        return err_set(r->err, -EINVAL, "%s at byte %zu: unknown type %" PRIu32, field, at, type);
    *ret = (enum gguf_type)type;
    return 0;
}

static int read_strings(struct reader *r, size_t n, struct gguf_array *ret)
{
    struct gguf_str *str = arena_calloc(r->arena, n, sizeof(*str));
    if (!str)
        return err_set(r->err, -ENOMEM, "%zu strings: out of memory", n);
    for (size_t i = 0; i < n; i++) {
        int rc = read_string(r, "string", GGUF_STRING_BYTES_MAX, &str[i]);
        if (rc < 0)
            return rc;
    }
    *ret = (struct gguf_array){ GGUF_STRING, n, NULL, str };
    return 0;
}

// n packed values of one type.
static int read_values(struct reader *r, enum gguf_type type, size_t n, struct gguf_array *ret)
{
    if (type == GGUF_STRING)
        return read_strings(r, n, ret);
    const void *p = NULL;
    size_t bytes, at = r->pos;
    if (!mul_size(n, gguf_type_bytes(type), &bytes))
        return err_set(r->err, -EINVAL, "value at byte %zu: size overflows", at);
    int rc = take(r, "value", bytes, &p);
    if (rc < 0)
        return rc;
    for (size_t i = 0; type == GGUF_BOOL && i < n; i++)
        if (((const uint8_t *)p)[i] > 1)
            return err_set(r->err, -EINVAL, "value at byte %zu: a bool of %u", at + i,
                           ((const uint8_t *)p)[i]);
    *ret = (struct gguf_array){ type, n, p, NULL };
    return 0;
}

static int read_array(struct reader *r, struct gguf_array *ret)
{
    enum gguf_type type = GGUF_ARRAY;
    size_t n = 0, at = r->pos;
    int rc = read_type(r, "array type", &type);
    if (rc < 0)
        return rc;
    if (type == GGUF_ARRAY)
        return err_set(r->err, -EINVAL, "array type at byte %zu: arrays of arrays are refused", at);
    // A string takes at least its length field.
    size_t item_bytes = type == GGUF_STRING ? sizeof(uint64_t) : gguf_type_bytes(type);
    rc = read_count(r, "array length", GGUF_ARRAY_ITEMS_MAX, item_bytes, &n);
    return rc < 0 ? rc : read_values(r, type, n, ret);
}

static int read_key(struct reader *r, struct key *k)
{
    enum gguf_type type = GGUF_ARRAY;
    int rc = read_name(r, "key", &k->name);
    if (rc < 0)
        return rc;
    rc = read_type(r, "type", &type);
    if (rc == 0) {
        k->is_array = type == GGUF_ARRAY;
        rc = k->is_array ? read_array(r, &k->v) : read_values(r, type, 1, &k->v);
    }
    if (rc < 0)
        err_prefix(r->err, "key %.80s", k->name);
    return rc;
}

static int read_keys(struct reader *r, size_t n, struct part *f)
{
    size_t start = r->pos;
    f->key = arena_calloc(r->arena, n, sizeof(*f->key));
    if (!f->key)
        return err_set(r->err, -ENOMEM, "%zu keys: out of memory", n);
    for (size_t i = 0; i < n; i++) {
        int rc = read_key(r, &f->key[i]);
        if (rc < 0)
            return rc;
        if (r->pos - start > GGUF_KEYS_BYTES_MAX)
            return err_set(r->err, -EINVAL, "key %.80s ends at byte %zu: more than %zu bytes",
                           f->key[i].name, r->pos, GGUF_KEYS_BYTES_MAX);
    }
    f->keys = (struct names){ f->key, sizeof(*f->key), n, NULL };
    return names_sort(&f->keys, r->arena, "key", r->err);
}

// ---- tensors ----------------------------------------------------------------------------------

struct extent { uint64_t offset; size_t tensor; };  // of a tensor's data, from the data's start

// For messages: a file with these is fine, only this program cannot use it.
static const char *foreign_type_name(uint32_t id)
{
    static const char *const name[] = {
        [4] = "Q4_2", [5] = "Q4_3", [9] = "Q8_1", [10] = "Q2_K", [11] = "Q3_K", [15] = "Q8_K",
        [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL",
        [21] = "IQ3_S", [22] = "IQ2_S", [23] = "IQ4_XS", [24] = "I8", [25] = "I16", [26] = "I32",
        [27] = "I64", [28] = "F64", [29] = "IQ1_M", [34] = "TQ1_0", [35] = "TQ2_0", [39] = "MXFP4",
        [40] = "NVFP4", [41] = "Q1_0",
    };
    return id < ARRAY_LEN(name) && name[id] ? name[id] : "unknown";
}

static int read_dims(struct reader *r, struct tensor *t, uint64_t *elems)
{
    size_t at = r->pos;
    int rc = read_u32(r, "dimensions", &t->n_dims);
    if (rc < 0)
        return rc;
    if (t->n_dims < 1 || t->n_dims > TENSOR_DIMS_MAX)
        return err_set(r->err, -EINVAL, "dimensions at byte %zu: %" PRIu32 ", not 1 to %d", at,
                       t->n_dims, TENSOR_DIMS_MAX);
    uint64_t product = 1;
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++) {
        t->dim[i] = 1;
        at = r->pos;
        if (i < t->n_dims && (rc = read_u64(r, "dimension", &t->dim[i])) < 0)
            return rc;
        if (t->dim[i] == 0)
            return err_set(r->err, -EINVAL, "dimension at byte %zu: zero", at);
        if (__builtin_mul_overflow(product, t->dim[i], &product) || product > GGUF_ELEMS_MAX)
            return err_set(r->err, -EINVAL, "dimension at byte %zu: more than %" PRIu64 " elements",
                           at, GGUF_ELEMS_MAX);
    }
    *elems = product;
    return 0;
}

static int read_format(struct reader *r, struct tensor *t, uint64_t elems)
{
    uint32_t id = 0;
    size_t at = r->pos;
    int rc = read_u32(r, "type", &id);
    if (rc < 0)
        return rc;
    t->quant = quant_by_gguf_id(id);
    if (!t->quant)
        return err_set(r->err, -ENOTSUP, "type at byte %zu: %s (%" PRIu32 ") is not supported", at,
                       foreign_type_name(id), id);
    if (t->dim[0] % t->quant->block_elems)
        return err_set(r->err, -EINVAL, "type at byte %zu: rows of %" PRIu64 " are no multiple of %"
                       PRIu32 ", the block of %s", at, t->dim[0], t->quant->block_elems,
                       t->quant->name);
    if (__builtin_mul_overflow(elems / t->quant->block_elems, t->quant->block_bytes, &t->bytes))
        return err_set(r->err, -EINVAL, "type at byte %zu: size overflows", at);
    return 0;
}

static int read_tensor(struct reader *r, struct tensor *t, struct extent *e)
{
    uint64_t elems = 0;
    int rc = read_name(r, "tensor name", &t->name);
    if (rc < 0)
        return rc;
    rc = read_dims(r, t, &elems);
    if (rc == 0)
        rc = read_format(r, t, elems);
    if (rc == 0)
        rc = read_u64(r, "offset", &e->offset);
    if (rc < 0)
        err_prefix(r->err, "tensor %.80s", t->name);
    return rc;
}

static int extent_cmp(const void *va, const void *vb)
{
    const struct extent *a = va, *b = vb;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return a->tensor < b->tensor ? -1 : a->tensor > b->tensor;
}

// Places the tensors: aligned, inside the file, none over another. Directory order is free.
static int place(struct part *f, struct extent *e, size_t align, struct err *err)
{
    size_t start;
    uint64_t free_from = 0;
    if (f->n_tensors == 0)
        return 0;
    if (!align_size(f->header_bytes, align, &start) || start > f->bytes)
        return err_set(err, -EINVAL, "tensor data at byte %zu: beyond the file's %zu bytes",
                       f->header_bytes, f->bytes);
    qsort(e, f->n_tensors, sizeof(*e), extent_cmp);
    for (size_t i = 0; i < f->n_tensors; i++) {
        struct tensor *t = &f->tensor[e[i].tensor];
        uint64_t end, offset = e[i].offset;
        if (offset % align)
            return err_set(err, -EINVAL, "tensor %.80s: offset %" PRIu64 " is no multiple of %zu",
                           t->name, offset, align);
        if (__builtin_add_overflow(offset, t->bytes, &end) || end > f->bytes - start)
            return err_set(err, -EINVAL, "tensor %.80s: %" PRIu64 " bytes at offset %" PRIu64
                           " from byte %zu end beyond the file's %zu bytes", t->name, t->bytes,
                           offset, start, f->bytes);
        if (offset < free_from)
            return err_set(err, -EINVAL, "tensor %.80s: offset %" PRIu64 " overlaps tensor %.80s",
                           t->name, offset, f->tensor[e[i - 1].tensor].name);
        t->data = f->p + start + offset;
        free_from = end;
    }
    return 0;
}

static int read_alignment(const struct part *f, size_t *ret, struct err *err)
{
    uint64_t align = GGUF_ALIGN_DEFAULT;
    int rc = part_u64(f, "general.alignment", 8, 65536, &align, err);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (align & (align - 1))
        return err_set(err, -EINVAL, "key general.alignment: %" PRIu64 " is no power of two",
                       align);
    *ret = (size_t)align;
    return 0;
}

static int read_tensors(struct reader *r, size_t n, struct part *f)
{
    size_t align = 0;
    int rc = read_alignment(f, &align, r->err);
    if (rc < 0)
        return rc;
    f->tensor = arena_calloc(r->arena, n, sizeof(*f->tensor));
    struct extent *e = malloc(MAX(n, (size_t)1) * sizeof(*e));  // n <= GGUF_TENSORS_MAX
    if (!f->tensor || !e) {
        rc = err_set(r->err, -ENOMEM, "%zu tensors: out of memory", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        e[i].tensor = i;
        rc = read_tensor(r, &f->tensor[i], &e[i]);
        if (rc < 0)
            goto out;
    }
    f->n_tensors = n;
    f->header_bytes = r->pos;
    rc = place(f, e, align, r->err);
out:
    free(e);
    return rc;
}

// ---- the file ----------------------------------------------------------------------------------

static int read_magic(struct reader *r)
{
    const void *magic = NULL;
    uint32_t version = 0;
    int rc = take(r, "magic", 4, &magic);
    if (rc < 0)
        return rc;
    if (memcmp(magic, "GGUF", 4) != 0)
        return err_set(r->err, -EINVAL, "magic at byte 0: not a GGUF file");
    rc = read_u32(r, "version", &version);
    if (rc < 0)
        return rc;
    if (version && (version & 0xffff) == 0)
        return err_set(r->err, -ENOTSUP, "version at byte 4: big-endian files are not supported");
    if (version != 2 && version != 3)
        return err_set(r->err, -ENOTSUP, "version at byte 4: %" PRIu32 " is not 2 or 3", version);
    return 0;
}

int part_read(struct part *f, struct arena *a, struct err *err)
{
    struct reader r = { f->p, 0, f->bytes, a, err };
    size_t n_tensors = 0, n_keys = 0;
    int rc = read_magic(&r);
    if (rc < 0)
        return rc;
    // Least bytes of a tensor: name of one, dimensions of one, type, offset; of a key: name of one,
    // type, a byte.
    rc = read_count(&r, "number of tensors", GGUF_TENSORS_MAX, 8 + 1 + 4 + 8 + 4 + 8, &n_tensors);
    if (rc == 0)
        rc = read_count(&r, "number of keys", GGUF_KEYS_MAX, 8 + 1 + 4 + 1, &n_keys);
    if (rc == 0)
        rc = read_keys(&r, n_keys, f);
    return rc < 0 ? rc : read_tensors(&r, n_tensors, f);
}
