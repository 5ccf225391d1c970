// Pipelines: a shader and its specialisation. All share one layout, push constants and nothing
// else, so that switching between them costs no more than the switch.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/base.h"
#include "engine/exec/vulkan/vk_int.h"

static const struct { const char *name, *title; } needs_table[VK_NEED_COUNT] = {
    [VK_NEED_plain] = { "plain", "nothing more" },
    [VK_NEED_int_dot] = { "int_dot", "integer dot products" },
    [VK_NEED_matrix] = { "matrix", "cooperative matrices" },
    [VK_NEED_matrix2] = { "matrix2", "cooperative matrices 2" },
    [VK_NEED_bf16] = { "bf16", "bfloat16 matrices" },
};

const char *vk_need_name(enum vk_need need)
{
    return needs_table[need].name;
}

const char *vk_need_title(enum vk_need need)
{
    return needs_table[need].title;
}

bool vk_need_met(const struct vk_info *info, enum vk_need need)
{
    const bool met[VK_NEED_COUNT] = {
        [VK_NEED_plain] = true, [VK_NEED_int_dot] = info->int_dot, [VK_NEED_matrix] = info->matrix,
        [VK_NEED_matrix2] = info->matrix2, [VK_NEED_bf16] = info->bf16,
    };
    return met[need];
}

