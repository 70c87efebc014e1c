// BatchNorm over the rows of x [rows, cols]: a block has 32 columns, a thread every eighth row of one of them.
#include "kx.h"

// Sum over the block's eight threads of a column, in order; each of them gets the same bits.
static __device__ __forceinline__ float column_sum(float x, float* part) {
    __syncthreads();
    part[threadIdx.x] = x;
    __syncthreads();
    float sum = part[threadIdx.x & 31];
    for (int i = 1; i < 8; i++) sum += part[32 * i + (threadIdx.x & 31)];
    return sum;
}

template <class T>
static __device__ __forceinline__ void forward(const T* x, T* y, float* mean, float* var, int rows, int cols, float eps) {
    KX_SHARED(float, part);
    const int c = blockIdx.x * 32 + (threadIdx.x & 31), first = threadIdx.x >> 5, end = c < cols ? rows : 0;
    float sum = 0.f, squares = 0.f;
    for (int r = first; r < end; r += 8) sum += kx::widen(x[(size_t)r * cols + c]);
    const float m = column_sum(sum, part) / rows;
    for (int r = first; r < end; r += 8) {
        const float d = kx::widen(x[(size_t)r * cols + c]) - m;
        squares = fmaf(d, d, squares);
    }
    const float v = column_sum(squares, part) / rows, scale = 1.f / sqrtf(v + eps);
    for (int r = first; r < end; r += 8) y[(size_t)r * cols + c] = kx::narrow<T>((kx::widen(x[(size_t)r * cols + c]) - m) * scale);
    if (first == 0 && c < cols) mean[c] = m, var[c] = v;
}

template <class T>
static __device__ __forceinline__ void backward(const T* y, const float* var, const T* dy, T* dx, int add, int rows, int cols, float eps) {
    KX_SHARED(float, part);
    const int c = blockIdx.x * 32 + (threadIdx.x & 31), first = threadIdx.x >> 5, end = c < cols ? rows : 0;
    float d = 0.f, dy_y = 0.f;
    for (int r = first; r < end; r += 8) {
        const float g = kx::widen(dy[(size_t)r * cols + c]);
        d += g;
        dy_y = fmaf(g, kx::widen(y[(size_t)r * cols + c]), dy_y);
    }
    const float mean_d = column_sum(d, part) / rows, mean_dy = column_sum(dy_y, part) / rows;
    const float scale = c < cols ? 1.f / sqrtf(var[c] + eps) : 0.f;
    for (int r = first; r < end; r += 8) {
        const size_t at = (size_t)r * cols + c;
        kx::deliver(dx + at, (kx::widen(dy[at]) - mean_d - kx::widen(y[at]) * mean_dy) * scale, add);
    }
}

#define BATCH_NORM(T, type)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                              \
        batch_norm_forward_##type(const T* x, T* y, float* mean, float* var, int rows, int cols, float eps) {                      \
        forward(x, y, mean, var, rows, cols, eps);                                                                                 \
    }                                                                                                                              \
    KX_EXPORT(batch_norm_forward_##type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                              \
        batch_norm_backward_##type(const T* y, const float* var, const T* dy, T* dx, int add, int rows, int cols, float eps) {     \
        backward(y, var, dy, dx, add, rows, cols, eps);                                                                            \
    }                                                                                                                              \
    KX_EXPORT(batch_norm_backward_##type)
BATCH_NORM(float, f32)
BATCH_NORM(kx::bf16, bf16)
