// The index in LMDB; this is the only file that includes it.
//
// LMDB maps its file and believes what it reads: a damaged page may crash or mislead it. So the
// file is first read by a child process, which sends what it finds through a pipe. A child that
// finds disorder, crashes or spins means a damaged index; one that lacks memory, is slow or is
// killed by somebody means nothing but that the index was not read. After a clean close there is
// also a checksum of the whole file. Committing needs no reader's lock table: the store has the
// folder to itself.
#include "kvstore/index.h"
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILE_NAME "index"
#define SUM_NAME "index.sum"
#define ASIDE_NAME "index.damaged"
#define LOAD_TIMEOUT_MS 60000           // without a byte from the child: the machine is too slow
#define CPU_SECONDS 60                  // of the child, and more for a long file: it spins
#define CPU_BYTES_PER_S (16u << 20)
#define PIPE_BYTES (1u << 20)
#define ENV_FLAGS (MDB_NOSUBDIR | MDB_NOLOCK | MDB_NORDAHEAD)
#define FIRST_PAGE 2u                   // behind the two meta pages
#define BLOCK_BYTES 512u                // of ru_oublock

// First byte of every key.
enum { KEY_BLOCK = 'b', KEY_META = 'm', KEY_NAMED = 'r' };
#define PLACE_BYTES 8u                  // segment and slot
#define KEY_MAX (1 + KV_RECORD_NAME_MAX + 1)
#define VALUE_MAX (sizeof(struct index_named) + KV_RECORD_BYTES_MAX)

struct lmdb_index {
    struct index base;
    char        *folder, *path, *sum_path, *aside_path;      // owned
    uint64_t     bytes_max, written;
    MDB_env     *env;                   // NULL: not open
    MDB_dbi      dbi;
    bool         broken;
};

// A file's checksum as it was left behind.
struct file_sum { uint8_t magic[8]; uint64_t bytes, sum, check; };
static const uint8_t file_sum_magic[8] = "godwitIX";

static struct lmdb_index *of(struct index *x) { return (struct lmdb_index *)x; }

static int code_of(int r)
{
    return r == 0 ? 0 : r > 0 ? -r : r == MDB_MAP_FULL ? -ENOSPC : -EIO;
}

// ---- the child that reads first ----------------------------------------------------------------

// One record on the pipe, followed by key and value. The last one has neither, but says how the
// reading went.
struct frame { uint32_t key_bytes, value_bytes; int32_t verdict; };

struct pipe_out { int fd; size_t n; uint8_t *buf; };

static bool flush(struct pipe_out *o)
{
    for (size_t done = 0; done < o->n;) {
        ssize_t k = write(o->fd, o->buf + done, o->n - done);
        if (k < 0 && errno != EINTR)
            return false;
        done += k > 0 ? (size_t)k : 0;
    }
    o->n = 0;
    return true;
}

static bool put(struct pipe_out *o, const void *p, size_t n)
{
    for (size_t k; n > 0; p = (const uint8_t *)p + k, n -= k) {
        if (o->n == PIPE_BYTES && !flush(o))
            return false;
        k = MIN(n, PIPE_BYTES - o->n);
        memcpy(o->buf + o->n, p, k);
        o->n += k;
    }
    return true;
}

static bool put_frame(struct pipe_out *o, const MDB_val *k, const MDB_val *v)
{
    struct frame f = {.key_bytes = (uint32_t)k->mv_size, .value_bytes = (uint32_t)v->mv_size};
    return put(o, &f, sizeof(f)) && put(o, k->mv_data, k->mv_size) &&
           put(o, v->mv_data, v->mv_size);
}

// What the child says of an error of LMDB: what the system denies is not the file's fault.
static int verdict_of(int r) { return r == 0 ? 0 : r > 0 ? -r : -EUCLEAN; }

