// Fewer tokens: their mean, or some of them; and the gradients.
#include "kx.h"

// y [batch, cols] = weight times the sum of tokens from..from + count of x [batch, tokens, cols]. A block takes an image and a tile of
// columns; each of eight warps adds up every eighth token, and their sums are added in order.
template <int L, class T>
static __device__ __forceinline__ void mean_of(const T* x, T* y, int tokens, int from, int count, int cols, float weight) {
    KX_SHARED(float, part);  // [8, 32 L]
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const size_t image = blockIdx.x;
    for (int tile = blockIdx.y * 32 * L; tile < cols; tile += gridDim.y * 32 * L) {
        const int c = tile + lane * L;
        float sum[L] = {};
        for (int t = warp; t < count && c < cols; t += 8) {
            float values[L];
            kx::load<L>(x + (image * tokens + from + t) * cols + c, values);
#pragma unroll
            for (int j = 0; j < L; j++) sum[j] += values[j];
        }
#pragma unroll
        for (int j = 0; j < L; j++) part[(warp * 32 + lane) * L + j] = sum[j];
        __syncthreads();
        if (warp == 0 && c < cols) {
            for (int w = 1; w < 8; w++)
#pragma unroll
                for (int j = 0; j < L; j++) sum[j] += part[(w * 32 + lane) * L + j];
#pragma unroll
            for (int j = 0; j < L; j++) sum[j] *= weight;
            kx::store<L>(y + image * cols + c, sum);
        }
        __syncthreads();
    }
}
template <class T>
static __device__ __forceinline__ void mean(const T* x, T* y, int tokens, int from, int count, int cols, float weight) {
    if (cols % 8 == 0)
        mean_of<8>(x, y, tokens, from, count, cols, weight);
    else
        mean_of<1>(x, y, tokens, from, count, cols, weight);
}

// y [rows = batch count, cols] = tokens from..from + count of x. A warp takes a token.
template <int L, class T>
static __device__ __forceinline__ void token(const T* x, T* y, int rows, int tokens, int from, int count, int cols) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    x += ((size_t)(row / count) * tokens + from + row % count) * cols;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float values[L];
        kx::load<L>(x + c, values);
        kx::store<L>(y + (size_t)row * cols + c, values);
    }
}
template <class T>
static __device__ __forceinline__ void some(const T* x, T* y, int rows, int tokens, int from, int count, int cols) {
    if (cols % 8 == 0)
        token<8>(x, y, rows, tokens, from, count, cols);
    else
        token<1>(x, y, rows, tokens, from, count, cols);
}

// dx [rows = batch tokens, cols]: weight times dy of the same image (`mean`) or token, and 0 outside from..from + count.
template <int L, class T>
static __device__ __forceinline__ void token_back(const T* dy, T* dx, int rows, int tokens, int from, int count, int cols, int mean,
                                                  float weight, int add) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    const int image = row / tokens, t = row % tokens - from;
    const bool pooled = t >= 0 && t < count;
    if (add && !pooled) return;
    dy += (mean ? image : (size_t)image * count + t) * cols;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float values[L] = {};
        if (pooled) kx::load<L>(dy + c, values);
#pragma unroll
        for (int j = 0; j < L; j++) values[j] *= weight;
        kx::deliver_all<L>(dx + (size_t)row * cols + c, values, add);
    }
}
template <class T>
static __device__ __forceinline__ void back(const T* dy, T* dx, int rows, int tokens, int from, int count, int cols, int mean, float weight,
                                            int add) {
    if (cols % 8 == 0)
        token_back<8>(dy, dx, rows, tokens, from, count, cols, mean, weight, add);
    else
        token_back<1>(dy, dx, rows, tokens, from, count, cols, mean, weight, add);
}

#define INSTANCES(T, kind)                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                                     \
        pool_mean_##kind(const T* x, T* y, int tokens, int from, int count, int cols, float weight) {                                     \
        mean(x, y, tokens, from, count, cols, weight);                                                                                    \
    }                                                                                                                                     \
    KX_EXPORT(pool_mean_##kind)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                                     \
        pool_some_##kind(const T* x, T* y, int rows, int tokens, int from, int count, int cols) {                                         \
        some(x, y, rows, tokens, from, count, cols);                                                                                      \
    }                                                                                                                                     \
    KX_EXPORT(pool_some_##kind)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) pool_backward_##kind(const T* dy, T* dx, int rows, int tokens, int from, int count, \
                                                                           int cols, int mean, float weight, int add) {                   \
        back(dy, dx, rows, tokens, from, count, cols, mean, weight, add);                                                                 \
    }                                                                                                                                     \
    KX_EXPORT(pool_backward_##kind)
INSTANCES(float, f32)
INSTANCES(kx::bf16, bf16)
