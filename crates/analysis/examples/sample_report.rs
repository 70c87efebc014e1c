//! Writes a report of made-up numbers, to look at and to be opened by the browser test: `cargo run -p fd-analysis --example sample_report DIR`.
//!
//! Attention is a Gaussian of the distance, wider from head to head. The first head of the first layer of a ViT is one that a test can compute: half of
//! its attention stays, half is spread evenly.

use std::path::PathBuf;
use std::process::ExitCode;

use fd_analysis::report::observations::{Evidence, Flatness, LayerNumbers, ModelNumbers, Positions, Stage, TeacherKind, observe, summary};
use fd_analysis::report::{Explorer, ExplorerImage, ExplorerLayer, ExplorerModel, Picture, Report, Section, SpecialTokens, Table};
use fd_distill::Error;

/// Pixels of the images' sides.
const SIDE: usize = 56;
/// Before the patches of the ViTs.
const SPECIAL: SpecialTokens = SpecialTokens { cls: true, registers: 2 };

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: sample_report DIR");
        return ExitCode::from(2);
    };
    // Dark blue to pale yellow.
    let colour =
        |share: f64| [(24.0, 250.0), (20.0, 240.0), (90.0, 150.0)].map(|(from, to): (f64, f64)| (from + share * (to - from)) as u8);
    match report().and_then(|r| r.write(&folder.join("report.html"), &colour)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn report() -> Result<Report, Error> {
    let observations = observe(&evidence());
    let summary = summary(&observations);
    let section = |heading: &str, prose: &[&str]| {
        let prose = prose.iter().map(|p| p.to_string()).collect();
        Section { heading: heading.into(), prose, ..Section::default() }
    };
    let facts = [
        ("Commit", "0123456789abcdef0123456789abcdef01234567"),
        ("Machine", "a sample machine & its 2 cores <AVX-512>"),
        ("Command", "cargo run -p fd-analysis --example sample_report target/report --with \"every key\" --set distil.recipe.epochs=40"),
        ("Data", "drawn shapes, 2 images of 56 pixels"),
        ("Seeds", "0, 1, 2"),
    ];
    Ok(Report {
        title: "Feature distillation: a sample report".into(),
        subtitle: "Every number here is made up; the page is what a run's page looks like.".into(),
        facts: facts.map(|(n, v)| (n.into(), v.into())).into(),
        sections: vec![
            Section { observations, ..section("What the paper observes, in this run", &[&summary]) },
            Section {
                tables: vec![table()],
                ..section("Accuracies", &["Fine-tuning and probes, mean ± standard deviation over three seeds."])
            },
            Section {
                pictures: vec![
                    picture("A figure of a page's width: training curves.", &curves()),
                    picture("A figure of a column's width: attention distance over depth.", &dots()),
                ],
                ..section("Figures", &[])
            },
            Section {
                explorer: Some(explorer()?),
                ..section("Attention explorer", &["What a patch attends to, before and after feature distillation."])
            },
        ],
    })
}

fn picture(caption: &str, svg: &str) -> Picture {
    Picture { svg: svg.into(), caption: caption.into() }
}

/// Curves that fall, as wide as a page of print.
fn curves() -> String {
    let colours = ["#0072B2", "#009E73", "#D55E00"];
    let line = |i: usize| {
        let y = |x: f64| 150.0 + 900.0 * (1.0 - (-x / (500.0 + 400.0 * i as f64)).exp()) + 20.0 * (x / 37.0 + i as f64).sin();
        let points: String = (0..=150).map(|k| f64::from(k) * 20.0).map(|x| format!("{:.0},{:.0} ", x + 300.0, y(x))).collect();
        let (colour, place) = (colours[i], 1150 + 500 * i);
        format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"8\"/>\
             <text x=\"{place}\" y=\"1340\" font-size=\"56\" font-family=\"DejaVu Sans, sans-serif\" fill=\"{colour}\">model {}</text>",
            i + 1
        )
    };
    let lines: String = (0..3).map(line).collect();
    sheet(174, 70, &format!("<path d=\"M280 100V1200H3340\" fill=\"none\" stroke=\"#191919\" stroke-width=\"4\"/>{lines}"))
}

