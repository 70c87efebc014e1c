// Matrix products for the shapes that the library refuses: tiles of 64 x 64, four times four elements a thread, sums in f32.
#include "kx.h"

constexpr int TILE = 64, DEEP = 16, PITCH = TILE + 1;

// Brings a tile of `rows` x `depth` (element (r, k) at r * row + k * step) to shared memory as [DEEP, PITCH]; 0 outside. Neighbouring
// threads read what lies side by side.
template <class T>
static __device__ __forceinline__ void bring(const T* from, int row, int step, int first, int rows, int k, int depth, float* to) {
    for (int i = threadIdx.x; i < TILE * DEEP; i += 256) {
        const int r = step == 1 ? i / DEEP : i % TILE, d = step == 1 ? i % DEEP : i / TILE;
        const bool inside = first + r < rows && k + d < depth;
        to[d * PITCH + r] = inside ? kx::widen(from[(size_t)(first + r) * row + (size_t)(k + d) * step]) : 0.f;
    }
}

// c [m, n] (+)= a [m, k] b [k, n] + bias [n] (null: none); element (i, d) of a at i * a_row + d * a_step, (d, j) of b at
// j * b_row + d * b_step.
template <class T, class C>
static __device__ __forceinline__ void product(const T* a, int a_row, int a_step, const T* b, int b_row, int b_step, C* c, const C* bias,
                                               int m, int n, int k, int add) {
    KX_SHARED(float, a_tile);
    float* b_tile = a_tile + DEEP * PITCH;
    const int top = blockIdx.x * TILE, left = blockIdx.y * TILE, i = threadIdx.x / 16 * 4, j = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int first = 0; first < k; first += DEEP) {
        bring(a, a_row, a_step, top, m, first, k, a_tile);
        bring(b, b_row, b_step, left, n, first, k, b_tile);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEEP; d++)
#pragma unroll
            for (int p = 0; p < 4; p++)
#pragma unroll
                for (int q = 0; q < 4; q++) sum[p][q] += a_tile[d * PITCH + i + p] * b_tile[d * PITCH + j + q];
        __syncthreads();
    }
    for (int p = 0; p < 4; p++)
        for (int q = 0; q < 4; q++)
            if (top + i + p < m && left + j + q < n) {
                const float with_bias = sum[p][q] + (bias ? kx::widen(bias[left + j + q]) : 0.f);
                kx::deliver(c + (size_t)(top + i + p) * n + left + j + q, with_bias, add);
            }
}

#define INSTANCE(T, C, kinds)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                     \
        product_##kinds(const T* a, int a_row, int a_step, const T* b, int b_row, int b_step, C* c, const C* bias, int m, \
                        int n, int k, int add) {                                                                          \
        product(a, a_row, a_step, b, b_row, b_step, c, bias, m, n, k, add);                                               \
    }                                                                                                                     \
    KX_EXPORT(product_##kinds)
INSTANCE(float, float, f32)
INSTANCE(kx::bf16, kx::bf16, bf16)
INSTANCE(kx::bf16, float, bf16_to_f32)
