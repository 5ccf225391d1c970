// The pipeline cache in a file. Drivers check what they are given in different depths, so the file
// has a head of ours with the hash of the driver's bytes: nothing damaged reaches a driver.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

#define MAGIC "gdwtvkp1"
#define FILE_BYTES_MAX ((size_t)256 << 20)

struct head {
    char        magic[8];
    uint64_t    bytes;                  // behind this head
    struct hash hash;                   // of them
};
_Static_assert(sizeof(struct head) == 16 + HASH_BYTES, "no holes in the file");

void vk_cache_name(const struct vk *vk, char *buf, size_t size)
{
    char uuid[VK_UUID_SIZE * 2 + 1];
    for (size_t i = 0; i < VK_UUID_SIZE; i++)
        snprintf(uuid + 2 * i, 3, "%02x", vk->caps.cache_uuid[i]);
    snprintf(buf, size, "pipelines-%04x-%04x-%s", vk->caps.vendor_id, vk->caps.device_id, uuid);
}

// The whole file, or NULL: there is none that could be a cache.
static char *read_file(const char *path, size_t *bytes)
{
    struct stat st;
    char *p = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    bool fits = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
                st.st_size > (off_t)sizeof(struct head) && st.st_size <= (off_t)FILE_BYTES_MAX;
    if (fits && (p = malloc((size_t)st.st_size))) {
        *bytes = (size_t)st.st_size;
        if (read(fd, p, *bytes) != (ssize_t)*bytes) {
            free(p);
            p = NULL;
        }
    }
    close(fd);
    return p;
}

static bool is_ours(const struct vk *vk, const char *file, size_t bytes)
{
    struct head head;
    struct hash hash;
    VkPipelineCacheHeaderVersionOne driver;
    memcpy(&head, file, sizeof(head));
    if (memcmp(head.magic, MAGIC, sizeof(head.magic)) != 0 || head.bytes != bytes - sizeof(head) ||
        head.bytes < sizeof(driver))
        return false;
    hash_bytes(file + sizeof(head), head.bytes, &hash);
    memcpy(&driver, file + sizeof(head), sizeof(driver));
    return hash_equal(&hash, &head.hash) && driver.vendorID == vk->caps.vendor_id &&
           driver.deviceID == vk->caps.device_id &&
           memcmp(driver.pipelineCacheUUID, vk->caps.cache_uuid, VK_UUID_SIZE) == 0;
}

int vk_cache_load(struct vk *vk, const char *path, struct err *err)
{
    VkPipelineCache cache;
    VkResult r = VK_SUCCESS;
    size_t bytes;
    char *file = read_file(path, &bytes);
    if (file && is_ours(vk, file, bytes)) {
        const VkPipelineCacheCreateInfo info = {
            .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
            .initialDataSize = bytes - sizeof(struct head),
            .pInitialData = file + sizeof(struct head),
        };
        r = vk->f.CreatePipelineCache(vk->device, &info, NULL, &cache);
        if (r == VK_SUCCESS) {
            vk->f.DestroyPipelineCache(vk->device, vk->cache, NULL);
            vk->cache = cache;
            hash_bytes(info.pInitialData, info.initialDataSize, &vk->cached);
        }
    }
    free(file);
    return r ? vk_failed(vk, r, "pipeline cache", err) : 0;
}

// The driver's bytes with room for a head before them.
static int get_data(struct vk *vk, char **ret, size_t *bytes, struct err *err)
{
    size_t n = 0;
    VkResult r = vk->f.GetPipelineCacheData(vk->device, vk->cache, &n, NULL);
    char *p = r == VK_SUCCESS ? malloc(sizeof(struct head) + n + 1) : NULL;
    if (p)
        r = vk->f.GetPipelineCacheData(vk->device, vk->cache, &n, p + sizeof(struct head));
    if (r == VK_SUCCESS && p) {
        *ret = p;
        *bytes = n;
        return 0;
    }
    free(p);
    return r ? vk_failed(vk, r, "pipeline cache", err)
             : err_set(err, -ENOMEM, "pipeline cache: out of memory");
}

static int write_all(int fd, const char *p, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, p, bytes);
        if (n < 0 && errno != EINTR)
            return -errno;
        p += MAX(n, 0);
        bytes -= (size_t)MAX(n, 0);
    }
    return 0;
}

// Under another name first: a reader finds the old file or the new one.
static int replace_file(const char *path, const char *p, size_t bytes, struct err *err)
{
    char temp[4096];
    if (snprintf(temp, sizeof(temp), "%s.%ld", path, (long)getpid()) >= (int)sizeof(temp))
        return err_set(err, -ENAMETOOLONG, "%.200s: too long a path", path);
    unlink(temp);
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, -errno, "%.300s: %s", temp, strerror(errno));
    int r = write_all(fd, p, bytes);
    if (close(fd) != 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(temp, path) != 0)
        r = -errno;
    if (r == 0)
        return 0;
    unlink(temp);
    return err_set(err, r, "%.300s: %s", path, strerror(-r));
}

int vk_cache_save(struct vk *vk, const char *path, struct err *err)
{
    struct head head = { .magic = MAGIC };
    char *file = NULL;
    size_t bytes = 0;
    if (vk->lost)
        return vk_is_lost(err);
    int r = get_data(vk, &file, &bytes, err);
    if (r)
        return r;
    head.bytes = bytes;
    hash_bytes(file + sizeof(head), bytes, &head.hash);
    memcpy(file, &head, sizeof(head));
    if (!hash_equal(&head.hash, &vk->cached))
        r = replace_file(path, file, sizeof(head) + bytes, err);
    if (r == 0)
        vk->cached = head.hash;
    free(file);
    return r;
}
