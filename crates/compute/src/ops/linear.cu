// Beside the matrix products of a linear layer: the joint bias of query, key and value, and column sums, which are its gradient.
#include "kx.h"

// out [width] = parts side by side, each `third` wide (or one of `width`); a null part is zero.
template <class T>
static __device__ __forceinline__ void joint_bias(const T* q, const T* k, const T* v, T* out, int third, int width) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < width; i += gridDim.x * blockDim.x) {
        const int part = i / third;
        const T* from = part == 0 ? q : part == 1 ? k : v;
        out[i] = from ? from[i - part * third] : kx::narrow<T>(0.f);
    }
}
extern "C" __global__ void __launch_bounds__(256)
    linear_joint_bias_f32(const float* q, const float* k, const float* v, float* out, int third, int width) {
    joint_bias(q, k, v, out, third, width);
}
KX_EXPORT(linear_joint_bias_f32)
extern "C" __global__ void __launch_bounds__(256)
    linear_joint_bias_bf16(const kx::bf16* q, const kx::bf16* k, const kx::bf16* v, kx::bf16* out, int third, int width) {
    joint_bias(q, k, v, out, third, width);
}
KX_EXPORT(linear_joint_bias_bf16)

// Column sums of x [rows, cols] over a chunk of rows, for a tile of columns, `width` vectors of W: partial [gridDim.y, cols]. A row of the
// tile is `width` threads; the sums of the rows that a block has abreast are added in order.
template <int W, class T>
static __device__ __forceinline__ void column_sums(const T* x, float* partial, int rows, int cols, int width, int chunk) {
    KX_SHARED(float, part);
    const int abreast = blockDim.x / width, lane = threadIdx.x % width, own = threadIdx.x / width, c = (blockIdx.x * width + lane) * W;
    const int first = blockIdx.y * chunk, end = own < abreast && c < cols ? min(rows, first + chunk) : 0;
    float sums[W] = {};
#pragma unroll 4
    for (int row = first + own; row < end; row += abreast) {
        float v[W];
        kx::load<W>(x + (size_t)row * cols + c, v);
#pragma unroll
        for (int k = 0; k < W; k++) sums[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < W; k++) part[threadIdx.x * W + k] = sums[k];
    __syncthreads();
    if (own > 0 || c >= cols) return;
    for (int i = 1; i < abreast; i++)
#pragma unroll
        for (int k = 0; k < W; k++) sums[k] += part[(i * width + lane) * W + k];
    kx::store<W>(partial + (size_t)blockIdx.y * cols + c, sums);
}
template <class T>
static __device__ __forceinline__ void column_sums_of(const T* x, float* partial, int rows, int cols, int width, int chunk) {
    if (cols % 8 == 0)
        column_sums<8>(x, partial, rows, cols, width, chunk);
    else
        column_sums<1>(x, partial, rows, cols, width, chunk);
}
extern "C" __global__ void __launch_bounds__(256)
    linear_column_sums_f32(const float* x, float* partial, int rows, int cols, int width, int chunk) {
    column_sums_of(x, partial, rows, cols, width, chunk);
}
KX_EXPORT(linear_column_sums_f32)
extern "C" __global__ void __launch_bounds__(256)
    linear_column_sums_bf16(const kx::bf16* x, float* partial, int rows, int cols, int width, int chunk) {
    column_sums_of(x, partial, rows, cols, width, chunk);
}
KX_EXPORT(linear_column_sums_bf16)

// out [len] = the sum over chunks of columns at..at + len of partial [chunks, cols]; set, or added. A block has 32 columns; each of its
// eight warps adds up every eighth chunk, and the eight sums are added in order.
static __device__ __forceinline__ void add_up(const float* partial, float* out, int chunks, int cols, int at, int len, int add) {
    KX_SHARED(float, part);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, i = blockIdx.x * 32 + lane;
    float sum = 0.f;
    if (i < len) {
#pragma unroll 4
        for (int c = warp; c < chunks; c += 8) sum += partial[(size_t)c * cols + at + i];
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || i >= len) return;
    for (int w = 1; w < 8; w++) sum += part[w * 32 + lane];
    kx::deliver(out + i, sum, add);
}
extern "C" __global__ void __launch_bounds__(256)
    linear_add_up(const float* partial, float* out, int chunks, int cols, int at, int len, int add) {
    add_up(partial, out, chunks, cols, at, len, add);
}
KX_EXPORT(linear_add_up)
