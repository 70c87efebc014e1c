// Activations: eight elements a thread; x is read, y written; backwards x and dy are read, dx written (or added to) once.
#include "kx.h"

// Kinds of activation, as activation/cuda.rs numbers them.
constexpr int GELU = 0, QUICK_GELU = 1, RELU = 2, SIGMOID = 3;

static __device__ __forceinline__ float at_most(float x, float limit) { return limit < x ? limit : x; }  // NaN stays

// The exact (erf) GELU and its slope, from e^(-a^2/2), a = |x|, and the quotient of polynomials that simd/math.rs states.
static __device__ __forceinline__ void gelu(float x, float& value, float& slope) {
    const float a = at_most(fabsf(x), 13.25f);
    const float e = __expf(a * (-0.5f * a));
    const float n = fmaf(fmaf(fmaf(0.014110443f, a, 0.104812935f), a, 0.31690845f), a, 0.39894217f);
    const float d = fmaf(fmaf(fmaf(fmaf(0.02822231f, a, 0.23208801f), a, 0.81991553f), a, 1.4210241f), a, 1.f);
    const float m = fmaf(-a, __fdividef(n, d), 0.5f);
    value = fmaf(-a, e * m, x > 0.f ? x : 0.f);
    const float g = fmaf(-0.3989423f, a, m);
    slope = x > 0.f ? fmaf(-e, g, 1.f) : e * g;
}

// x sigma(1.702 x) and its slope.
static __device__ __forceinline__ void quick_gelu(float x, float& value, float& slope) {
    const float a = at_most(fabsf(x), 450.f), y = 1.702f * a;
    const float e = __expf(-y), above = 1.f / (1.f + e), s = e * above;
    value = fmaf(-a, s, x > 0.f ? x : 0.f);
    const float h = s * fmaf(-y, above, 1.f);
    slope = x > 0.f ? 1.f - h : h;
}

// f(x) and f'(x); what a caller drops it does not pay for.
template <int KIND>
static __device__ __forceinline__ void apply(float height, float x, float& value, float& slope) {
    if constexpr (KIND == GELU) {
        gelu(x, value, slope);
    } else if constexpr (KIND == QUICK_GELU) {
        quick_gelu(x, value, slope);
    } else if constexpr (KIND == RELU) {
        value = x > 0.f ? x : 0.f, slope = x > 0.f ? 1.f : 0.f;
    } else {
        const float s = 1.f / (1.f + __expf(-x));
        value = height * s, slope = height * s * (1.f - s);
    }
}

template <int KIND, int W, class T>
static __device__ __forceinline__ void forward_at(const T* x, T* y, float height) {
    float v[W], slope;
    kx::load<W>(x, v);
#pragma unroll
    for (int k = 0; k < W; k++) apply<KIND>(height, v[k], v[k], slope);
    kx::store<W>(y, v);
}
template <int KIND, int W, class T>
static __device__ __forceinline__ void backward_at(const T* x, const T* dy, T* dx, int add, float height) {
    float v[W], d[W];
    kx::load<W>(x, v);
    kx::load<W>(dy, d);
#pragma unroll
    for (int k = 0; k < W; k++) {
        float slope;
        apply<KIND>(height, v[k], v[k], slope);
        d[k] *= slope;
    }
    kx::deliver_all<W>(dx, d, add);
}

// This thread's eight elements of n, or what is left of them.
template <int KIND, class T>
static __device__ __forceinline__ void forward(const T* x, T* y, kx_u64 n, float height) {
    kx_u64 i = ((kx_u64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= n) return forward_at<KIND, 8>(x + i, y + i, height);
    for (; i < n; i++) forward_at<KIND, 1>(x + i, y + i, height);
}
// dx may be dy.
template <int KIND, class T>
static __device__ __forceinline__ void backward(const T* x, const T* dy, T* dx, kx_u64 n, int add, float height) {
    kx_u64 i = ((kx_u64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= n) return backward_at<KIND, 8>(x + i, dy + i, dx + i, add, height);
    for (; i < n; i++) backward_at<KIND, 1>(x + i, dy + i, dx + i, add, height);
}

#define ACTIVATION(T, type)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        activation_forward_##type(const T* x, T* y, kx_u64 n, int kind, float height) {                           \
        if (kind == GELU) forward<GELU>(x, y, n, height);                                                         \
        if (kind == QUICK_GELU) forward<QUICK_GELU>(x, y, n, height);                                             \
        if (kind == RELU) forward<RELU>(x, y, n, height);                                                         \
        if (kind == SIGMOID) forward<SIGMOID>(x, y, n, height);                                                   \
    }                                                                                                             \
    KX_EXPORT(activation_forward_##type)                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        activation_backward_##type(const T* x, const T* dy, T* dx, kx_u64 n, int add, int kind, float height) {   \
        if (kind == GELU) backward<GELU>(x, dy, dx, n, add, height);                                              \
        if (kind == QUICK_GELU) backward<QUICK_GELU>(x, dy, dx, n, add, height);                                  \
        if (kind == RELU) backward<RELU>(x, dy, dx, n, add, height);                                              \
        if (kind == SIGMOID) backward<SIGMOID>(x, dy, dx, n, add, height);                                        \
    }                                                                                                             \
    KX_EXPORT(activation_backward_##type)
ACTIVATION(float, f32)
ACTIVATION(kx::bf16, bf16)
