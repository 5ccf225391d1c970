// Finding the best k of the keys that key_at() gives: the k-th greatest by its bytes from the top,
// of which few tell them apart mostly.
#include "top.glsl"

shared uint group_sum[SUBGROUPS_MAX];
shared uint count[THREADS], found_byte, found_rest;
shared bool found_all;
shared uint n_kept;

uint64_t key_at(uint i);
void keep(uint place, uint64_t key);    // what keep_best() is to do with one

// The value of the byte at `shift` for which fewer than k keys that match `known` are greater.
// found_rest is what is left of k in that byte, found_all that this is everything that has it.
void find_byte(uint n, uint64_t known, uint64_t value, uint shift, uint k)
{
    barrier();
    count[me] = 0;
    barrier();
    for (uint i = me; i < n; i += AT_ONCE * THREADS) {
        uint64_t key[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            key[j] = key_at(min(i + j * THREADS, n - 1));
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            if (i + j * THREADS < n && (key[j] & known) == value)
                atomicAdd(count[uint(key[j] >> shift) & 255], 1);
    }
    barrier();
    uint byte = 255 - me, mine = count[byte], sum = subgroupInclusiveAdd(mine);
    if (gl_SubgroupInvocationID == gl_SubgroupSize - 1)
        group_sum[gl_SubgroupID] = sum;
    barrier();
    for (uint i = 0; i < gl_SubgroupID; i++)
        sum += group_sum[i];
    if (sum >= k && sum - mine < k) {
        found_byte = byte;
        found_rest = k - (sum - mine);
        found_all = sum == k;
    }
    barrier();
}

// Of n keys the k best, all where there are not more, are those from this one up.
uint64_t least_of_best(uint n, uint k)
{
    uint64_t known = 0, value = 0;
    bool all = n <= k;
    for (uint shift = 64; shift > 0 && !all;) {
        shift -= 8;
        find_byte(n, known, value, shift, k);
        value |= uint64_t(found_byte) << shift;
        known |= uint64_t(255) << shift;
        k = found_rest;
        all = found_all;
    }
    return value;
}

// Keeps the k best of n keys in any order, or all. Returns how many.
uint keep_best(uint n, uint k)
{
    uint64_t least = least_of_best(n, k);
    if (me == 0)
        n_kept = 0;
    barrier();
    for (uint i = me; i < n; i += AT_ONCE * THREADS) {
        uint64_t key[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            key[j] = key_at(min(i + j * THREADS, n - 1));
        [[unroll]] for (uint j = 0; j < AT_ONCE; j++)
            if (i + j * THREADS < n && key[j] >= least)
                keep(atomicAdd(n_kept, 1), key[j]);
    }
    barrier();
    return n_kept;
}
