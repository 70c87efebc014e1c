// What several operations need: a gradient that is a copy of another, and a loss from its parts.
#include "kx.h"

// to [n] = from, or += from.
template <class From, class To>
static __device__ __forceinline__ void deliver_copy(const From* from, To* to, kx_u64 n, int add) {
    const kx_u64 i = ((kx_u64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= n) {
        float x[8];
        kx::load<8>(from + i, x);
        kx::deliver_all<8>(to + i, x, add);
    } else {
        for (kx_u64 j = i; j < n; j++) kx::deliver(to + j, kx::widen(from[j]), add);
    }
}
#define ROWS_DELIVER(name, From, To)                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                      \
        rows_deliver_##name(const From* from, To* to, kx_u64 n, int add) { deliver_copy(from, to, n, add); }              \
    KX_EXPORT(rows_deliver_##name)
ROWS_DELIVER(f32, float, float)
ROWS_DELIVER(bf16, kx::bf16, kx::bf16)
ROWS_DELIVER(bf16_f32, kx::bf16, float)
ROWS_DELIVER(f32_bf16, float, kx::bf16)

// out = scale times the sum of part [n]: one block of 256, in double precision.
extern "C" __global__ void __launch_bounds__(256) rows_total(const float* part, float* out, int n, double scale) {
    KX_SHARED(double, sums);
    double sum = 0.;
    for (int i = threadIdx.x; i < n; i += 256) sum += (double)part[i];
    sums[threadIdx.x] = sum;
    for (int half = 128; half; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *out = (float)(sums[0] * scale);
}
KX_EXPORT(rows_total)
