// Images to rows of patches, and their gradients back. A warp takes a row of pixels: it is read or written in one piece, and lies in
// the patches in pieces of a patch's width.
#include "kx.h"

// x is [rows = B C H, width], y [B, H / P, W / P, C, P, P]. BACK: from y to x.
template <bool BACK, int L, class T>
static __device__ __forceinline__ void row_of_pixels(const T* from, T* to, int rows, int channels, int height, int width, int patch,
                                                     int add) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    const int h = row % height, c = row / height % channels, image = row / height / channels;
    const int across = width / patch, elements = channels * patch * patch;
    const size_t in_x = (size_t)row * width;
    const size_t in_y = ((size_t)image * (height / patch) + h / patch) * across * elements + (c * patch + h % patch) * patch;
    for (int w = (threadIdx.x & 31) * L; w < width; w += 32 * L) {
        const size_t x = in_x + w, y = in_y + (size_t)(w / patch) * elements + w % patch;
        float values[L];
        kx::load<L>(from + (BACK ? y : x), values);
        kx::deliver_all<L>(to + (BACK ? x : y), values, add);
    }
}

template <bool BACK, class T>
static __device__ __forceinline__ void patchify(const T* from, T* to, int rows, int channels, int height, int width, int patch, int add) {
    if (patch % 8 == 0)
        row_of_pixels<BACK, 8>(from, to, rows, channels, height, width, patch, add);
    else
        row_of_pixels<BACK, 1>(from, to, rows, channels, height, width, patch, add);
}

#define INSTANCES(T, kind)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                     \
        patchify_forward_##kind(const T* x, T* y, int rows, int channels, int height, int width, int patch) {             \
        patchify<false>(x, y, rows, channels, height, width, patch, 0);                                                   \
    }                                                                                                                     \
    KX_EXPORT(patchify_forward_##kind)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                     \
        patchify_backward_##kind(const T* dy, T* dx, int rows, int channels, int height, int width, int patch, int add) { \
        patchify<true>(dy, dx, rows, channels, height, width, patch, add);                                                \
    }                                                                                                                     \
    KX_EXPORT(patchify_backward_##kind)
INSTANCES(float, f32)
INSTANCES(kx::bf16, bf16)
