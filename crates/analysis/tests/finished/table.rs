//! A table's run with tiny fine-tuned models, and what is measured on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fd_compute::Device;
use fd_distill::config::{self, Source};
use fd_distill::graph::{self, Graph, Listener, NodeId, Options, Store};
use fd_distill::run_dir::RunDir;
use fd_distill::status::{PlannedStage, RunPlan};
use fd_distill::table::{Builder, Context, MODELS, TableConfig, WEIGHTS};
use fd_distill::train::StepReport;

use super::Scratch;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/tables/swin.toml");
const SMALL: &str = r#"
    columns=["fine-tune-6000"]
    ensembles=[]
    data.train_per_class=6
    data.test_per_class=4
    student.embed_dim=8
    student.num_heads=[1, 2]
    student.rpe_hidden_dim=8
    teachers.0.model.embed_dim=8
    teachers.0.model.num_heads=[1, 2]
    teachers.1.model.embed_dim=16
    teachers.1.model.depth=2
    teachers.1.model.num_heads=2
    teachers.0.pretrain.train.recipe.batch=20
    teachers.0.pretrain.train.recipe.epochs=1
    teachers.0.pretrain.train.recipe.warmup_epochs=0.5
    teachers.1.pretrain.train.recipe.batch=20
    teachers.1.pretrain.train.recipe.epochs=1
    teachers.1.pretrain.train.recipe.warmup_epochs=0.5
    distil.recipe.batch=20
    distil.recipe.epochs=1
    fine_tune.0.train.recipe.batch=20
    fine_tune.0.train.recipe.epochs=4
    fine_tune.0.from_scratch.recipe.batch=20
    fine_tune.0.from_scratch.recipe.epochs=1
    fine_tune.0.from_scratch.recipe.warmup_epochs=0.5
"#;

struct Silent;

impl Listener for Silent {
    fn begins(&self, _: NodeId) {}
    fn resumes(&self, _: NodeId, _: usize) {}
    fn step(&self, _: NodeId, _: &StepReport) {}
    fn ends(&self, _: NodeId, _: &[(String, f64)]) {}
}

/// The table in `run`: rows of a Swin v1, a Swin v2 and a ViT, fine-tuned.
pub fn make(run: &Path) {
    let sets: Vec<String> = SMALL.lines().map(|l| l.trim().to_string()).filter(|l| !l.is_empty()).collect();
    let (config, resolved) = config::load::<TableConfig>(&Source::File(CONFIG.into()), &sets).unwrap();
    let name = config.name.clone();
    let context = Arc::new(Context::new(config, Device::CPU).unwrap());
    let mut graph = Graph::default();
    let plan = Builder::new(&mut graph, true).table(&context).unwrap();
    let store = Store::new(run.join("stages"));
    let options = Options { jobs: 2, threads: 2, checkpoint_every: Duration::from_secs(3600) };
    graph::run(&graph, &store, &plan.targets(), options, &Silent).unwrap();
    let dir = RunDir::create(run).unwrap();
    dir.write_config(&resolved).unwrap();
    let models = plan.models();
    models.iter().for_each(|(model, id)| dir.link(&model.file, &store.dir(graph.node(*id)).join(WEIGHTS)).unwrap());
    let listed: Vec<_> = models.iter().map(|(model, _)| model).collect();
    dir.write(MODELS, &serde_json::to_vec(&listed).unwrap()).unwrap();
    dir.write("table.json", &serde_json::to_vec(&plan.result(&graph, &store).unwrap()).unwrap()).unwrap();
    let stage = |id| {
        let node = graph.node(id);
        PlannedStage { dir: node.dir(), title: node.spec.title.clone(), steps: node.spec.steps }
    };
    RunPlan { name, store: None, stages: graph.ids().map(stage).collect() }.write(run).unwrap();
}

const ROWS: [&str; 3] = ["Swin, supervised", "Swin, supervised + FD", "ViT, supervised"];
const LITTLE: [&str; 10] = ["--radius", "0.5", "--directions", "3", "--hessian-iterations", "3", "--hessian-vectors", "2", "--batch", "16"];

