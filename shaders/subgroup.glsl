// The invocations of a subgroup see each other's writes to shared memory, which is all that its
// callers need: subgroupBarrier() orders every kind of memory.
void subgroup_sync()
{
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}
