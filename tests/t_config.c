// Options: flags, the file, and which wins; what is refused and how it is named.
#include <unistd.h>
#include "engine/limits.h"
#include "server/config.h"
#include "server/listen.h"
#include "tests/test.h"

#define ARGV(...) ((char *[]){ "godwitd", __VA_ARGS__, NULL })

static int count(char **argv)
{
    int n = 0;
    while (argv[n])
        n++;
    return n;
}

static int read_config(struct config *c, char **argv, struct err *err)
{
    return config_read(c, count(argv), argv, err);
}

static void refuse(char **argv, const char *word)
{
    struct config c;
    struct err err = {0};
    int r = read_config(&c, argv, &err);
    if (r >= 0 || !strstr(err.msg, word))
        TEST_FAIL("%s: %d \"%s\"", argv[1], r, err.msg);
}

TEST(defaults)
{
    struct config c;
    struct err err = {0};
    REQUIRE_OK(read_config(&c, ARGV("--model", "m.gguf"), &err), err);
    REQUIRE_STR(c.listen, "127.0.0.1:8080");
    REQUIRE_STR(c.admin, "127.0.0.1:8081");
    REQUIRE_STR(c.device, "auto");
    REQUIRE(c.gpu_layers == LAYERS_MAX);
    REQUIRE(c.api_key_file == NULL && !c.exact && !c.allow_public && c.kv == NULL);
    REQUIRE(c.kv_device_bytes == UINT64_MAX);
    REQUIRE(!c.kv_store && c.kv_store_bytes == UINT64_C(16) << 30 && !c.kv_store_bytes_per_day);
    REQUIRE(c.body_max_bytes == 16 << 20 && c.header_timeout_s == 10 && c.log_max == LOG_INFO);
    config_free(&c);
}

TEST(flags)
{
    struct config c;
    struct err err = {0};
    REQUIRE_OK(read_config(&c, ARGV("--model", "a=x.gguf", "--model=b=y.gguf", "--exact",
                                    "--kv-memory-bytes", "3G", "--threads=4", "--log-level",
                                    "debug", "--gpu-layers", "0"), &err), err);
    REQUIRE(c.model.n == 2);
    REQUIRE_STR(c.model.item[1], "b=y.gguf");
    REQUIRE(c.exact && c.kv_memory_bytes == UINT64_C(3) << 30 && c.threads == 4);
    REQUIRE(c.gpu_layers == 0);
    REQUIRE(c.log_max == LOG_DEBUG);
    config_free(&c);
    REQUIRE_OK(read_config(&c, ARGV("--model", "a", "--kv-device-bytes", "0"), &err), err);
    REQUIRE_INT(c.kv_device_bytes, 0);
    config_free(&c);
    REQUIRE_OK(read_config(&c, ARGV("--model", "a", "--kv-store", "/x", "--kv-store-bytes", "1T",
                                    "--kv-store-write-bytes-per-day", "9G"), &err), err);
    REQUIRE_STR(c.kv_store, "/x");
    REQUIRE(c.kv_store_bytes == UINT64_C(1) << 40 && c.kv_store_bytes_per_day == UINT64_C(9) << 30);
    config_free(&c);
    REQUIRE_OK(read_config(&c, ARGV("--model", "a", "--kv-device-bytes", "2g",
                                    "--kv-device-bytes=auto"), &err), err);
    REQUIRE(c.kv_device_bytes == UINT64_MAX);
    config_free(&c);
}

static void write_file(char *path, const char *text)
{
    int fd = mkstemp(path);
    REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

TEST(file)
{
    char path[] = "/tmp/godwit-config-XXXXXX";
    struct config c;
    struct err err = {0};
    write_file(path, "# comment\n\n model = a.gguf\nmodel=b.gguf\nthreads = 3\nexact = yes\n"
                     "listen = 127.0.0.1:1\n");
    REQUIRE_OK(read_config(&c, ARGV("--threads", "5", "--config", path), &err), err);
    REQUIRE(c.model.n == 2 && c.threads == 5 && c.exact);
    REQUIRE_STR(c.listen, "127.0.0.1:1");
    config_free(&c);
    REQUIRE_OK(read_config(&c, ARGV("--config", path, "--model", "only.gguf"), &err), err);
    REQUIRE(c.model.n == 1);
    config_free(&c);
    unlink(path);
}

TEST(file_errors_have_the_line)
{
    char path[] = "/tmp/godwit-config-XXXXXX";
    write_file(path, "model = a\n\nnope = 1\n");
    refuse(ARGV("--config", path), ":3:");
    unlink(path);
    refuse(ARGV("--config", path), "No such file");
}

TEST(refusals)
{
    refuse(ARGV("--threads", "1"), "--model");
    refuse(ARGV("--nope", "1"), "--nope");
    refuse(ARGV("stray"), "stray");
    refuse(ARGV("--model"), "needs a value");
    refuse(ARGV("--model", "m", "--threads", "x"), "threads");
    refuse(ARGV("--model", "m", "--threads", "-1"), "threads");
    refuse(ARGV("--model", "m", "--threads", "4K"), "threads");
    refuse(ARGV("--model", "m", "--threads", "9999999999999999999999"), "threads");
    refuse(ARGV("--model", "m", "--header-timeout-s", "11"), "header-timeout-s");
    refuse(ARGV("--model", "m", "--body-max-bytes", "99999999999T"), "body-max-bytes");
    refuse(ARGV("--model", "m", "--kv-device-bytes", "much"), "kv-device-bytes");
    refuse(ARGV("--model", "m", "--exact=maybe"), "exact");
    refuse(ARGV("--model", "m", "--log-level", "loud"), "log-level");
}

TEST(addresses)
{
    struct listeners l;
    struct err err = {0};
    REQUIRE_OK(listen_on(&l, "127.0.0.1:0", &err), err);
    REQUIRE(l.n == 1 && l.loopback);
    char name[64];
    listen_name(l.fd[0], name, sizeof(name));
    REQUIRE(strncmp(name, "127.0.0.1:", 10) == 0 && strcmp(name, "127.0.0.1:0") != 0);
    listen_close(&l);
    REQUIRE_OK(listen_on(&l, "0.0.0.0:0", &err), err);
    REQUIRE(!l.loopback);
    listen_close(&l);
    REQUIRE(listen_on(&l, "127.0.0.1", &err) < 0);
    REQUIRE(listen_on(&l, "127.0.0.1:", &err) < 0);
    REQUIRE(listen_on(&l, "300.0.0.1:1", &err) < 0);
}

TEST_MAIN
