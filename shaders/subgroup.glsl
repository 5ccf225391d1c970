// The invocations of a subgroup see each other's writes to shared memory. subgroupBarrier() orders
// all memory, and so waits for loads that are on their way to be used much later.
void subgroup_sync()
{
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}