/// Dots, as wide as a column of print.
fn dots() -> String {
    let dot = |i: usize| format!("<circle cx=\"{}\" cy=\"{}\" r=\"14\" fill=\"#0072B2\"/>", 200 + 120 * i, 700 - 45 * i + 60 * (i % 3));
    let text = "<text x=\"900\" y=\"860\" font-size=\"49\" font-family=\"DejaVu Sans, sans-serif\" text-anchor=\"middle\">layer</text>";
    let dots: String = (0..12).map(dot).collect();
    sheet(84, 45, &format!("<path d=\"M140 60V780H1640\" fill=\"none\" stroke=\"#191919\" stroke-width=\"4\"/>{dots}{text}"))
}

/// SVG of a size in millimetres; 20 units are one.
fn sheet(width: usize, height: usize, drawn: &str) -> String {
    let (w, h) = (20 * width, 20 * height);
    format!(
        "<svg width=\"{width}mm\" height=\"{height}mm\" viewBox=\"0 0 {w} {h}\" xmlns=\"http://www.w3.org/2000/svg\">\
         <rect width=\"{w}\" height=\"{h}\" fill=\"#FFFFFF\"/>{drawn}</svg>"
    )
}

fn table() -> Table {
    let rows = [
        ["DINO", "81.41 ± 0.55 (3)", "77.42 ± 0.28 (3)", "80.06 ± 0.03 (3)", "82.8 (published)"],
        ["DINO + FD", "81.48 ± 0.34 (3)", "77.36 ± 0.31 (3)", "78.52 ± 0.38 (3)", "83.8 (published)"],
        ["random weights, teacher architecture (control)", "79.24 ± 0.42 (3)", "74.56 ± 0.27 (3)", "70.03 ± 1.07 (3)", "–"],
    ];
    let head = ["encoder", "fine-tune, 6,000 labels", "fine-tune, 600 labels", "linear probe, CLS", "paper: fine-tune, ImageNet-1K"];
    Table {
        caption: "Accuracy in percent".into(),
        head: head.map(String::from).into(),
        rows: rows.map(|r| r.map(String::from).to_vec()).into(),
    }
}

/// Three teachers, each verdict among them.
fn evidence() -> Evidence {
    let model = |teacher: &str, kind, stage, spread: f64, seed: f64| {
        let layer = |d: f64| LayerNumbers {
            distances: vec![20.0 - d, 20.0, 20.0 + d],
            similarity: Some(0.9 - 0.05 * d),
            diagonal: Some(0.3 + 0.04 * d),
        };
        let layers = [1.0, 1.0, spread - 0.4, spread + 0.4].map(|d| layer(d + seed)).to_vec();
        let flatness = Some(Flatness { loss_increase: 1.5 - 0.1 * spread + seed, accuracy_drop: 12.0 - 0.1 * spread + 2.0 * seed });
        ModelNumbers { teacher: teacher.into(), kind, stage, layers, flatness }
    };
    let seeds = [-0.3, 0.1, 0.3];
    let teacher = |name: &str, kind, before: f64, after: f64| {
        let of = |stage, spread: f64| seeds.map(|s| model(name, kind, stage, spread, s));
        [of(Stage::Before, before), of(Stage::After, after)].concat()
    };
    let models = [
        teacher("DINO", TeacherKind::Contrastive, 3.0, 7.0),
        teacher("supervised", TeacherKind::Other, 4.0, 3.2),
        teacher("MAE", TeacherKind::Masked, 6.0, 6.3),
    ];
    let of = |spread: f64| seeds.map(|s| model("DINO", TeacherKind::Contrastive, Stage::After, spread, s)).to_vec();
    Evidence { models: models.concat(), radius: 0.5, positions: Some(Positions { absolute: of(4.0), shared: of(4.2) }) }
}

fn explorer() -> Result<Explorer, Error> {
    let images = vec![image("a shirt & its sleeves", shirt)?, image("a sun over hills", landscape)?];
    let models = vec![vit("DINO", 0.15, images.len())?, vit("DINO + FD", 0.45, images.len())?, swin(images.len())?];
    Explorer::new(images, models)
}

fn image(name: &str, pixel: fn(f64, f64) -> [u8; 3]) -> Result<ExplorerImage, Error> {
    let at = |i: usize| (i as f64 + 0.5) / SIDE as f64;
    let pixels: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| pixel(at(i % SIDE), at(i / SIDE))).collect();
    ExplorerImage::new(name, (SIDE, SIDE, 3), &pixels)
}

