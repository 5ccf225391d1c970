// The last of some workgroups goes on with what all of them wrote: no workgroup waits for another.
// They write it, and the last reads it, through references that are coherent.
shared bool last_here;

// True in the last of `n` workgroups to come here, for all its invocations. `count` is 0 before and
// after.
bool is_last(SharedWords count, uint n)
{
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        last_here = atomicAdd(count.v[0], 1) == n - 1;
        if (last_here)
            count.v[0] = 0;
    }
    memoryBarrierBuffer();
    barrier();
    return last_here;
}
