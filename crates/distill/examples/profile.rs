//! Times one training step, operation by operation.
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let threads = a.get(2).map_or(2, |t| t.parse().unwrap());
    let steps = a.get(3).map_or(10, |t| t.parse().unwrap());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let options = fd_distill::bench::BenchOptions { preset: a[1].parse().unwrap(), batch: None, steps, warmup: 2, device: Default::default() };
    println!("{}", pool.install(|| fd_distill::bench::fd_step(&options)).unwrap());
}
