// What changes from step to step, and the gradients from which a backward pass starts.
#include "kx.h"

extern "C" __global__ void __launch_bounds__(32)
    control_set(kx::Control* control, kx_u64 seed, kx_u64 step, kx_u64 first_sample, kx_u64 view, float seed_grad) {
    if (threadIdx.x == 0) *control = kx::Control{seed, step, first_sample, view, seed_grad, 0};
}
KX_EXPORT(control_set)

extern "C" __global__ void __launch_bounds__(32) control_seed_f32(const kx::Control* control, float* root_grad) {
    if (threadIdx.x == 0) *root_grad = control->seed_grad;
}
KX_EXPORT(control_seed_f32)
extern "C" __global__ void __launch_bounds__(32) control_seed_bf16(const kx::Control* control, kx::bf16* root_grad) {
    if (threadIdx.x == 0) *root_grad = kx::narrow<kx::bf16>(control->seed_grad);
}
KX_EXPORT(control_seed_bf16)