// Every record in ascending order, as many as the tree says it has.
static int send_records(MDB_txn *txn, MDB_dbi dbi, struct pipe_out *o)
{
    MDB_cursor *c;
    MDB_stat st;
    MDB_val k, v, last = {0};
    uint64_t n = 0;
    int r = mdb_stat(txn, dbi, &st);
    if (r == 0)
        r = mdb_cursor_open(txn, dbi, &c);
    if (r)
        return verdict_of(r);
    while ((r = mdb_cursor_get(c, &k, &v, MDB_NEXT)) == 0) {
        if (++n > st.ms_entries || (n > 1 && mdb_cmp(txn, dbi, &last, &k) >= 0) ||
            k.mv_size == 0 || k.mv_size > KEY_MAX || v.mv_size > VALUE_MAX)
            return -EUCLEAN;
        if (!put_frame(o, &k, &v))
            return -EPIPE;
        last = k;
    }
    return r == MDB_NOTFOUND && n == st.ms_entries ? 0 : r > 0 ? -r : -EUCLEAN;
}

// Pages that a transaction freed: how many, then their numbers, descending.
static bool is_free_list(const MDB_val *v, const MDB_envinfo *info)
{
    const uint8_t *list = v->mv_data;
    size_t n = v->mv_size / sizeof(n), count, page, before = info->me_last_pgno + 1;
    if (n == 0 || v->mv_size % sizeof(n))
        return false;
    memcpy(&count, list, sizeof(count));
    for (size_t i = 1; i <= count; i++, before = page) {
        if (i >= n)
            return false;
        memcpy(&page, list + i * sizeof(page), sizeof(page));
        if (page < FIRST_PAGE || page >= before)
            return false;
    }
    return true;
}

// The list of free pages is a tree too (number 0), by transaction, and committing will believe it.
static int walk_free_pages(MDB_txn *txn, const MDB_envinfo *info)
{
    MDB_cursor *c;
    MDB_stat st;
    MDB_val k, v;
    uint64_t n = 0;
    size_t id, last = 0;
    int r = mdb_stat(txn, 0, &st);
    if (r == 0)
        r = mdb_cursor_open(txn, 0, &c);
    if (r)
        return verdict_of(r);
    while ((r = mdb_cursor_get(c, &k, &v, MDB_NEXT)) == 0) {
        if (++n > st.ms_entries || k.mv_size != sizeof(id))
            return -EUCLEAN;
        memcpy(&id, k.mv_data, sizeof(id));
        if (id <= last || id > info->me_last_txnid || !is_free_list(&v, info))
            return -EUCLEAN;
        last = id;
    }
    return r == MDB_NOTFOUND && n == st.ms_entries ? 0 : r > 0 ? -r : -EUCLEAN;
}

// A damaged page of the file may ask for any amount of memory. Is there as much as a good one
// needs?
static bool has_memory(const char *path, uint64_t bytes_max)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, bytes_max, PROT_READ, MAP_SHARED, fd, 0);
    void *more = malloc(PIPE_BYTES);
    bool ok = p != MAP_FAILED && more;
    if (p != MAP_FAILED)
        munmap(p, bytes_max);
    free(more);
    if (fd >= 0)
        close(fd);
    return ok;
}

static int child_open(MDB_env *env, const char *path, uint64_t bytes_max)
{
    int r = mdb_env_set_mapsize(env, bytes_max);
    if (r == 0)
        r = mdb_env_open(env, path, ENV_FLAGS | MDB_RDONLY, 0600);
    bool is_odd = r == EINVAL || r == ENOENT || (r == ENOMEM && has_memory(path, bytes_max));
    return is_odd ? -EUCLEAN : verdict_of(r);
}

static int child_read(const char *path, uint64_t bytes_max, struct pipe_out *o)
{
    struct stat st;
    MDB_env *env;
    MDB_envinfo info;
    MDB_stat env_stat;
    MDB_txn *txn;
    MDB_dbi dbi;
    int r = verdict_of(mdb_env_create(&env));
    if (r == 0)
        r = child_open(env, path, bytes_max);
    if (r == 0 && stat(path, &st) != 0)
        r = -errno;
    if (r)
        return r;
    mdb_env_info(env, &info);
    mdb_env_stat(env, &env_stat);
    if ((uint64_t)st.st_size / env_stat.ms_psize <= info.me_last_pgno)
        return -EUCLEAN;
    r = verdict_of(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn));
    if (r == 0)
        r = verdict_of(mdb_dbi_open(txn, NULL, 0, &dbi));
    if (r == 0)
        r = send_records(txn, dbi, o);
    return r ? r : walk_free_pages(txn, &info);
}

