//! What a plan says a training step costs, and what it costs: memory counted by the allocator, operations by formulas of their own.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use fd_compute::optim::{AdamW, clip_factor, grad_norm};
use fd_compute::{Arena, Cx, DType, Device, Grads, Params, StepKey, inside_gemm_library};
use fd_distill::Objective;
use fd_distill::distillation::{Distillation, DistillationPlan, Engine, Projector};
use fd_distill::groups::Rates;
use fd_distill::schedule::Cosine;
use fd_model::{Init, ModelConfig, SwinAttention, SwinConfig, SwinPosition, VitConfig, initialise, preset};

/// Counts the bytes that are alive of what was allocated while it is on, but for the matrix library's packing buffers, which are its own
/// (and known in builds with debug assertions only).
struct Counting;
static ON: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    if ON.load(SeqCst) && !inside_gemm_library() {
        let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
        PEAK.fetch_max(live, SeqCst);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        count(memory.size() as isize);
        unsafe { System.alloc(memory) }
    }
    unsafe fn alloc_zeroed(&self, memory: Memory) -> *mut u8 {
        count(memory.size() as isize);
        unsafe { System.alloc_zeroed(memory) }
    }
    unsafe fn realloc(&self, at: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        count(size as isize - memory.size() as isize);
        unsafe { System.realloc(at, memory, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        count(-(memory.size() as isize));
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counter is the process's, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn vit_pair() -> [ModelConfig; 2] {
    let teacher = VitConfig { img_size: (32, 32), patch_size: 4, embed_dim: 96, depth: 4, num_heads: 3, ..VitConfig::default() };
    let teacher = ModelConfig::from(teacher);
    [teacher.student().with_drop_path(0.1), teacher]
}

fn swin_pair() -> [ModelConfig; 2] {
    let mini = |base| SwinConfig {
        img_size: (32, 32),
        patch_size: 2,
        embed_dim: 48,
        depths: vec![2, 2],
        num_heads: vec![2, 4],
        window_size: 4,
        drop_path_rate: 0.1,
        rpe_hidden_dim: 64,
        ..base
    };
    let teacher = SwinConfig { drop_path_rate: 0.0, ..mini(SwinConfig::default()) };
    [mini(SwinConfig::version_2()).into(), teacher.into()]
}

fn pair([student, teacher]: &[ModelConfig; 2]) -> Distillation {
    Distillation::new(student, teacher, Projector::Linear {}, Objective::PAPER).expect("a pair")
}

/// Everything that training holds, and two steps of it; the bytes that are alive at its end.
fn train(models: &[ModelConfig; 2], fd: &Distillation, step: &DistillationPlan) -> isize {
    let (mut trained, mut frozen) = (Params::new(&fd.trained, DType::F32), Params::new(&fd.frozen[0], DType::F32));
    // Initial values pass through doubles, a parameter at a time, before there is anything else.
    initialise(&mut trained, "encoder.", &models[0], Init::Xavier, 0);
    initialise(&mut frozen, "", &models[1], Init::Xavier, 1);
    let (mut grads, mut arena) = (Grads::new(&fd.trained, DType::F32), Arena::new(&step.plan, DType::F32));
    arena.value_mut::<f32>(step.images).iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 / 8.0 - 1.0);
    let mut adam = AdamW::new(&fd.trained, DType::F32, (0.9, 0.999), 1e-8);
    let schedule = Cosine { base_lr: 1e-3, warmup_lr: 1e-3, min_lr: 1e-5, steps: 2, warmup_steps: 0 };
    let mut rates = Rates::new(&fd.trained, 0.05, 1.0, schedule);
    for i in 0..2 {
        let sets = [&trained, &frozen];
        let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey { step: i, ..StepKey::default() });
        step.plan.forward(&mut cx).expect("forward");
        grads.reset();
        step.plan.backward(&mut cx, &mut grads).expect("backward");
        let clip = clip_factor(grad_norm(&grads), Some(3.0));
        adam.step(&mut trained, &grads, rates.update(i as usize), clip).expect("a step");
    }
    LIVE.load(SeqCst)
}

/// Memory as a table prices its stages: the arena, trained parameters four times (values, gradients, two moments), frozen
/// ones once. Parameters are counted as the model has them; in memory each begins on a cache line, which is the difference seen here,
/// beside the lists of what lies where.
#[test]
fn memory_is_what_the_plan_says() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    for (name, models) in [("ViT", vit_pair()), ("Swin", swin_pair())] {
        let fd = pair(&models);
        let step = fd.plan(16, Engine::Fused).expect("a plan");
        let planned = 4 * (step.plan.cost().arena_elements + 4 * fd.trained.count() + fd.frozen[0].count());
        // Once uncounted: every thread then has its scratch memory, which it keeps.
        pool.install(|| train(&models, &fd, &step));
        LIVE.store(0, SeqCst);
        PEAK.store(0, SeqCst);
        ON.store(true, SeqCst);
        let live = pool.install(|| train(&models, &fd, &step));
        ON.store(false, SeqCst);
        let share = |bytes: isize| bytes as f64 / planned as f64;
        let peak = PEAK.load(SeqCst);
        println!("{name}: planned {planned} bytes, alive {:.5} of it, at most {:.5}", share(live), share(peak));
        assert!((share(live) - 1.0).abs() < 0.01, "{name}: {live} bytes alive, {planned} planned");
        // Elsewhere the packing buffers are counted with it.
        if cfg!(debug_assertions) {
            assert!((share(peak) - 1.0).abs() < 0.01, "{name}: at most {peak} bytes alive, {planned} planned");
        }
    }
}

