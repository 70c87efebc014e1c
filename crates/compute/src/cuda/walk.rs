//! Runs a plan's steps on a device. The first run of a pass starts every kernel by itself, which compiles and loads them; the second is
//! recorded as a graph; from then on a pass is one call.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::arena::{DeviceArena, Side};
use super::gpu::Gpu;
use super::memory::Event;
use super::run::{GradSet, Grid, Kernel, Kind, Ptr, Run, Set, args, launch};
use crate::exec::{Cx, StepKey};
use crate::plan::{Act, Plan, Step, StepKind};
use crate::{Arena, DType, Error, Grads, Layout, Params};

/// A pass that can be started again as it was: same addresses, same switches.
#[derive(Default)]
pub(super) enum Recorded {
    #[default]
    Never,
    /// Ran once with this key.
    Seen(Vec<u64>),
    Graph(Vec<u64>, Graph),
}

/// An executable graph.
pub(super) struct Graph {
    exec: sys::CUgraphExec,
    gpu: Arc<Gpu>,
}

// SAFETY: a handle of the driver with one owner.
unsafe impl Send for Graph {}
// SAFETY: as above; it is started under the device's queue lock.
unsafe impl Sync for Graph {}

impl Graph {
    /// Records what `start` starts, instead of running it.
    fn record(gpu: &Arc<Gpu>, start: impl FnOnce() -> Result<(), Error>) -> Result<Graph, Error> {
        // SAFETY: the stream is the device's; the graph is destroyed once it has been made executable.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            gpu.ok("cuStreamBeginCapture", result::stream::begin_capture(gpu.stream, mode))?;
            let started = start();
            let graph = result::stream::end_capture(gpu.stream);
            started?;
            let graph = gpu.ok("recording a pass", graph)?;
            let mut exec = std::ptr::null_mut();
            let made = sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0).result();
            gpu.ok("cuGraphDestroy", result::graph::destroy(graph))?;
            gpu.ok("making a pass executable", made)?;
            Ok(Graph { exec, gpu: gpu.clone() })
        }
    }

    fn start(&self) -> Result<(), Error> {
        // SAFETY: the graph lives; the addresses in it are those of its key, whose owners are borrowed for this run.
        self.gpu.ok("starting a pass", unsafe { result::graph::launch(self.exec, self.gpu.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_turn) = self.gpu.enter() {
            // SAFETY: nobody else has it.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}

/// Parameter sets as kernels see them.
fn sets<'a>(gpu: &Arc<Gpu>, params: &[&'a Params], dtype: DType) -> Result<Vec<Set<'a>>, Error> {
    let of = |p: &&'a Params| {
        let shadow = if dtype == DType::Bf16 { p.shadow(gpu)? } else { 0 };
        Ok(Set { params: p, masters: p.on_device(gpu)?, shadow })
    };
    params.iter().map(of).collect()
}

/// What a pass runs with, once it has the device's queue.
struct Started<'a> {
    sets: Vec<Set<'a>>,
    grads: Option<GradSet<'a>>,
    train: bool,
}

/// The device of an arena that lies on one.
fn device_of(cx: &Cx) -> Arc<Gpu> {
    cx.arena.device().expect("chosen by the caller").gpu().clone()
}

/// Brings inputs, parameters and what changes from step to step to the device; by the one who has its queue.
fn start<'a>(cx: &mut Cx<'a>, gpu: &Arc<Gpu>, inputs: Side) -> Result<Started<'a>, Error> {
    gpu.check()?;
    let arena = cx.arena.device_mut().expect("chosen by the caller");
    arena.forget();
    arena.take_inputs(inputs)?;
    let sets = sets(gpu, cx.params, arena.dtype())?;
    set_control(arena, cx.key, cx.seed_grad)?;
    Ok(Started { sets, grads: None, train: cx.train })
}

/// Gradients about to be written on the device.
fn grad_set<'a>(gpu: &Arc<Gpu>, grads: &mut Grads, layout: &'a Layout) -> Result<GradSet<'a>, Error> {
    Ok(GradSet { layout, fresh: grads.fresh, address: grads.on_device_mut(gpu)? })
}

impl Plan {
    pub(crate) fn forward_cuda(&self, cx: &mut Cx) -> Result<(), Error> {
        let gpu = device_of(cx);
        let _turn = gpu.enter()?;
        let started = start(cx, &gpu, Side::Value)?;
        self.pass(cx.arena.device_mut().expect("chosen by the caller"), &started, &self.forward)
    }

    /// The same, step by step; `behind` is called after each.
    pub(crate) fn forward_watching_cuda(&self, cx: &mut Cx, watched: &[Act], mut behind: impl FnMut(&Step, &Arena)) -> Result<(), Error> {
        let gpu = device_of(cx);
        let _turn = gpu.enter()?;
        let started = start(cx, &gpu, Side::Value)?;
        for step in &self.forward {
            let arena = cx.arena.device_mut().expect("chosen by the caller");
            self.step(arena, &started, step)?;
            watched.iter().for_each(|act| arena.forget_value(*act));
            behind(step, cx.arena);
        }
        Ok(())
    }

    pub(crate) fn backward_cuda(&self, cx: &mut Cx, grads: &mut Grads) -> Result<(), Error> {
        let gpu = device_of(cx);
        let _turn = gpu.enter()?;
        let layout = grads.layout().clone();
        let grads = grad_set(&gpu, grads, &layout)?;
        let Started { sets, train, .. } = start(cx, &gpu, Side::Grad)?;
        let started = Started { sets, grads: Some(grads), train };
        self.pass(cx.arena.device_mut().expect("chosen by the caller"), &started, &self.backward)
    }