// Signals that a process gets for what it does itself.
static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP, SIGXCPU};

static void limit_child(const char *path)
{
    struct stat st;
    rlim_t cpu = CPU_SECONDS;
    if (stat(path, &st) == 0)
        cpu += (rlim_t)st.st_size / CPU_BYTES_PER_S;
    setrlimit(RLIMIT_CPU, &(struct rlimit){cpu, cpu + 1});
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
}

// Dies quietly of whatever a damaged file does to it, and with its parent, since it has the store's
// lock too.
static void child_main(const char *path, uint64_t bytes_max, int fd, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);                       // it was gone already
    for (size_t i = 0; i < ARRAY_LEN(crashes); i++)
        signal(crashes[i], SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    limit_child(path);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        dup2(null, STDERR_FILENO);
    struct pipe_out o = {.fd = fd, .buf = malloc(PIPE_BYTES)};
    struct frame end = {.verdict = o.buf ? child_read(path, bytes_max, &o) : -ENOMEM};
    // Without a buffer there is nothing before it, and a pipe takes so little at once.
    bool told = o.buf ? put(&o, &end, sizeof(end)) && flush(&o)
                      : write(fd, &end, sizeof(end)) == (ssize_t)sizeof(end);
    _exit(told ? 0 : 1);
}

struct pipe_in { int fd; size_t at, n; uint8_t *buf; };

// Returns 0, -EPIPE (there is no more), -ETIMEDOUT, or what the system says.
static int refill(struct pipe_in *in)
{
    struct pollfd p = {.fd = in->fd, .events = POLLIN};
    int ready;
    do
        ready = poll(&p, 1, LOAD_TIMEOUT_MS);
    while (ready < 0 && errno == EINTR);
    ssize_t k = ready > 0 ? read(in->fd, in->buf, PIPE_BYTES) : -1;
    in->at = 0;
    in->n = k > 0 ? (size_t)k : 0;
    return k > 0 ? 0 : k == 0 ? -EPIPE : ready == 0 ? -ETIMEDOUT : -errno;
}

static int take(struct pipe_in *in, void *p, size_t n)
{
    for (size_t k; n > 0; p = (uint8_t *)p + k, n -= k) {
        int r = in->at == in->n ? refill(in) : 0;
        if (r)
            return r;
        k = MIN(n, in->n - in->at);
        memcpy(p, in->buf + in->at, k);
        in->at += k;
    }
    return 0;
}

static bool visit_named(const struct index_visitor *v, const uint8_t *key, size_t n_key,
                        const uint8_t *value, size_t n)
{
    char name[KV_RECORD_NAME_MAX + 1] = "";
    struct index_named h;
    memcpy(name, key, n_key);
    return strlen(name) == n_key && index_named_decode(name, value, n, &h) == 0 &&
           v->named(v->ctx, name, &h, value + sizeof(h));
}

// Big-endian, so that neighbours are neighbours.
static size_t block_key(uint8_t key[KEY_MAX], const struct index_block *b)
{
    uint64_t place = (uint64_t)b->segment << 32 | b->slot;
    key[0] = KEY_BLOCK;
    for (uint32_t i = 0; i < PLACE_BYTES; i++)
        key[1 + i] = (uint8_t)(place >> (56 - 8 * i));
    return 1 + PLACE_BYTES;
}

static bool visit_block(const struct index_visitor *v, const uint8_t *key, const uint8_t *value)
{
    uint8_t again[KEY_MAX];
    struct index_block b;
    struct hash h;
    memcpy(&b, value, sizeof(b));
    memcpy(h.b, b.key, HASH_BYTES);
    size_t n = block_key(again, &b);
    return index_block_ok(&b) && memcmp(key, again, n) == 0 && v->block(v->ctx, &h, &b);
}