#[test]
fn models_of_a_run_are_compared() {
    let s = Scratch::new("run");
    make(&s.path("run"));
    let rows: Vec<&str> = ROWS.iter().flat_map(|row| ["--row", row]).collect();
    let with = |out: &str, more: &[&str]| {
        let head = ["--run", "run", "--out", out, "--dims", "1", "--points", "5", "--images", "0", "--seeds", "0,7"];
        s.says(&[&head[..], &rows, &LITTLE, more].concat())
    };
    let said = with("one", &["--threads", "1"]);
    assert!(said.starts_with("40 images of fashion-mnist test\n") && said.ends_with("Written to one\n"), "{said}");
    let one = s.files("one");
    assert_eq!(one.keys().collect::<Vec<_>>(), ["config.toml", "landscape.csv", "landscape.json", "sharpness.csv"]);
    assert!(one["landscape.csv"].starts_with("model,seed,a,b,loss,accuracy\n\"Swin, supervised\",0,-1,0,"), "{}", one["landscape.csv"]);
    with("two", &["--threads", "2"]);
    assert_eq!(s.files("two"), one, "threads do not matter");

    let all = s.landscape("one");
    assert_eq!((all.points.len(), all.report.models.len()), (3 * 2 * 5, 3));
    for (model, row) in all.report.models.iter().zip(ROWS) {
        assert_eq!((model.name.as_str(), model.model.num_classes(), model.sha256.len()), (row, 10, 64));
        let of = |seed| all.points.iter().filter(move |p| p.model == row && p.seed == seed).collect::<Vec<_>>();
        let (first, second) = (of(0), of(7));
        assert_eq!(first.iter().map(|p| (p.a, p.b)).collect::<Vec<_>>(), [-1.0, -0.5, 0.0, 0.5, 1.0].map(|a| (a, 0.0)));
        assert!(first[2].loss == second[2].loss && first[1].loss != second[1].loss);
        assert_eq!(first[2].accuracy, accuracy(&s, row), "the middle is what the run measured");
        let quantities = all.sharpness.iter().filter(|q| q.model == row).map(|q| (q.seed, q.quantity.as_str(), q.radius, q.samples));
        let increase = |seed| [(seed, "loss_increase", Some(0.5), 3.0), (seed, "accuracy_decrease", Some(0.5), 3.0)];
        let h = |name, n| (0, name, None, n);
        let curvature = [h("gradient_norm", 1.0), h("hessian_largest", 3.0), h("hessian_smallest", 3.0), h("hessian_trace", 2.0)];
        assert_eq!(quantities.collect::<Vec<_>>(), [&increase(0)[..], &increase(7), &curvature].concat());
    }
    // Other images, the same images as the fine-tuning saw some of them, other tensors: other numbers in the middle or beside it.
    let little = |out: &str, more: &[&str]| {
        let head = ["--run", "run", "--row", ROWS[2], "--out", out, "--points", "3", "--images", "20", "--seeds", "0", "--directions", "0"];
        s.says(&[&head[..], &["--hessian-iterations", "0", "--hessian-vectors", "0"], more].concat());
        let losses: Vec<f64> = s.landscape(out).points.iter().map(|p| p.loss).collect();
        assert_eq!(losses.len(), 9);
        losses
    };
    let plain = little("plain", &[]);
    assert_ne!(little("seed", &["--image-seed", "1"])[4], plain[4]);
    let train = little("train", &["--split", "train"]);
    assert!(train[4] != plain[4] && little("augment", &["--split", "train", "--augment"])[4] != train[4]);
    for (i, other) in
        [&["--tensors", "blocks.*"][..], &["--filter", "tensor"], &["--orthogonal"], &["--range", "0.5"]].into_iter().enumerate()
    {
        let moved = little(&format!("other-{i}"), other);
        assert!(moved[4] == plain[4] && moved != plain, "{other:?}");
    }
    assert!(s.files("plain")["sharpness.csv"].lines().count() == 1);
}

/// A row's accuracy as the table has it.
fn accuracy(s: &Scratch, row: &str) -> f64 {
    let plan = RunPlan::read(&s.path("run")).unwrap();
    let title = format!("fine-tune-6000 {row}, seed 0");
    let stage = plan.stages.iter().find(|stage| stage.title == title).unwrap();
    let done = std::fs::read(plan.stage_dir(&s.path("run"), stage).join("done.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&done).unwrap()["accuracy"]["fine-tune-6000"].as_f64().unwrap()
}