/// Operations of matrix products, forward and backward.
#[derive(Clone, Copy, Debug, Default)]
struct Products {
    forward: f64,
    backward: f64,
}

impl Products {
    /// A layer over so many rows: y = x Wᵀ; dW, and dx unless x is an input.
    fn linear(&mut self, rows: usize, inputs: usize, outputs: usize, dx: bool) {
        let once = 2.0 * (rows * inputs * outputs) as f64;
        self.forward += once;
        self.backward += once * f64::from(1 + u8::from(dx));
    }

    /// Every one of so many tokens attends to `seen`, at a width over all heads: scores and their sum of values; in the backward pass
    /// the scores again, dP, dV, dQ and dK.
    fn attention(&mut self, tokens: usize, seen: usize, width: usize) {
        let product = 2.0 * (tokens * seen * width) as f64;
        self.forward += 2.0 * product;
        self.backward += 5.0 * product;
    }

    fn block(&mut self, tokens: usize, seen: usize, width: usize, hidden: usize) {
        self.linear(tokens, width, 3 * width, true);
        self.attention(tokens, seen, width);
        self.linear(tokens, width, width, true);
        self.linear(tokens, width, hidden, true);
        self.linear(tokens, hidden, width, true);
    }

    /// An encoder of a batch.
    fn encoder(&mut self, config: &ModelConfig, batch: usize) {
        match config {
            ModelConfig::Vit(c) => {
                let (h, w) = c.grid();
                self.linear(batch * h * w, c.in_chans * c.patch_size.pow(2), c.embed_dim, false);
                let seen = h * w + usize::from(c.cls_token);
                (0..c.depth).for_each(|_| self.block(batch * seen, seen, c.embed_dim, 4 * c.embed_dim));
            }
            ModelConfig::Swin(c) => {
                let (h, w) = (c.img_size.0 / c.patch_size, c.img_size.1 / c.patch_size);
                self.linear(batch * h * w, c.in_chans * c.patch_size.pow(2), c.embed_dim, false);
                for (s, depth) in c.depths.iter().enumerate() {
                    let (h, w, width) = (h >> s, w >> s, c.embed_dim << s);
                    let side = c.window_size.min(h).min(w);
                    for _ in 0..*depth {
                        self.block(batch * h * w, side * side, width, 4 * width);
                        if c.position == SwinPosition::Mlp {
                            let offsets = (2 * side - 1).pow(2);
                            self.linear(offsets, 2, c.rpe_hidden_dim, false);
                            self.linear(offsets, c.rpe_hidden_dim, c.num_heads[s], true);
                        }
                    }
                    if s + 1 < c.depths.len() {
                        self.linear(batch * h * w / 4, 4 * width, 2 * width, true);
                    }
                }
            }
        }
    }
}

/// The forward products of a student's blocks that the backward pass computes again: of a version 2 Swin all, since each branch ends in a
/// norm, whose input it needs; of a ViT without LayerScale all but the last of the MLP, whose output nothing reads again.
fn again(config: &ModelConfig, batch: usize) -> f64 {
    let (mut blocks, mut last) = (Products::default(), Products::default());
    match config {
        ModelConfig::Vit(c) => {
            for _ in 0..c.depth {
                blocks.block(batch * c.tokens(), c.tokens(), c.embed_dim, 4 * c.embed_dim);
                last.linear(batch * c.tokens(), 4 * c.embed_dim, c.embed_dim, true);
            }
        }
        ModelConfig::Swin(c) => {
            for (s, depth) in c.depths.iter().enumerate() {
                let ((h, w), width) = (c.map_of(s), c.width_of(s));
                (0..*depth).for_each(|_| blocks.block(batch * h * w, c.window_of((h, w)).pow(2), width, 4 * width));
            }
        }
    }
    blocks.forward - last.forward
}

/// Models so wide that what is not a matrix product is less than a hundredth: the plan counts that too, and so may count more, but not
/// less.
#[test]
fn operations_are_what_the_plan_says() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const BATCH: usize = 2;
    let of = |name: &str| preset(name).expect("a preset");
    let pairs = [[of("vit-large"), of("vit-huge")], [of("swinv2-g"), of("swinv2-l")]];
    for models in pairs {
        let [student, teacher] = &models;
        if let ModelConfig::Swin(c) = student {
            assert!(c.attention == SwinAttention::Cosine && c.position == SwinPosition::Mlp);
        }
        let (mut seen, mut learnt) = (Products::default(), Products::default());
        seen.encoder(teacher, BATCH);
        learnt.encoder(student, BATCH);
        learnt.linear(BATCH * student.tokens(), student.width(), teacher.width(), true);
        for recompute in [false, true] {
            let step = pair(&models).with_recompute(recompute).plan(BATCH, Engine::Fused).expect("a plan");
            let cost = step.plan.cost();
            let backward = learnt.backward + if recompute { again(student, BATCH) } else { 0.0 };
            for (pass, planned, counted) in
                [("forward", cost.forward_flops, seen.forward + learnt.forward), ("backward", cost.backward_flops, backward)]
            {
                let ratio = planned as f64 / counted;
                println!("{}, recompute {recompute}, {pass}: planned {:.5} of {counted:.4e}", student.kind(), ratio);
                assert!((1.0..1.01).contains(&ratio), "{}, {pass}: {planned} planned, {counted} counted", student.kind());
            }
        }
    }
}
