// A fixed sparse matrix over rows; its transpose, for the gradient, is another such matrix.
#include "kx.h"

// y [rows = batch outputs, cols]: row r of an image is the sum over i in starts[r]..starts[r + 1], in order, of weights[i] times row
// columns[i] of x [batch, inputs, cols]; set, or added. A warp takes a row.
template <int L, class T>
static __device__ __forceinline__ void row_of(const T* x, const unsigned* starts, const unsigned* columns, const float* weights, T* y,
                                              int rows, int outputs, int inputs, int cols, int add) {
    const int row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    const unsigned first = starts[row % outputs], end = starts[row % outputs + 1];
    if (add && first == end) return;
    x += (size_t)(row / outputs) * inputs * cols;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float sum[L] = {};
        for (unsigned i = first; i < end; i++) {
            float values[L];
            kx::load<L>(x + (size_t)columns[i] * cols + c, values);
#pragma unroll
            for (int j = 0; j < L; j++) sum[j] += weights[i] * values[j];
        }
        kx::deliver_all<L>(y + (size_t)row * cols + c, sum, add);
    }
}
template <class T>
static __device__ __forceinline__ void sparse(const T* x, const unsigned* starts, const unsigned* columns, const float* weights, T* y,
                                              int rows, int outputs, int inputs, int cols, int add) {
    if (cols % 8 == 0)
        row_of<8>(x, starts, columns, weights, y, rows, outputs, inputs, cols, add);
    else
        row_of<1>(x, starts, columns, weights, y, rows, outputs, inputs, cols, add);
}

#define INSTANCES(T, kind)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                                 \
        sparse_##kind(const T* x, const unsigned* starts, const unsigned* columns, const float* weights, T* y, int rows, int outputs, \
                      int inputs, int cols, int add) {                                                                                \
        sparse(x, starts, columns, weights, y, rows, outputs, inputs, cols, add);                                                     \
    }                                                                                                                                 \
    KX_EXPORT(sparse_##kind)
INSTANCES(float, f32)
INSTANCES(kx::bf16, bf16)
