//! Runs a table.
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let config: fd_distill::table::TableConfig = toml::from_str(&std::fs::read_to_string(&a[1]).unwrap()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut last = String::new();
    let t = std::time::Instant::now();
    let r = pool.install(|| {
        fd_distill::table::run(&config, Default::default(), &mut |s, seed, r| {
            if s != last { last = s.to_string(); }
            if r.step == r.steps || r.step % 500 == 0 {
                println!("{:.1}s {s} seed {seed} step {}/{} loss {:.4} lr {:.2e} norm {:.3} {:.0} im/s", t.elapsed().as_secs_f64(), r.step, r.steps, r.loss, r.lr, r.grad_norm, r.images_per_second);
            }
        })
    });
    println!("{:#?} {:.1}s rss {} MB", r.unwrap(), t.elapsed().as_secs_f64(), fd_distill::bench::peak_rss_mb());
}
