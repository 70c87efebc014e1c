// Losses on logits: a block has a row. Exponentials and sums are in double precision, as on the processor: a row is short.
#include "kx.h"

// Forms of the target, as logit_loss/cuda.rs numbers them.
constexpr int PROBABILITIES = 0, LOGITS_KL = 2;

// Over the block, in fixed order; every thread gets the same bits. `part` is 32 doubles.
static __device__ __forceinline__ double block_sum(double x, double* part) {
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(kx::ALL, x, o);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = x;
    __syncthreads();
    x = part[0];
    for (int w = 1; w < blockDim.x / 32; w++) x += part[w];
    return x;
}
static __device__ __forceinline__ float block_max(float x, double* part) {
    x = kx::warp_max(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = x;
    __syncthreads();
    x = (float)part[0];
    for (int w = 1; w < blockDim.x / 32; w++) x = fmaxf(x, (float)part[w]);
    return x;
}

// The largest element of a row and log of the sum of exp((x - largest) / temperature).
struct Normaliser {
    double top, log_sum;
};
template <class T>
static __device__ __forceinline__ Normaliser normaliser(const T* x, int cols, double temperature, double* part) {
    float top = kx::bits_to_float(0xff800000u);  // minus infinity
    for (int c = threadIdx.x; c < cols; c += blockDim.x) top = fmaxf(top, kx::widen(x[c]));
    top = block_max(top, part);
    double sum = 0.;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) sum += exp(((double)kx::widen(x[c]) - top) / temperature);
    return Normaliser{top, log(block_sum(sum, part))};
}

// One class: the target's probability and the logarithms of both.
struct Class {
    double p, log_p, log_q;
};
template <class Z, class T>
struct Row {
    const Z* z;
    const T* t;
    Normaliser of_z, of_t;
    double temperature;
    int form;

    __device__ __forceinline__ Row(const Z* z, const T* t, int cols, double temperature, int form, double* part)
        : z(z), t(t), of_z(normaliser(z, cols, temperature, part)), of_t{0., 0.}, temperature(temperature), form(form) {
        if (form != PROBABILITIES) of_t = normaliser(t, cols, temperature, part);
    }
    __device__ __forceinline__ Class at(int c) const {
        const double log_q = ((double)kx::widen(z[c]) - of_z.top) / temperature - of_z.log_sum, given = kx::widen(t[c]);
        if (form == PROBABILITIES) return Class{given, 0., log_q};
        const double log_p = (given - of_t.top) / temperature - of_t.log_sum;
        return Class{exp(log_p), log_p, log_q};
    }
};

// loss [rows]: of each row, without the factor temperature squared.
template <class Z, class T>
static __device__ __forceinline__ void forward(const Z* z, const T* t, float* loss, int cols, double temperature, int form) {
    KX_SHARED(double, part);
    const size_t at = (size_t)blockIdx.x * cols;
    const Row<Z, T> row(z + at, t + at, cols, temperature, form, part);
    double sum = 0.;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        const Class k = row.at(c);
        if (k.p != 0.) sum += k.p * (form == LOGITS_KL ? k.log_p - k.log_q : -k.log_q);
    }
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) loss[blockIdx.x] = (float)sum;
}

// dz = seed scale (q mass - p), set or added.
template <class Z, class T>
static __device__ __forceinline__ void backward(const Z* z, const T* t, const float* seed, double scale, Z* dz, int add, int cols,
                                                double temperature, int form) {
    KX_SHARED(double, part);
    const size_t at = (size_t)blockIdx.x * cols;
    const Row<Z, T> row(z + at, t + at, cols, temperature, form, part);
    const double g = *seed * scale;
    double mass = 0.;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) mass += row.at(c).p;
    mass = block_sum(mass, part);
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        const Class k = row.at(c);
        kx::deliver(dz + at + c, (float)(g * (exp(k.log_q) * mass - k.p)), add);
    }
}

#define LOGIT_LOSS(name, Z, T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                                \
        logit_loss_forward_##name(const Z* z, const T* t, float* loss, int cols, double temperature, int form) {                     \
        forward(z, t, loss, cols, temperature, form);                                                                                \
    }                                                                                                                                \
    KX_EXPORT(logit_loss_forward_##name)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                                \
        logit_loss_backward_##name(const Z* z, const T* t, const float* seed, double scale, Z* dz, int add, int cols, double temperature, \
                                   int form) {                                                                                       \
        backward(z, t, seed, scale, dz, add, cols, temperature, form);                                                               \
    }                                                                                                                                \
    KX_EXPORT(logit_loss_backward_##name)
// By the types of logits and target.
LOGIT_LOSS(f32, float, float)
LOGIT_LOSS(bf16, kx::bf16, kx::bf16)
LOGIT_LOSS(to_f32_bf16, kx::bf16, float)
LOGIT_LOSS(to_bf16_f32, float, kx::bf16)
