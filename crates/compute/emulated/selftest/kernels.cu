// Kernels that try the emulation: good ones, and ones that are wrong on purpose.
#include "kx.h"
using namespace kx;

extern "C" __global__ void __launch_bounds__(256) row_sum(const float* x, float* y, int columns) {
    KX_SHARED(float, part);
    float s = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) s += x[(size_t)blockIdx.x * columns + i];
    s = block_sum(s, part);
    if (threadIdx.x == 0) y[blockIdx.x] = s;
}
KX_EXPORT(row_sum)

// The barrier between writing and reading `part` is missing.
extern "C" __global__ void row_sum_without_barrier(const float* x, float* y, int columns) {
    KX_SHARED(float, part);
    float s = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) s += x[(size_t)blockIdx.x * columns + i];
    s = warp_sum(s);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    s = threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : 0.f;
    s = warp_sum(s);
    if (threadIdx.x == 0) y[blockIdx.x] = s;
}
KX_EXPORT(row_sum_without_barrier)

extern "C" __global__ void axpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
KX_EXPORT(axpy)

// c = a b of one warp, with a 16 x 16, b 16 x 8. a and b come as they are (row by row), or transposed.
extern "C" __global__ void tile_product(const bf16* a, const bf16* b, float* c, int a_transposed, int b_transposed) {
    KX_SHARED(bf16, shared);
    bf16 *sa = shared, *sb = shared + 256;
    int lane = threadIdx.x;
    copy_async16(sa + 8 * lane, a + 8 * lane);
    if (lane < 16) copy_async16(sb + 8 * lane, b + 8 * lane);
    copy_async_commit();
    copy_async_wait<0>();
    __syncwarp();
    unsigned fa[4], fb[2];
    int row = lane & 7, matrix = lane >> 3;
    if (a_transposed)
        load_matrix4_transposed(fa, sa + (row + 8 * (matrix >> 1)) * 16 + 8 * (matrix & 1));
    else
        load_matrix4(fa, sa + (row + 8 * (matrix & 1)) * 16 + 8 * (matrix >> 1));
    if (b_transposed)
        load_matrix2(fb, sb + row * 16 + 8 * (matrix & 1));
    else
        load_matrix2_transposed(fb, sb + (row + 8 * (matrix & 1)) * 8);
    float d[4] = {1.f, 1.f, 1.f, 1.f};
    mma_bf16(d, fa, fb);
    int g = lane / 4, q = 2 * (lane % 4);
    c[g * 8 + q] = d[0], c[g * 8 + q + 1] = d[1], c[(g + 8) * 8 + q] = d[2], c[(g + 8) * 8 + q + 1] = d[3];
}
KX_EXPORT(tile_product)

extern "C" __global__ void mma_often(float* y, int times) {
    float d[4] = {0, 0, 0, 0};
    unsigned a[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80}, b[2] = {0x3f803f80, 0x3f803f80};
    for (int i = 0; i < times; i++) mma_bf16(d, a, b);
    y[blockIdx.x * blockDim.x + threadIdx.x] = d[0] + d[3];
}
KX_EXPORT(mma_often)

// Reads what was not waited for: the values of before, NaN.
extern "C" __global__ void read_too_early(const float* x, float* y) {
    KX_SHARED(float, shared);
    copy_async16(shared + 4 * threadIdx.x, x + 4 * threadIdx.x);
    copy_async_commit();
    copy_async16(shared + 128 + 4 * threadIdx.x, x + 4 * threadIdx.x);
    copy_async_commit();
    copy_async_wait<1>();
    y[threadIdx.x] = shared[4 * threadIdx.x];
    y[32 + threadIdx.x] = shared[128 + 4 * threadIdx.x];
    copy_async_wait<0>();
}
KX_EXPORT(read_too_early)

// Lane i of a half takes part in shuffles of its half alone.
extern "C" __global__ void half_warps(int* y) {
    int lane = threadIdx.x, v = lane;
    unsigned mask = lane < 16 ? 0xffffu : 0xffff0000u;
    if (lane < 16) v += __shfl_xor_sync(mask, v, 1);
    v += __shfl_down_sync(ALL, v, 16);
    y[lane] = v + (int)__ballot_sync(ALL, lane & 1) * 0 + __shfl_sync(ALL, lane, 3, 8);
}
KX_EXPORT(half_warps)

// Every way to go wrong, by number.
extern "C" __global__ void wrong(int what, float* x, int n) {
    KX_SHARED(float, shared);
    int t = threadIdx.x;
    if (what == 0) copy_async16(shared + 4 * t, x + 4 * t);
    if (what == 1) {
        if (t < 32)
            __syncthreads();
        else
            __syncthreads();
    }
    if (what == 2) {
        if (t % 2)
            __syncthreads();
        else
            __syncwarp();
    }
    if (what == 3) x[n + t] = 1.f;
    if (what == 4) shared[n + t] = 1.f;
    if (what == 5) copy_async16(shared + 1 + 4 * t, x);
    if (what == 6) copy_async16(shared, x + 1);
    if (what == 7) copy_async16(shared + n, x);
    if (what == 8) {
        unsigned r[4];
        load_matrix4(r, reinterpret_cast<char*>(shared) + 8 * t);
        x[t] = (float)r[0];
    }
    if (what == 9 && t != 5) x[t] = warp_sum(1.f);
    if (what == 10) x[t] = __shfl_sync(t < 16 ? ALL : 0xffffu, x[t], 0);
    if (what == 11) x[t] += __shfl_sync(0xffffu, x[t], 0);
}
KX_EXPORT(wrong)

extern "C" __global__ void large_frame(float* x) {
    volatile float much[20000];
    for (int i = 0; i < 20000; i++) much[i] = x[0];
    x[threadIdx.x] = much[threadIdx.x];
}
KX_EXPORT(large_frame)
