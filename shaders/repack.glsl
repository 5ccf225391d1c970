// Rows of a matrix from the file's order into planes, one group of 32 elements an invocation.
//
// The bytes come from pinned host memory, over the bus; so a workgroup first reads all of its own
// in order, 16 bytes at a time, and picks them apart in shared memory.
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint GROUP_BYTES = 18;    // of a block; of 32 elements of floats
layout(constant_id = 2) const uint BLOCK_GROUPS = 1;

layout(push_constant) uniform Push {
    Words4 src;
    QuantPart dst;
    uint n_rows, src_row_bytes;
};

const uint TILE_WORDS = (THREADS / BLOCK_GROUPS * GROUP_BYTES + 15) / 16 + 1;

shared uint raw[TILE_WORDS * 4 + 1];
uint raw_at;                            // byte of `raw` where the block starts

uint raw_word(uint at)
{
    uint i = (raw_at + at) / 4, shift = (raw_at + at) % 4 * 8;
    return shift == 0 ? raw[i] : raw[i] >> shift | raw[i + 1] << 32 - shift;
}

uint raw_half(uint at)
{
    return raw_word(at) & 0xffffu;
}

// Byte of the file where the block of a group starts.
uint block_start(uint row, uint group)
{
    return row * src_row_bytes + group / BLOCK_GROUPS * GROUP_BYTES;
}

void main()
{
    uint me = gl_LocalInvocationIndex, groups = (dst.n_in + 31) / 32;
    uint first = gl_WorkGroupID.x * THREADS, unit = first + me;
    uint start = block_start(first / groups, first % groups) / 16;
    uint end = (n_rows * src_row_bytes + 15) / 16;
    for (uint i = me; i < TILE_WORDS && start + i < end; i += THREADS) {
        uvec4 v = src.v[start + i];
        for (uint k = 0; k < 4; k++)
            raw[i * 4 + k] = v[k];
    }
    barrier();
    uint row = unit / groups, group = unit % groups;
    if (row >= n_rows)
        return;
    raw_at = block_start(row, group) - start * 16;
    quant_pack(dst, row, group);
}
