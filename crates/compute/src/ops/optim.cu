// The optimiser's passes: the gradient's norm, AdamW with clipping and the bf16 shadow, the moving average. One pass over memory each.
#include "kx.h"

// Sum over a block of 256 in fixed order, on thread 0; `part` is 8 doubles.
static __device__ __forceinline__ double block_sum(double x, double* part) {
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(kx::ALL, x, o);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = x;
    __syncthreads();
    x = part[0];
    for (int w = 1; w < 8; w++) x += part[w];
    return x;
}

// sums [gridDim.x] = the sums of squares of equal, contiguous parts of g [n].
extern "C" __global__ void __launch_bounds__(256) optim_square_sums(const float* g, double* sums, kx_u64 n) {
    KX_SHARED(double, part);
    const kx_u64 each = ((n + gridDim.x - 1) / gridDim.x + 3) / 4 * 4, first = blockIdx.x * each, end = first + each < n ? first + each : n;
    double sum[4] = {0., 0., 0., 0.};
    kx_u64 i = first + threadIdx.x * 4;
#pragma unroll 4
    for (; i + 4 <= end; i += 1024) {
        float x[4];
        kx::load_lanes(g + i, x);
#pragma unroll
        for (int k = 0; k < 4; k++) sum[k] += (double)x[k] * (double)x[k];
    }
    for (; i < end; i++) sum[0] += (double)g[i] * (double)g[i];
    const double total = block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]), part);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}
KX_EXPORT(optim_square_sums)

// Behind n sums: the norm, and the factor that clips it to `most`, in f32: NaN where the norm is not finite. One block.
extern "C" __global__ void __launch_bounds__(256) optim_norm(double* sums, int n, double most) {
    KX_SHARED(double, part);
    double sum = 0.;
    for (int i = threadIdx.x; i < n; i += 256) sum += sums[i];
    sum = block_sum(sum, part);
    if (threadIdx.x) return;
    const double norm = sqrt(sum), ratio = most / (norm + 1e-6);
    sums[n] = norm;
    const bool finite = norm - norm == 0.;
    *reinterpret_cast<float*>(sums + n + 1) = finite ? (float)(ratio < 1. ? ratio : 1.) : kx::bits_to_float(0x7fc00000u);
}
KX_EXPORT(optim_norm)

// A tensor in one step of AdamW: `Tensor` of optim/cuda.rs.
struct Tensor {
    kx_u64 at, len;
    unsigned block, padding;
    float decay, step_size;
};

struct Betas {
    float clip, beta1, beta2, rest1, rest2, correction, eps;
};
static __device__ __forceinline__ void update(const Betas& b, const Tensor& t, float& w, float g, float& m, float& v) {
    g *= b.clip;
    m = fmaf(b.beta1, m, b.rest1 * g);
    v = fmaf(b.beta2, v, b.rest2 * g * g);
    w = w * t.decay - t.step_size * m / (sqrtf(v) * b.correction + b.eps);
}

// One step. A block has 4096 elements of one tensor of the table, whose first elements lie at multiples of 16. The clipping factor is
// read, where `factor` is not null, else given; with NaN nothing changes.
extern "C" __global__ void __launch_bounds__(256)
    optim_adamw(float* w, kx::bf16* shadow, const float* g, float* m, float* v, const Tensor* tensors, int count, const float* factor,
                float given, float beta1, float beta2, float rest1, float rest2, float correction, float eps) {
    const Betas b{factor ? *factor : given, beta1, beta2, rest1, rest2, correction, eps};
    if (b.clip != b.clip) return;
    int low = 0, high = count;  // the last tensor whose first block is not behind this one
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (tensors[middle].block <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    const Tensor t = tensors[low];
    const kx_u64 first = (kx_u64)(blockIdx.x - t.block) * 4096;
#pragma unroll
    for (int part = 0; part < 4; part++) {
        const kx_u64 offset = first + part * 1024 + threadIdx.x * 4, at = t.at + offset;
        if (offset + 4 <= t.len) {
            float ws[4], gs[4], ms[4], vs[4];
            kx::load_lanes(w + at, ws), kx::load_lanes(g + at, gs), kx::load_lanes(m + at, ms), kx::load_lanes(v + at, vs);
#pragma unroll
            for (int k = 0; k < 4; k++) update(b, t, ws[k], gs[k], ms[k], vs[k]);
            kx::store_lanes(w + at, ws), kx::store_lanes(m + at, ms), kx::store_lanes(v + at, vs);
            if (shadow) *reinterpret_cast<uint2*>(shadow + at) = uint2{kx::pack_bf16(ws[0], ws[1]), kx::pack_bf16(ws[2], ws[3])};
        } else {
            for (kx_u64 i = at; i < t.at + t.len; i++) {
                update(b, t, w[i], g[i], m[i], v[i]);
                if (shadow) shadow[i] = kx::narrow<kx::bf16>(w[i]);
            }
        }
    }
}
KX_EXPORT(optim_adamw)

// to += rate (from - to), and its shadow (or null). A block has 4096 elements.
extern "C" __global__ void __launch_bounds__(256) optim_approach(float* to, const float* from, kx::bf16* shadow, float rate, kx_u64 n) {
#pragma unroll
    for (int part = 0; part < 4; part++) {
        const kx_u64 at = (kx_u64)blockIdx.x * 4096 + part * 1024 + threadIdx.x * 4;
        if (at + 4 <= n) {
            float a[4], b[4];
            kx::load_lanes(to + at, a), kx::load_lanes(from + at, b);
#pragma unroll
            for (int k = 0; k < 4; k++) a[k] += rate * (b[k] - a[k]);
            kx::store_lanes(to + at, a);
            if (shadow) *reinterpret_cast<uint2*>(shadow + at) = uint2{kx::pack_bf16(a[0], a[1]), kx::pack_bf16(a[2], a[3])};
        } else {
            for (kx_u64 i = at; i < n; i++) {
                to[i] += rate * (from[i] - to[i]);
                if (shadow) shadow[i] = kx::narrow<kx::bf16>(to[i]);
            }
        }
    }
}
KX_EXPORT(optim_approach)
