// Sums of a few scalars, up to four terms at a time. The sum is f32; bit i of `narrow` says that term i is bf16.
#include "kx.h"

static __device__ __forceinline__ float term(const void* x, unsigned narrow) {
    return narrow & 1 ? kx::widen(*static_cast<const kx::bf16*>(x)) : *static_cast<const float*>(x);
}

// y = the sum of weight times x over n terms, or y += it.
extern "C" __global__ void __launch_bounds__(32)
    weighted_sum_forward(float* y, int n, int add, unsigned narrow, const void* x0, const void* x1, const void* x2, const void* x3, float w0,
                         float w1, float w2, float w3) {
    if (threadIdx.x) return;
    float sum = add ? *y : 0.f;
    sum += w0 * term(x0, narrow);
    if (n > 1) sum += w1 * term(x1, narrow >> 1);
    if (n > 2) sum += w2 * term(x2, narrow >> 2);
    if (n > 3) sum += w3 * term(x3, narrow >> 3);
    *y = sum;
}
KX_EXPORT(weighted_sum_forward)

// dx = weight times dy, set or added.
extern "C" __global__ void __launch_bounds__(32) weighted_sum_backward_f32(const float* dy, float* dx, float weight, int add) {
    if (threadIdx.x == 0) kx::deliver(dx, weight * *dy, add);
}
KX_EXPORT(weighted_sum_backward_f32)
extern "C" __global__ void __launch_bounds__(32) weighted_sum_backward_bf16(const float* dy, kx::bf16* dx, float weight, int add) {
    if (threadIdx.x == 0) kx::deliver(dx, weight * *dy, add);
}
KX_EXPORT(weighted_sum_backward_bf16)
