//! A training step allocates nothing: teacher, student, loss, clipping and AdamW, counted by the allocator. The matrix library's packing
//! buffers are its own and not counted. One test, since the counter is the process's.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use fd_compute::optim::{AdamW, clip_factor, grad_norm};
use fd_compute::{Arena, Cx, DType, Device, Grads, Params, StepKey, inside_gemm_library};
use fd_distill::Objective;
use fd_distill::distillation::{Distillation, Engine, Projector};
use fd_distill::groups::Rates;
use fd_distill::schedule::Cosine;
use fd_model::{Activation, Head, Init, ModelConfig, Position, QkvBias, VitConfig, initialise};

struct Counting;
static ON: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        if ON.load(SeqCst) && !inside_gemm_library() {
            COUNT.fetch_add(1, SeqCst);
        }
        unsafe { System.alloc(memory) }
    }
    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn vit(student: bool) -> VitConfig {
    VitConfig {
        img_size: (28, 28),
        patch_size: 7,
        in_chans: 1,
        embed_dim: 48,
        depth: 2,
        num_heads: 3,
        mlp_ratio: 4.0,
        position: if student { Position::SharedRelative } else { Position::Absolute },
        qkv_bias: if student { QkvBias::Qv } else { QkvBias::Full },
        layer_scale: student.then_some(0.1),
        cls_token: true,
        activation: Activation::Gelu,
        ln_eps: 1e-6,
        head: Head::Features,
        num_classes: 0,
        drop_path_rate: if student { 0.1 } else { 0.0 },
        ..VitConfig::default()
    }
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next());
    line.and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

#[test]
fn a_training_step_allocates_nothing_and_memory_stays_flat() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    pool.install(|| {
        let (student, teacher): (ModelConfig, ModelConfig) = (vit(true).into(), vit(false).into());
        let fd = Distillation::new(&student, &teacher, Projector::Linear {}, Objective::PAPER).expect("a pair");
        let step = fd.plan(8, Engine::Fused).expect("a plan");
        let (mut trained, mut frozen) = (Params::new(&fd.trained, DType::F32), Params::new(&fd.frozen[0], DType::F32));
        initialise(&mut trained, "", &student, Init::Xavier, 0);
        initialise(&mut frozen, "", &teacher, Init::Xavier, 1);
        let (mut grads, mut arena) = (Grads::new(&fd.trained, DType::F32), Arena::new(&step.plan, DType::F32));
        arena.value_mut::<f32>(step.images).iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 / 8.0 - 1.0);
        let mut adam = AdamW::new(&fd.trained, DType::F32, (0.9, 0.999), 1e-8);
        let schedule = Cosine { base_lr: 1e-3, warmup_lr: 1e-5, min_lr: 1e-5, steps: 200, warmup_steps: 10 };
        let mut rates = Rates::new(&fd.trained, 0.05, 1.0, schedule);
        let (mut early, mut windows) = (0, vec![]);
        for i in 0..u64::MAX {
            if i == 10 {
                early = resident_kb();
            }
            // A thread takes its scratch memory when it first gets such work, which on a busy machine may be late. Then 150 steps in a
            // row have to pass without any allocation.
            if i > 50 && i % 50 == 0 {
                windows.push(COUNT.swap(0, SeqCst));
                if windows.ends_with(&[0; 3]) || windows.len() == 20 {
                    break;
                }
            }
            ON.store(i >= 50, SeqCst);
            let sets = [&trained, &frozen];
            let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey { step: i, ..StepKey::default() });
            step.plan.forward(&mut cx).expect("forward");
            grads.reset();
            step.plan.backward(&mut cx, &mut grads).expect("backward");
            let clip = clip_factor(grad_norm(&grads), Some(3.0));
            adam.step(&mut trained, &grads, rates.update(i as usize), clip).expect("a step");
            ON.store(false, SeqCst);
        }
        assert!(windows.ends_with(&[0; 3]), "no 150 steps without allocations; in each 50: {windows:?}");
        // The matrix library's buffers come and go: a little slack for the system's allocator.
        let late = resident_kb();
        assert!(late <= early + 1024, "resident memory grew from {early} kB at step 10 to {late} kB at the end");
    });
}