    /// Both passes step by step, with the seconds each step takes on the device.
    pub(crate) fn profile_cuda(&self, cx: &mut Cx, grads: &mut Grads) -> Result<Vec<f64>, Error> {
        self.check(cx)?;
        self.check_grads(cx, grads)?;
        let gpu = device_of(cx);
        let _turn = gpu.enter()?;
        let forward = start(cx, &gpu, Side::Value)?;
        let layout = grads.layout().clone();
        let of_grads = grad_set(&gpu, grads, &layout)?;
        let backward = Started { sets: forward.sets.clone(), grads: Some(of_grads), train: forward.train };
        let arena = cx.arena.device_mut().expect("moved to its device by the check");
        let events = (0..=self.forward.len() + self.backward.len()).map(|_| Event::timing(&gpu)).collect::<Result<Vec<_>, _>>()?;
        events[0].record(&gpu, gpu.stream)?;
        let steps = self.forward.iter().map(|s| (s, &forward)).chain(self.backward.iter().map(|s| (s, &backward)));
        for (i, (step, started)) in steps.enumerate() {
            if i == self.forward.len() {
                self.begin_backward(arena, &gpu, of_grads)?;
            }
            self.step(arena, started, step)?;
            events[i + 1].record(&gpu, gpu.stream)?;
        }
        grads.fresh = false;
        gpu.synchronise()?;
        events.windows(2).map(|pair| pair[0].seconds_to(&gpu, &pair[1])).collect()
    }

    /// A pass: as a graph, if it has run as it is now before.
    fn pass(&self, arena: &mut DeviceArena, started: &Started, steps: &[Step]) -> Result<(), Error> {
        let grads = started.grads;
        let mut key: Vec<u64> = started.sets.iter().flat_map(|s| [s.masters, s.shadow]).collect();
        key.extend([u64::from(started.train), grads.map_or(0, |g| g.address), u64::from(grads.is_some_and(|g| g.fresh))]);
        let slot = usize::from(grads.is_some());
        match std::mem::take(&mut arena.recorded[slot]) {
            Recorded::Graph(of, graph) if of == key => {
                let answer = graph.start();
                arena.recorded[slot] = Recorded::Graph(of, graph);
                answer
            }
            Recorded::Seen(of) if of == key => {
                let gpu = arena.gpu.clone();
                let graph = Graph::record(&gpu, || self.steps(arena, started, steps))?;
                graph.start()?;
                arena.recorded[slot] = Recorded::Graph(key, graph);
                Ok(())
            }
            _ => {
                arena.recorded[slot] = Recorded::Seen(key);
                self.steps(arena, started, steps)
            }
        }
    }

    fn steps(&self, arena: &mut DeviceArena, started: &Started, steps: &[Step]) -> Result<(), Error> {
        if let Some(grads) = started.grads {
            self.begin_backward(arena, &arena.gpu, grads)?;
        }
        steps.iter().try_for_each(|step| self.step(arena, started, step))
    }

    fn step(&self, arena: &mut DeviceArena, started: &Started, step: &Step) -> Result<(), Error> {
        let mut run = Run {
            gpu: &arena.gpu,
            arena: arena.memory.address(),
            places: &arena.places,
            scratch: arena.scratch.address(),
            control: arena.control.address(),
            tables: &mut arena.tables,
            sets: &started.sets,
            grads: started.grads,
            step,
            backward: started.grads.is_some(),
            train: started.train,
            // What the scheduler was not told of may have been overwritten.
            readable: match step.kind {
                StepKind::Backward { .. } if cfg!(debug_assertions) => Some(self.ops[step.op].wiring().backward_reads),
                _ => None,
            },
        };
        match step.kind {
            StepKind::Backward { .. } => self.ops[step.op].backward_cuda(&mut run),
            _ => self.ops[step.op].forward_cuda(&mut run),
        }
    }

    /// The roots' gradients, and zeros for parameters that no step delivers to.
    fn begin_backward(&self, arena: &DeviceArena, gpu: &Gpu, grads: GradSet) -> Result<(), Error> {
        for root in &self.roots {
            let place = &arena.places[root.index as usize];
            if let Some(at) = place.grad {
                let to = Ptr { address: arena.memory.address() + at as u64, kind: place.kind };
                let control = Ptr { address: arena.control.address(), kind: Kind::F32 };
                launch(gpu, Kernel::of("control", "control_seed", to.kind), Grid::line(1), 32, 0, &args![control, to])?;
            }
        }
        for p in self.untouched.iter().filter(|_| grads.fresh) {
            let range = grads.layout.range(*p);
            let at = grads.address + (range.start * size_of::<f32>()) as u64;
            // SAFETY: the range is the parameter's in the gradients' buffer.
            let answer = unsafe { result::memset_d8_async(at, 0, range.len() * size_of::<f32>(), gpu.stream) };
            gpu.ok("cuMemsetD8Async", answer)?;
        }
        Ok(())
    }
}

/// Writes what changes from step to step to the device, behind the work of the step before.
fn set_control(arena: &DeviceArena, key: StepKey, seed_grad: f64) -> Result<(), Error> {
    let control = Ptr { address: arena.control.address(), kind: Kind::F32 };
    let args = args![control, key.seed, key.step, key.first_sample, key.view, seed_grad as f32];
    launch(&arena.gpu, Kernel::plain("control", "control_set"), Grid::line(1), 32, 0, &args)
}
