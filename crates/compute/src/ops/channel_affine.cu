// y = scale x + shift, with a pair for every channel. A block takes a piece of one image's channel.
#include "kx.h"

// x and y are [rows, pixels], row r of channel r % channels; `pairs` [channels, 2]. Without SHIFT: the gradient.
template <bool SHIFT, int L, class T>
static __device__ __forceinline__ void piece(const T* x, const float* pairs, T* y, int channels, int pixels, int pieces, int add) {
    const int row = blockIdx.x / pieces;
    const float scale = pairs[row % channels * 2], shift = SHIFT ? pairs[row % channels * 2 + 1] : 0.f;
    const size_t first = (size_t)row * pixels;
    for (int i = (blockIdx.x % pieces * blockDim.x + threadIdx.x) * L; i < pixels; i += pieces * blockDim.x * L) {
        float values[L];
        kx::load<L>(x + first + i, values);
#pragma unroll
        for (int j = 0; j < L; j++) values[j] = SHIFT ? values[j] * scale + shift : values[j] * scale;
        kx::deliver_all<L>(y + first + i, values, add);
    }
}

template <bool SHIFT, class T>
static __device__ __forceinline__ void affine(const T* x, const float* pairs, T* y, int channels, int pixels, int pieces, int add) {
    if (pixels % 8 == 0)
        piece<SHIFT, 8>(x, pairs, y, channels, pixels, pieces, add);
    else
        piece<SHIFT, 1>(x, pairs, y, channels, pixels, pieces, add);
}

#define INSTANCES(T, kind)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                           \
        channel_affine_forward_##kind(const T* x, const float* pairs, T* y, int channels, int pixels, int pieces) {             \
        affine<true>(x, pairs, y, channels, pixels, pieces, 0);                                                                 \
    }                                                                                                                           \
    KX_EXPORT(channel_affine_forward_##kind)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                           \
        channel_affine_backward_##kind(const T* dy, const float* pairs, T* dx, int channels, int pixels, int pieces, int add) { \
        affine<false>(dy, pairs, dx, channels, pixels, pieces, add);                                                            \
    }                                                                                                                           \
    KX_EXPORT(channel_affine_backward_##kind)
INSTANCES(float, f32)
INSTANCES(kx::bf16, bf16)