static bool visit(const struct index_visitor *v, const uint8_t *key, size_t n_key,
                  const uint8_t *value, size_t n)
{
    if (key[0] == KEY_BLOCK && n_key == 1 + PLACE_BYTES && n == sizeof(struct index_block))
        return visit_block(v, key, value);
    if (key[0] == KEY_META && n_key == 1 && n == sizeof(struct index_meta)) {
        struct index_meta m;
        memcpy(&m, value, sizeof(m));
        return index_meta_ok(&m) && v->meta(v->ctx, &m);
    }
    return key[0] == KEY_NAMED && n_key > 1 && n_key - 1 <= KV_RECORD_NAME_MAX &&
           visit_named(v, key + 1, n_key - 1, value, n);
}

struct receiving {
    struct pipe_in in;
    uint8_t        key[KEY_MAX];
    uint8_t       *value;               // (value_max) owned
    size_t         value_max;
};

static int receive_record(struct receiving *x, const struct frame *f, const struct index_visitor *v)
{
    if (f->key_bytes > KEY_MAX || f->value_bytes > VALUE_MAX)
        return -EUCLEAN;
    if (f->value_bytes > x->value_max) {
        uint8_t *larger = realloc(x->value, f->value_bytes);
        if (!larger)
            return -ENOMEM;
        x->value = larger;
        x->value_max = f->value_bytes;
    }
    int r = take(&x->in, x->key, f->key_bytes);
    if (r == 0)
        r = take(&x->in, x->value, f->value_bytes);
    if (r)
        return r;
    return visit(v, x->key, f->key_bytes, x->value, f->value_bytes) ? 0 : -EUCLEAN;
}

// Everything that the child sends, and what it says at the end; -EPIPE: it said nothing.
static int receive(int fd, const struct index_visitor *v)
{
    struct receiving x = {.in = {.fd = fd, .buf = malloc(PIPE_BYTES)},
                          .value = malloc(PIPE_BYTES), .value_max = PIPE_BYTES};
    struct frame f;
    int r = x.in.buf && x.value ? 0 : -ENOMEM;
    while (r == 0 && (r = take(&x.in, &f, sizeof(f))) == 0) {
        if (f.key_bytes == 0) {
            r = f.verdict;
            break;
        }
        r = receive_record(&x, &f, v);
    }
    free(x.in.buf);
    free(x.value);
    return r;
}

// Of a child that went without a word. One that somebody killed is not the file's fault; where
// nobody can be waited for (children are ignored), it is taken for one that crashed.
static int verdict_of_death(bool is_known, int status)
{
    if (!is_known || !WIFSIGNALED(status))
        return -EUCLEAN;
    for (size_t i = 0; i < ARRAY_LEN(crashes); i++)
        if (WTERMSIG(status) == crashes[i])
            return -EUCLEAN;
    return -EINTR;
}

static int load_by_child(struct lmdb_index *x, const struct index_visitor *v, struct err *err)
{
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) != 0)
        return err_set(err, -errno, "pipe: %s", strerror(errno));
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        close(fd[0]);                   // so that writing to nobody fails
        child_main(x->path, x->bytes_max, fd[1], parent);
    }
    int r = pid < 0 ? -errno : 0;
    close(fd[1]);
    if (r) {
        close(fd[0]);
        return err_set(err, r, "fork: %s", strerror(-r));
    }
    r = receive(fd[0], v);
    close(fd[0]);
    if (r && r != -EPIPE)
        kill(pid, SIGKILL);
    int status = 0;
    pid_t waited;
    do
        waited = waitpid(pid, &status, 0);
    while (waited < 0 && errno == EINTR);
    if (r == -EPIPE)
        r = verdict_of_death(waited == pid, status);
    return r == -EUCLEAN ? err_set(err, r, "%s is damaged", x->path)
           : r ? err_set(err, r, "%s cannot be read: %s", x->path, strerror(-r)) : 0;
}

