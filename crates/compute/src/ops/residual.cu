// Residual branches: out = x + s gamma y. Forwards x and y are read and out is written once; backwards dout, and y where gamma is trained.
#include "kx.h"

// Drop path's factor of a sample: 1 where no branch is dropped (control is null).
static __device__ __forceinline__ float factor(const kx::Control* control, unsigned site, kx_u64 sample, double rate) {
    return control ? kx::drop_scale(control, site, sample, rate) : 1.f;
}

template <int W, class X, class Y, class O>
static __device__ __forceinline__ void add_branch(const X* x, const Y* y, const float* gamma, O* out, float s) {
    float a[W], b[W], g[W];
    kx::load<W>(x, a);
    kx::load<W>(y, b);
    if (gamma) kx::load<W>(gamma, g);
#pragma unroll
    for (int k = 0; k < W; k++) a[k] = fmaf(gamma ? s * g[k] : s, b[k], a[k]);
    kx::store<W>(out, a);
}

// Blocks (sample, part): a part is 8192 of the sample's `each` elements; gamma (or null) has cols.
template <class X, class Y, class O>
static __device__ __forceinline__ void forward(const X* x, const Y* y, const float* gamma, O* out, const kx::Control* control, unsigned site,
                                               double rate, unsigned each, unsigned cols) {
    KX_SHARED(float, scale);
    if (threadIdx.x < 32) {
        const float s = factor(control, site, blockIdx.x, rate);
        if (threadIdx.x == 0) *scale = s;
    }
    __syncthreads();
    const float s = *scale;
    const size_t base = (size_t)blockIdx.x * each;
    const unsigned first = blockIdx.y * 8192u, end = min(each, first + 8192u);
    if (cols % 8 == 0) {
        for (unsigned i = first + threadIdx.x * 8; i < end; i += 2048)
            add_branch<8>(x + base + i, y + base + i, gamma ? gamma + i % cols : nullptr, out + base + i, s);
    } else {
        for (unsigned i = first + threadIdx.x; i < end; i += 256)
            add_branch<1>(x + base + i, y + base + i, gamma ? gamma + i % cols : nullptr, out + base + i, s);
    }
}

// dy and dx of a tile of columns (`width` vectors of W) in a chunk of rows, each delivered as its `how` says (0: not, 1: set, 2: add), and
// partial [gridDim.y, cols] = the chunk's sums of s dout y, unless it is null. A row of the tile is `width` threads.
template <int W, class O, class Y>
static __device__ __forceinline__ void backward_of(const O* dout, const Y* y, const float* gamma, Y* dy, int how_y, O* dx, int how_x,
                                                   float* partial, const kx::Control* control, unsigned site, double rate, int rows, int cols,
                                                   int per_sample, int width, int chunk) {
    KX_SHARED(float, part);
    const int abreast = blockDim.x / width, lane = threadIdx.x % width, own = threadIdx.x / width, c = (blockIdx.x * width + lane) * W;
    const int first = blockIdx.y * chunk, end = min(rows, first + chunk);
    const bool works = own < abreast && c < cols;
    float sums[W] = {}, g[W];
#pragma unroll
    for (int k = 0; k < W; k++) g[k] = 1.f;
    if (works && gamma) kx::load<W>(gamma + c, g);
    int sample = -1;
    float s = 1.f;
    for (int row = first + own; works && row < end; row += abreast) {
        const size_t at = (size_t)row * cols + c;
        float d[W], v[W] = {};
        kx::load<W>(dout + at, d);
        if (partial) kx::load<W>(y + at, v);
        if (control && row / per_sample != sample) {
            sample = row / per_sample;
            s = factor(control, site, sample, rate);
        }
        if (how_x) kx::deliver_all<W>(dx + at, d, how_x == 2);
#pragma unroll
        for (int k = 0; k < W; k++) {
            if (partial) sums[k] = fmaf(s * d[k], v[k], sums[k]);
            d[k] *= s * g[k];
        }
        if (how_y) kx::deliver_all<W>(dy + at, d, how_y == 2);
    }
    if (!partial) return;
    if (own < abreast)
        for (int k = 0; k < W; k++) part[threadIdx.x * W + k] = sums[k];
    __syncthreads();
    if (own > 0 || c >= cols) return;
    for (int i = 1; i < abreast; i++)
        for (int k = 0; k < W; k++) sums[k] += part[(i * width + lane) * W + k];
    kx::store<W>(partial + (size_t)blockIdx.y * cols + c, sums);
}

#define RESIDUAL_FORWARD(name, X, Y, O)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                               \
        residual_forward_##name(const X* x, const Y* y, const float* gamma, O* out, const kx::Control* control, unsigned site, double rate, unsigned each, unsigned cols) { \
        forward(x, y, gamma, out, control, site, rate, each, cols);                                                                 \
    }                                                                                                                               \
    KX_EXPORT(residual_forward_##name)
#define RESIDUAL_BACKWARD(name, O, Y)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                                               \
        residual_backward_##name(const O* dout, const Y* y, const float* gamma, Y* dy, int how_y, O* dx, int how_x, float* partial, const kx::Control* control, \
             unsigned site, double rate, int rows, int cols, int per_sample, int width, int chunk) {                                \
        if (cols % 8 == 0)                                                                                                          \
            backward_of<8>(dout, y, gamma, dy, how_y, dx, how_x, partial, control, site, rate, rows, cols, per_sample, width, chunk); \
        else                                                                                                                        \
            backward_of<1>(dout, y, gamma, dy, how_y, dx, how_x, partial, control, site, rate, rows, cols, per_sample, width, chunk); \
    }                                                                                                                               \
    KX_EXPORT(residual_backward_##name)
// By the types of x, y and out; an f32 operand of a bf16 sum is one that does not depend on the batch.
RESIDUAL_FORWARD(f32, float, float, float)
RESIDUAL_FORWARD(bf16, kx::bf16, kx::bf16, kx::bf16)
RESIDUAL_FORWARD(wide_x_bf16, float, kx::bf16, kx::bf16)
RESIDUAL_FORWARD(wide_y_bf16, kx::bf16, float, kx::bf16)
// By the types of out and y; x's gradient is of out's type.
RESIDUAL_BACKWARD(f32, float, float)
RESIDUAL_BACKWARD(bf16, kx::bf16, kx::bf16)
RESIDUAL_BACKWARD(wide_y_bf16, kx::bf16, float)
