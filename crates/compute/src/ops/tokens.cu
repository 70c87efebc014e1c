// Tokens and positions around the patches, and the sums of their gradients over the batch. Tokens and positions are f32.
#include "kx.h"

// y [rows = B N, cols] of N = lead + registers + patches tokens an image: `lead` (0 or 1) CLS token, registers, patches x; positions
// (null: none) of all but the registers. A warp takes a token.
template <int L, class T>
static __device__ __forceinline__ void token(const T* x, const float* cls, const float* reg, const float* pos, T* y, int rows, int lead,
                                             int registers, int patches, int cols) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5), n = lead + registers + patches;
    if (row >= rows) return;
    const int t = row % n, patch = t - lead - registers;
    const float* own = t < lead ? cls : patch < 0 ? reg + (size_t)(t - lead) * cols : nullptr;
    x += ((size_t)(row / n) * patches + patch) * cols;
    const float* at = !pos || (t >= lead && patch < 0) ? nullptr : pos + (size_t)(t < lead ? t : t - registers) * cols;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float values[L], position[L];
        if (own)
            kx::load<L>(own + c, values);
        else
            kx::load<L>(x + c, values);
        if (at) {
            kx::load<L>(at + c, position);
#pragma unroll
            for (int j = 0; j < L; j++) values[j] += position[j];
        }
        kx::store<L>(y + (size_t)row * cols + c, values);
    }
}
template <class T>
static __device__ __forceinline__ void tokens(const T* x, const float* cls, const float* reg, const float* pos, T* y, int rows, int lead,
                                              int registers, int patches, int cols) {
    if (cols % 8 == 0)
        token<8>(x, cls, reg, pos, y, rows, lead, registers, patches, cols);
    else
        token<1>(x, cls, reg, pos, y, rows, lead, registers, patches, cols);
}

// dx [rows = B patches, cols] from dy, which has `before` tokens more in front of every image's.
template <int L, class T>
static __device__ __forceinline__ void patch(const T* dy, T* dx, int rows, int before, int patches, int cols, int add) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    dy += ((size_t)(row / patches) * (before + patches) + before + row % patches) * cols;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float values[L];
        kx::load<L>(dy + c, values);
        kx::deliver_all<L>(dx + (size_t)row * cols + c, values, add);
    }
}
template <class T>
static __device__ __forceinline__ void patches_back(const T* dy, T* dx, int rows, int before, int patches, int cols, int add) {
    if (cols % 8 == 0)
        patch<8>(dy, dx, rows, before, patches, cols, add);
    else
        patch<1>(dy, dx, rows, before, patches, cols, add);
}

// Sums over the batch of dy [batch, n, cols] for token blockIdx.x, delivered to its token and its position (null: not wanted). Each of
// eight warps adds up every eighth image; their sums are added in order.
template <int L, class T>
static __device__ __forceinline__ void sum(const T* dy, float* dcls, float* dreg, float* dpos, int batch, int n, int lead, int registers,
                                           int cols, int add_cls, int add_reg, int add_pos) {
    KX_SHARED(float, part);  // [8, 32 L]
    const int t = blockIdx.x, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, first_patch = lead + registers;
    float* own = t < lead ? dcls : t < first_patch && dreg ? dreg + (size_t)(t - lead) * cols : nullptr;
    float* at = dpos && t < lead ? dpos : dpos && t >= first_patch ? dpos + (size_t)(t - registers) * cols : nullptr;
    if (!own && !at) return;
    for (int tile = blockIdx.y * 32 * L; tile < cols; tile += gridDim.y * 32 * L) {
        const int c = tile + lane * L;
        float sum[L] = {};
        for (int b = warp; b < batch && c < cols; b += 8) {
            float values[L];
            kx::load<L>(dy + ((size_t)b * n + t) * cols + c, values);
#pragma unroll
            for (int j = 0; j < L; j++) sum[j] += values[j];
        }
#pragma unroll
        for (int j = 0; j < L; j++) part[(warp * 32 + lane) * L + j] = sum[j];
        __syncthreads();
        if (warp == 0 && c < cols) {
            for (int from = 1; from < 8; from++)
#pragma unroll
                for (int j = 0; j < L; j++) sum[j] += part[(from * 32 + lane) * L + j];
            if (own) kx::deliver_all<L>(own + c, sum, t < lead ? add_cls : add_reg);
            if (at) kx::deliver_all<L>(at + c, sum, add_pos);
        }
        __syncthreads();
    }
}
template <class T>
static __device__ __forceinline__ void sums(const T* dy, float* dcls, float* dreg, float* dpos, int batch, int n, int lead, int registers,
                                            int cols, int add_cls, int add_reg, int add_pos) {
    if (cols % 8 == 0)
        sum<8>(dy, dcls, dreg, dpos, batch, n, lead, registers, cols, add_cls, add_reg, add_pos);
    else
        sum<1>(dy, dcls, dreg, dpos, batch, n, lead, registers, cols, add_cls, add_reg, add_pos);
}

#define INSTANCES(T, kind)                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                                                    \
        tokens_forward_##kind(const T* x, const float* cls, const float* reg, const float* pos, T* y, int rows, int lead, int registers, \
                              int patches, int cols) {                                                                                   \
        tokens(x, cls, reg, pos, y, rows, lead, registers, patches, cols);                                                               \
    }                                                                                                                                    \
    KX_EXPORT(tokens_forward_##kind)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                                    \
        tokens_backward_##kind(const T* dy, T* dx, int rows, int before, int patches, int cols, int add) {                               \
        patches_back(dy, dx, rows, before, patches, cols, add);                                                                          \
    }                                                                                                                                    \
    KX_EXPORT(tokens_backward_##kind)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                                    \
        tokens_sums_##kind(const T* dy, float* dcls, float* dreg, float* dpos, int batch, int n, int lead, int registers, int cols,      \
                           int add_cls, int add_reg, int add_pos) {                                                                      \
        sums(dy, dcls, dreg, dpos, batch, n, lead, registers, cols, add_cls, add_reg, add_pos);                                          \
    }                                                                                                                                    \
    KX_EXPORT(tokens_sums_##kind)
INSTANCES(float, f32)
INSTANCES(kx::bf16, bf16)