// ---- the checksum of a file at rest ------------------------------------------------------------

// Of all bytes of a file, in pieces.
static int sum_file(const char *path, struct file_sum *ret)
{
    *ret = (struct file_sum){0};
    memcpy(ret->magic, file_sum_magic, sizeof(ret->magic));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *buf = malloc(PIPE_BYTES);
    int r = fd < 0 ? -errno : buf ? 0 : -ENOMEM;
    while (r == 0) {
        ssize_t k = read(fd, buf, PIPE_BYTES);
        if (k <= 0) {
            r = k < 0 ? -errno : 0;
            break;
        }
        uint64_t part[2] = {ret->sum, sum_bytes(buf, (size_t)k)};
        ret->sum = sum_bytes(part, sizeof(part));
        ret->bytes += (uint64_t)k;
    }
    if (fd >= 0)
        close(fd);
    free(buf);
    ret->check = sum_bytes(ret, offsetof(struct file_sum, check));
    return r;
}

static void leave_sum(struct lmdb_index *x)
{
    struct file_sum s;
    if (sum_file(x->path, &s))
        return;
    int fd = open(x->sum_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    bool ok = write(fd, &s, sizeof(s)) == (ssize_t)sizeof(s) && fdatasync(fd) == 0;
    close(fd);
    if (!ok)
        unlink(x->sum_path);
}

// Returns 0 (the same, or there is none to be believed), -EUCLEAN (another one) or what kept it
// from reading. Bytes that the disk cannot read any more are for the child to find.
static int compare_sum(struct lmdb_index *x)
{
    struct file_sum then, now;
    int fd = open(x->sum_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT || errno == ELOOP ? 0 : -errno;
    ssize_t n = read(fd, &then, sizeof(then));
    close(fd);
    if (n != (ssize_t)sizeof(then) || memcmp(then.magic, file_sum_magic, sizeof(then.magic)) != 0 ||
        then.check != sum_bytes(&then, offsetof(struct file_sum, check)))
        return 0;                       // it is itself no longer believed
    int r = sum_file(x->path, &now);
    if (r)
        return r == -EIO ? 0 : r;
    return now.bytes == then.bytes && now.sum == then.sum ? 0 : -EUCLEAN;
}

// ---- index_ops ---------------------------------------------------------------------------------

// What was removed, renamed or made stays so after a power loss.
static int sync_folder(const struct lmdb_index *x, struct err *err)
{
    int fd = open(x->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 || fsync(fd) != 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return r ? err_set(err, r, "%s: %s", x->folder, strerror(-r)) : 0;
}

// The file is about to change. A checksum that outlived it would condemn a good index.
static int remove_sum(const struct lmdb_index *x, struct err *err)
{
    if (unlink(x->sum_path) == 0)
        return sync_folder(x, err);
    return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", x->sum_path, strerror(errno));
}

static int open_env(struct lmdb_index *x, struct err *err)
{
    MDB_txn *txn = NULL;
    int e = remove_sum(x, err);
    if (e)
        return e;
    int r = mdb_env_create(&x->env);
    if (r == 0)
        r = mdb_env_set_mapsize(x->env, x->bytes_max);
    if (r == 0)
        r = mdb_env_open(x->env, x->path, ENV_FLAGS, 0600);
    if (r == 0)
        r = mdb_txn_begin(x->env, NULL, 0, &txn);
    if (r == 0)
        r = mdb_dbi_open(txn, NULL, 0, &x->dbi);
    if (r == 0)
        r = mdb_txn_commit(txn);
    else if (txn)
        mdb_txn_abort(txn);
    if (r == 0)
        return 0;
    mdb_env_close(x->env);
    x->env = NULL;
    return err_set(err, code_of(r), "%s: %s", x->path, mdb_strerror(r));
}

static int lmdb_check(struct index *base, const struct index_visitor *v, struct err *err)
{
    struct lmdb_index *x = of(base);
    struct stat st;
    if (lstat(x->path, &st) != 0)
        return errno == ENOENT ? -ENOENT : err_set(err, -errno, "%s: %s", x->path, strerror(errno));
    int r = S_ISREG(st.st_mode) ? compare_sum(x) : -EUCLEAN;
    if (r == -EUCLEAN)
        return err_set(err, r, "%s is damaged", x->path);
    return r ? err_set(err, r, "%s cannot be read: %s", x->path, strerror(-r))
             : load_by_child(x, v, err);
}

static int lmdb_load(struct index *base, const struct index_visitor *v, struct err *err)
{
    int r = lmdb_check(base, v, err);
    return r ? r : open_env(of(base), err);
}

static int lmdb_reset(struct index *base, struct err *err)
{
    struct lmdb_index *x = of(base);
    struct stat st;
    // The first one that was kept is the one with the records.
    int gone = lstat(x->aside_path, &st) == 0 ? unlink(x->path) : rename(x->path, x->aside_path);
    if (gone != 0 && errno != ENOENT)
        return err_set(err, -errno, "%s: %s", x->path, strerror(errno));
    int r = open_env(x, err);
    return r ? r : sync_folder(x, err);
}

static int put_named(MDB_txn *txn, MDB_dbi dbi, MDB_val *k, const struct index_change *c)
{
    struct index_named h = {c->expires_s, c->n_pins, c->value_bytes, 0};
    size_t pin_bytes = (size_t)c->n_pins * HASH_BYTES;
    MDB_val v = {sizeof(h) + pin_bytes + c->value_bytes, NULL};
    int r = mdb_put(txn, dbi, k, &v, MDB_RESERVE);
    if (r)
        return r;
    uint8_t *p = v.mv_data;
    memcpy(p, &h, sizeof(h));
    if (pin_bytes)
        memcpy(p + sizeof(h), c->pin, pin_bytes);
    if (c->value_bytes)
        memcpy(p + sizeof(h) + pin_bytes, c->value, c->value_bytes);
    h.check = index_named_check(c->name, p, v.mv_size);
    memcpy(p, &h, sizeof(h));
    return 0;
}

static size_t named_key(uint8_t key[KEY_MAX], const char *name)
{
    size_t n = strlen(name);
    assert(n > 0 && n <= KV_RECORD_NAME_MAX);
    key[0] = KEY_NAMED;
    memcpy(key + 1, name, n);
    return 1 + n;
}

// A newer block of the same slot stays.
static int forget(MDB_txn *txn, MDB_dbi dbi, MDB_val *k, uint64_t generation)
{
    MDB_val v;
    struct index_block b;
    int r = mdb_get(txn, dbi, k, &v);
    if (r)
        return r == MDB_NOTFOUND ? 0 : r;
    if (v.mv_size == sizeof(b))
        memcpy(&b, v.mv_data, sizeof(b));
    if (v.mv_size == sizeof(b) && b.generation > generation)
        return 0;
    return mdb_del(txn, dbi, k, NULL);
}

static int apply(MDB_txn *txn, MDB_dbi dbi, const struct index_change *c)
{
    uint8_t key[KEY_MAX];
    MDB_val k = {block_key(key, &c->block), key}, v = {0};
    if (c->kind == INDEX_NAMED || c->kind == INDEX_UNNAME)
        k.mv_size = named_key(key, c->name);
    struct index_meta meta = c->meta;
    struct index_block block = c->block;
    int r = 0;
    switch (c->kind) {
    case INDEX_BLOCK:
        index_block_seal(&block, &c->key);
        v = (MDB_val){sizeof(block), &block};
        return mdb_put(txn, dbi, &k, &v, 0);
    case INDEX_NAMED: return put_named(txn, dbi, &k, c);
    case INDEX_FORGET: return forget(txn, dbi, &k, c->block.generation);
    case INDEX_UNNAME:
        r = mdb_del(txn, dbi, &k, NULL);
        return r == MDB_NOTFOUND ? 0 : r;
    case INDEX_META:
        key[0] = KEY_META;
        k.mv_size = 1;
        index_meta_seal(&meta);
        v = (MDB_val){sizeof(meta), &meta};
        return mdb_put(txn, dbi, &k, &v, 0);
    case INDEX_NOTHING: break;
    }
    return r;
}

// Bytes that this thread has given to file systems so far.
static uint64_t thread_written(void)
{
    struct rusage u;
    return getrusage(RUSAGE_THREAD, &u) == 0 ? (uint64_t)u.ru_oublock * BLOCK_BYTES : 0;
}

static int lmdb_commit(struct index *base, const struct index_change *c, uint32_t n)
{
    struct lmdb_index *x = of(base);
    MDB_txn *txn;
    if (x->broken)
        return -EIO;
    uint64_t before = thread_written();
    int r = mdb_txn_begin(x->env, NULL, 0, &txn);
    if (r)
        return code_of(r);
    for (uint32_t i = 0; i < n && r == 0; i++)
        r = c[i].skip ? 0 : apply(txn, x->dbi, &c[i]);
    if (r)
        mdb_txn_abort(txn);             // nothing of it was written
    else
        r = mdb_txn_commit(txn);
    x->written += thread_written() - before;
    r = code_of(r);
    x->broken = r && r != -ENOSPC;
    return r;
}

static int lmdb_read_named(struct index *base, const char *name, void *p, uint32_t n,
                           uint32_t *bytes)
{
    struct lmdb_index *x = of(base);
    uint8_t key[KEY_MAX];
    MDB_val k = {named_key(key, name), key}, v;
    struct index_named h;
    MDB_txn *txn;
    if (!x->env)
        return -EIO;                    // it was only looked at
    int r = code_of(mdb_txn_begin(x->env, NULL, MDB_RDONLY, &txn));
    if (r)
        return r;
    r = mdb_get(txn, x->dbi, &k, &v);
    r = r == MDB_NOTFOUND ? -ENOENT : code_of(r);
    if (r == 0 && index_named_decode(name, v.mv_data, v.mv_size, &h))
        r = -EIO;
    if (r == 0) {
        *bytes = h.value_bytes;
        r = n < h.value_bytes ? -ENOBUFS : 0;
    }
    if (r == 0 && h.value_bytes)
        memcpy(p, (uint8_t *)v.mv_data + sizeof(h) + (size_t)h.n_pins * HASH_BYTES, h.value_bytes);
    mdb_txn_abort(txn);
    return r;
}

static uint64_t lmdb_bytes(struct index *base)
{
    struct stat st;
    return stat(of(base)->path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static uint64_t lmdb_written(struct index *base) { return of(base)->written; }

static void destroy(struct lmdb_index *x)
{
    free(x->folder);
    free(x->path);
    free(x->sum_path);
    free(x->aside_path);
    free(x);
}

static void lmdb_close(struct index *base, bool clean)
{
    struct lmdb_index *x = of(base);
    bool was_open = x->env != NULL;
    if (x->env)
        mdb_env_close(x->env);
    if (was_open && clean && !x->broken)
        leave_sum(x);
    destroy(x);
}

static const struct index_ops lmdb_ops = {
    .load = lmdb_load, .check = lmdb_check, .reset = lmdb_reset, .commit = lmdb_commit,
    .read_named = lmdb_read_named, .bytes = lmdb_bytes, .written = lmdb_written,
    .close = lmdb_close,
};

static char *path_in(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

int index_open(struct index **ret, const char *folder, uint64_t bytes_max, struct err *err)
{
    struct lmdb_index *x = calloc(1, sizeof(*x));
    if (!x)
        return err_set(err, -ENOMEM, "out of memory");
    x->folder = strdup(folder);
    x->path = path_in(folder, FILE_NAME);
    x->sum_path = path_in(folder, SUM_NAME);
    x->aside_path = path_in(folder, ASIDE_NAME);
    if (!x->folder || !x->path || !x->sum_path || !x->aside_path) {
        destroy(x);
        return err_set(err, -ENOMEM, "out of memory");
    }
    x->base.ops = &lmdb_ops;
    x->bytes_max = ALIGN_UP(bytes_max, 65536);
    *ret = &x->base;
    return 0;
}
