// libvulkan at run time: the library, an instance, and the tables of functions.
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

#define LIBRARY "libvulkan.so.1"

// A function's address as a pointer of its own type. Data and function pointers are the same on
// every system that has dlsym.
#define SET(field, address) \
    do { \
        PFN_vkVoidFunction f_ = (address); \
        memcpy(&(field), &f_, sizeof(field)); \
    } while (0)

struct globals { VK_GLOBAL_FUNCTIONS(VK_POINTER) };

static int load_globals(struct vk_instance *i, struct globals *ret, struct err *err)
{
    void *get;
    i->lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!i->lib)
        return err_set(err, -ENODEV, "no Vulkan: %.300s", dlerror());
    get = dlsym(i->lib, "vkGetInstanceProcAddr");
    if (!get)
        return err_set(err, -ENODEV, "no Vulkan: " LIBRARY " has no vkGetInstanceProcAddr");
    memcpy(&i->GetInstanceProcAddr, &get, sizeof(get));
#define LOAD(name) SET(ret->name, i->GetInstanceProcAddr(NULL, "vk" #name));
    VK_GLOBAL_FUNCTIONS(LOAD)
#undef LOAD
    if (!ret->CreateInstance)
        return err_set(err, -ENODEV, "no Vulkan: " LIBRARY " has no vkCreateInstance");
    return 0;
}

static int create_instance(struct vk_instance *i, const struct globals *g, struct err *err)
{
    uint32_t version = VK_API_VERSION_1_0;
    if (g->EnumerateInstanceVersion)
        g->EnumerateInstanceVersion(&version);
    if (version < VK_API_VERSION_1_2)
        return err_set(err, -ENODEV, "no Vulkan: " LIBRARY " knows no Vulkan 1.2");
    i->version = MIN(version, VK_API_VERSION_1_3);
    const VkApplicationInfo app = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "godwit",
        .apiVersion = i->version,
    };
    const VkInstanceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pApplicationInfo = &app,
    };
    VkResult r = g->CreateInstance(&info, NULL, &i->handle);
    if (r == VK_ERROR_OUT_OF_HOST_MEMORY)
        return err_set(err, -ENOMEM, "Vulkan instance: out of memory");
    if (r != VK_SUCCESS)
        return err_set(err, -ENODEV, "no Vulkan: no driver (error %d)", r);
    return 0;
}

static int load_functions(struct vk_instance *i, struct err *err)
{
#define LOAD(name) SET(i->name, i->GetInstanceProcAddr(i->handle, "vk" #name));
    VK_INSTANCE_FUNCTIONS(LOAD)
    VK_INSTANCE_EXTENSION_FUNCTIONS(LOAD)
#undef LOAD
#define CHECK(name) \
    if (!i->name) \
        return err_set(err, -ENODEV, "no Vulkan: " LIBRARY " has no vk" #name);
    VK_INSTANCE_FUNCTIONS(CHECK)
#undef CHECK
    return 0;
}

static void close_instance(struct vk_instance *i)
{
    if (i->handle && i->DestroyInstance)
        i->DestroyInstance(i->handle, NULL);
    if (i->lib)
        dlclose(i->lib);
}

static int open_instance(struct vk_instance **ret, struct err *err)
{
    struct globals g = {0};
    struct vk_instance *i = calloc(1, sizeof(*i));
    if (!i)
        return err_set(err, -ENOMEM, "Vulkan instance: out of memory");
    int r = load_globals(i, &g, err);
    if (r == 0)
        r = create_instance(i, &g, err);
    if (r == 0)
        r = load_functions(i, err);
    if (r == 0) {
        *ret = i;
    } else {
        close_instance(i);
        free(i);
    }
    return r;
}

int vk_instance(const struct vk_instance **ret, struct err *err)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct vk_instance *instance;
    int r = 0;
    pthread_mutex_lock(&lock);
    if (!instance)
        r = open_instance(&instance, err);
    if (r == 0)
        *ret = instance;
    pthread_mutex_unlock(&lock);
    return r;
}

int vk_functions_load(const struct vk_instance *i, VkDevice device, struct vk_functions *ret,
                      struct err *err)
{
#define LOAD(name) \
    SET(ret->name, i->GetDeviceProcAddr(device, "vk" #name)); \
    if (!ret->name) \
        return err_set(err, -ENODEV, "the Vulkan driver has no vk" #name);
    VK_DEVICE_FUNCTIONS(LOAD)
#undef LOAD
    return 0;
}
