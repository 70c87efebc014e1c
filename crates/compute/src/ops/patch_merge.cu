// Every 2 x 2 tokens of a map side by side, and their gradients back. A warp takes a token.
#include "kx.h"

// y is [B, H / 2, W / 2, 4] and x [B, H, W] tokens of `cols`; `rows` of them in all. BACK: from y to x.
template <bool BACK, int L, class T>
static __device__ __forceinline__ void token(const T* from, T* to, int rows, int width, int cols, int add) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    const int part = row & 3, left = (row >> 2) % (width / 2), above = (row >> 2) / (width / 2);  // images one below the other
    const size_t y = (size_t)row * cols, x = ((size_t)(2 * above + (part & 1)) * width + 2 * left + (part >> 1)) * cols;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float values[L];
        kx::load<L>(from + (BACK ? y : x) + c, values);
        kx::deliver_all<L>(to + (BACK ? x : y) + c, values, add);
    }
}

template <bool BACK, class T>
static __device__ __forceinline__ void merge(const T* from, T* to, int rows, int width, int cols, int add) {
    if (cols % 8 == 0)
        token<BACK, 8>(from, to, rows, width, cols, add);
    else
        token<BACK, 1>(from, to, rows, width, cols, add);
}

#define INSTANCES(T, kind)                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                             \
        patch_merge_forward_##kind(const T* x, T* y, int rows, int width, int cols) {             \
        merge<false>(x, y, rows, width, cols, 0);                                                 \
    }                                                                                             \
    KX_EXPORT(patch_merge_forward_##kind)                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                             \
        patch_merge_backward_##kind(const T* dy, T* dx, int rows, int width, int cols, int add) { \
        merge<true>(dy, dx, rows, width, cols, add);                                              \
    }                                                                                             \
    KX_EXPORT(patch_merge_backward_##kind)
INSTANCES(float, f32)
INSTANCES(kx::bf16, bf16)