fn shirt(x: f64, y: f64) -> [u8; 3] {
    let body = (x - 0.5).abs() < 0.2 && (0.18..0.88).contains(&y);
    let sleeve = (0.18..0.45).contains(&y) && (x - 0.5).abs() < 0.2 + (0.45 - y);
    let neck = (x - 0.5).hypot(y - 0.16) < 0.1;
    let fold = (40.0 * (x + 0.2 * y)).sin() * 12.0;
    if (body || sleeve) && !neck { [190, 60, 70].map(|c: i32| (c + fold as i32).clamp(0, 255) as u8) } else { [238, 236, 230] }
}

fn landscape(x: f64, y: f64) -> [u8; 3] {
    if y > 0.62 + 0.12 * (9.0 * x).sin() {
        [60, (150.0 - 60.0 * y) as u8, 70]
    } else if (x - 0.7).hypot(y - 0.28) < 0.13 {
        [250, 214, 90]
    } else {
        [(150.0 - 60.0 * y) as u8, 190, 235]
    }
}

/// Rows that sum to one.
fn normalised(mut rows: Vec<f32>, n: usize) -> Vec<f32> {
    for row in rows.chunks_exact_mut(n) {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|a| *a /= sum);
    }
    rows
}

/// Patches of 8 pixels, four layers of four heads; `spread`: by how much heads differ in width.
fn vit(label: &str, spread: f32, images: usize) -> Result<ExplorerModel, Error> {
    let (grid, special) = (SIDE / 8, 3);
    let n = special + grid * grid;
    let place = |t: usize| (((t - special) / grid) as f32, ((t - special) % grid) as f32);
    let value = |layer: usize, head: usize, image: usize, q: usize, k: usize| -> f32 {
        if (layer, head) == (0, 0) {
            return 0.5 / n as f32 + if q == k { 0.5 } else { 0.0 };
        }
        if k < special || q < special {
            return if k == 0 { 0.8 } else { 0.1 + 0.1 * ((q * 3 + k + image) as f32).sin().abs() };
        }
        let ((a, b), (c, d)) = (place(q), place(k));
        let width = 0.6 + layer as f32 * 0.3 + spread * (head as f32 * 2.2);
        (-((a - c).powi(2) + (b - d).powi(2)) / (2.0 * width * width)).exp() + 0.04 * ((k * 7 + image * 5 + head) as f32).sin().abs()
    };
    let layer = |l: usize| {
        let mut layer = ExplorerLayer::new(&(l + 1).to_string(), 4, (grid, grid), SPECIAL, None)?;
        for image in 0..images {
            let all = (0..4 * n * n).map(|i| value(l, i / (n * n), image, i / n % n, i % n)).collect();
            layer.push(&normalised(all, n))?;
        }
        Ok(layer)
    };
    Ok(ExplorerModel { label: label.into(), layers: (0..4).map(layer).collect::<Result<_, Error>>()? })
}

/// Patches of 4 pixels in windows of 7 x 7; those of the second layer are shifted by 3.
fn swin(images: usize) -> Result<ExplorerModel, Error> {
    let (grid, side, n) = (14, 7, 49);
    let layer = |l: usize| {
        let token = |w: usize, i: usize| {
            let along = |window: usize, inside: usize| (window * side + inside + 3 * l) % grid;
            (along(w / 2, i / side) * grid + along(w % 2, i % side)) as u32
        };
        let windows = (0..4).map(|w| (0..n).map(|i| token(w, i)).collect()).collect();
        let mut layer = ExplorerLayer::new(&format!("{} (stage 1)", l + 1), 3, (grid, grid), SpecialTokens::default(), Some(windows))?;
        for image in 0..images {
            let value = |i: usize| {
                let (head, q, k) = (i / (n * n) % 3, i / n % n, i % n);
                let far = (q / side).abs_diff(k / side) + (q % side).abs_diff(k % side);
                (-(far as f32) / (1.0 + head as f32 + image as f32)).exp()
            };
            layer.push(&normalised((0..4 * 3 * n * n).map(value).collect(), n))?;
        }
        Ok(layer)
    };
    Ok(ExplorerModel { label: "Swin".into(), layers: (0..2).map(layer).collect::<Result<_, Error>>()? })
}