enum vk_support vk_need_support(enum vk_need need)
{
    enum vk_support support = VK_UNUSED;
#define KERNEL(kernel, source, formats, needs) \
    if (VK_NEED_##needs == need && support != VK_UNBUILT) \
        support = vk_kernel_built(KERNEL_##kernel) || vk_kernel_built(KERNEL_##kernel##_last) \
                      ? VK_BUILT : VK_UNBUILT;
#include "shaders/kernels.def"
#undef KERNEL
    return support;
}

static enum vk_need need_of(enum kernel_id id)
{
#define KERNEL(name, source, formats, needs) \
    if (id >= KERNEL_##name && id <= KERNEL_##name##_last) \
        return VK_NEED_##needs;
#include "shaders/kernels.def"
#include "shaders/test_kernels.def"
#undef KERNEL
    return VK_NEED_plain;
}

bool vk_kernel_built(enum kernel_id id)
{
    return spirv_of(id)->name != NULL;
}

bool vk_kernel_runs(const struct vk *vk, enum kernel_id id)
{
    return vk_kernel_built(id) && vk_need_met(&vk->caps.info, need_of(id));
}

static int check(const struct vk *vk, enum kernel_id id, const uint32_t *spec, uint32_t n_spec,
                 struct err *err)
{
    if (!vk_kernel_built(id))
        return err_set(err, -ENOTSUP, "kernel %d: this build's shader compiler could not make it",
                       id);
    const char *name = spirv_of(id)->name;
    if (!vk_need_met(&vk->caps.info, need_of(id)))
        return err_set(err, -ENOTSUP, "kernel %s: %s has no %s", name, vk->caps.info.name,
                       vk_need_title(need_of(id)));
    if (n_spec > 0 && spec[0] > vk->caps.limits.maxComputeWorkGroupSize[0])
        return err_set(err, -ENOTSUP, "kernel %s: %s runs no workgroups of %u", name,
                       vk->caps.info.name, spec[0]);
    return 0;
}

static VkResult create_module(struct vk *vk, enum kernel_id id, VkShaderModule *ret)
{
    const struct spirv *code = spirv_of(id);
    const VkShaderModuleCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = code->bytes, .pCode = code->word,
    };
    return vk->f.CreateShaderModule(vk->device, &info, NULL, ret);
}

static VkPipelineShaderStageCreateFlags stage_flags(const struct vk *vk, const struct vk_kernel *k)
{
    bool fits = k->n_spec > 0 && k->spec[0] % vk->caps.info.subgroup == 0;
    return vk->caps.full_subgroups && fits ?
        VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT : 0;
}

static VkResult create_pipeline(struct vk *vk, enum kernel_id id, struct vk_kernel *k)
{
    VkShaderModule module;
    VkSpecializationMapEntry entry[VK_SPEC_MAX];
    for (uint32_t i = 0; i < k->n_spec; i++)
        entry[i] = (VkSpecializationMapEntry){ i, i * sizeof(uint32_t), sizeof(uint32_t) };
    const VkSpecializationInfo spec = {
        k->n_spec, entry, k->n_spec * sizeof(uint32_t), k->spec };
    VkResult r = create_module(vk, id, &module);
    if (r)
        return r;
    const VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {
            .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
            .flags = stage_flags(vk, k),
            .stage = VK_SHADER_STAGE_COMPUTE_BIT,
            .module = module,
            .pName = "main",
            .pSpecializationInfo = &spec,
        },
        .layout = vk->layout,
    };
    r = vk->f.CreateComputePipelines(vk->device, vk->cache, 1, &info, NULL, &k->pipeline);
    vk->f.DestroyShaderModule(vk->device, module, NULL);
    return r;
}

static struct vk_kernel *find(const struct vk *vk, enum kernel_id id, const uint32_t *spec,
                              uint32_t n_spec)
{
    struct vk_kernel *k = vk->kernel[id];
    while (k && (k->n_spec != n_spec ||
                 (n_spec && memcmp(k->spec, spec, n_spec * sizeof(*spec)) != 0)))
        k = k->next;
    return k;
}

int vk_kernel(struct vk *vk, enum kernel_id id, const uint32_t *spec, uint32_t n_spec,
              const struct vk_kernel **ret, struct err *err)
{
    assert(id < KERNEL_COUNT && n_spec <= VK_SPEC_MAX);
    struct vk_kernel *k = find(vk, id, spec, n_spec);
    int r = 0;
    if (!k) {
        if (vk->lost)
            return vk_is_lost(err);
        r = check(vk, id, spec, n_spec, err);
        if (r)
            return r;
        k = calloc(1, sizeof(*k));
        if (!k)
            return err_set(err, -ENOMEM, "kernel: out of memory");
        k->name = spirv_of(id)->name;
        k->n_spec = n_spec;
        for (uint32_t i = 0; i < n_spec; i++)
            k->spec[i] = spec[i];
        VkResult result = create_pipeline(vk, id, k);
        if (result) {
            r = vk_failed(vk, result, k->name, err);
            free(k);
            return r;
        }
        k->next = vk->kernel[id];
        vk->kernel[id] = k;
    }
    *ret = k;
    return 0;
}

int vk_kernels_init(struct vk *vk, struct err *err)
{
    const VkPushConstantRange push = { VK_SHADER_STAGE_COMPUTE_BIT, 0, VK_PUSH_BYTES };
    const VkPipelineLayoutCreateInfo layout = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .pushConstantRangeCount = 1, .pPushConstantRanges = &push,
    };
    const VkPipelineCacheCreateInfo cache = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO };
    VkResult r = vk->f.CreatePipelineLayout(vk->device, &layout, NULL, &vk->layout);
    if (r == VK_SUCCESS)
        r = vk->f.CreatePipelineCache(vk->device, &cache, NULL, &vk->cache);
    return r ? vk_failed(vk, r, "pipeline layout", err) : 0;
}

void vk_kernels_finish(struct vk *vk)
{
    for (uint32_t id = 0; id < KERNEL_COUNT; id++)
        while (vk->kernel[id]) {
            struct vk_kernel *k = vk->kernel[id];
            vk->kernel[id] = k->next;
            vk->f.DestroyPipeline(vk->device, k->pipeline, NULL);
            free(k);
        }
    vk->f.DestroyPipelineCache(vk->device, vk->cache, NULL);
    vk->f.DestroyPipelineLayout(vk->device, vk->layout, NULL);
}
