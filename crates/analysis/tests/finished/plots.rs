//! Every figure of a run, and its page.

use std::process::{Command, Output};

use super::{Scratch, table, text};

const QUICK: [&str; 4] = ["--explore", "2", "--threads", "1"];

fn plots(s: &Scratch, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_analyze"));
    let images = if args.contains(&"--images") { &[][..] } else { &["--images", "8"] };
    command.arg("plots").args(args).args(images).args(QUICK).current_dir(&s.0).env_remove("RUST_LOG").output().unwrap()
}

fn refused(output: &Output, words: &str) {
    let err = text(&output.stderr);
    let said = err.lines().filter(|l| !l.starts_with("plots: ")).collect::<Vec<_>>();
    assert!(output.status.code() == Some(2) && said.len() == 1 && said[0].contains(words), "{words}: {err}");
}

/// A sweep over positions as it lists its students: those of the run stand for them.
fn sweep(s: &Scratch) {
    let model = |row: &str, teacher: &str| {
        format!(
            "{{\"file\": \"../run/weights/{teacher}-student-seed0.safetensors\", \"row\": \"positions: {row}\", \"kind\": \"after\", \
             \"teacher\": \"t\", \"seed\": 0, \"column\": null}}"
        )
    };
    let models = [model("absolute", "swin-supervised"), model("shared-relative", "vit-supervised")];
    std::fs::create_dir_all(s.path("positions")).unwrap();
    std::fs::write(s.path("positions/models.json"), format!("[{}]", models.join(", "))).unwrap();
}

#[test]
fn every_figure_and_the_page() {
    let s = Scratch::new("plots");
    table::make(&s.path("run"));
    sweep(&s);
    let output = plots(&s, &["run", "--positions", "positions"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let figures = s.path("run/plots/figures");
    let mut wanted = ["accuracy", "curves", "head-similarity", "diagonal", "column", "positions"].map(String::from).to_vec();
    for figure in ["distance", "maps", "heads", "photograph", "landscape"] {
        wanted.extend(["swin-supervised", "vit-supervised"].map(|teacher| format!("{figure}-{teacher}")));
    }
    for name in &wanted {
        for ending in ["svg", "png", "csv"] {
            let file = figures.join(format!("{name}.{ending}"));
            assert!(std::fs::metadata(&file).is_ok_and(|m| m.len() > 50), "{}", file.display());
        }
    }
    assert_eq!(std::fs::read_dir(&figures).unwrap().count(), 3 * wanted.len());
    let page = std::fs::read_to_string(s.path("run/plots/report.html")).unwrap();
    for part in [
        "Does feature distillation help?",
        "Swin, supervised + FD",
        "Attention explorer",
        "Attention maps",
        "Across positions",
        "How alike layers are",
        "Landscapes",
        "A shared relative position bias",
        "Heads of the deeper layers become less alike",
        "The loss landscape of the fine-tuned model becomes flatter",
    ] {
        assert!(page.contains(part), "`{part}` is not on the page");
    }
    // Nothing is loaded from anywhere.
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "the page refers to the network");
    // Numbers beside the figures.
    let distances = std::fs::read_to_string(figures.join("distance-vit-supervised.csv")).unwrap();
    assert!(distances.lines().count() == 1 + 4 + 2 + 4, "two layers of two heads; of the student two of one and two of two: {distances}");
    for numbers in ["attention/attention.csv", "landscape/landscape.csv", "landscape/sharpness.csv", "similarity-vit-supervised/cka.csv"] {
        assert!(s.path("run/plots").join(numbers).is_file(), "{numbers}");
    }
    refused(&plots(&s, &["run"]), "run/plots/report.html: is there already; --force replaces it");
    // The same again, byte for byte.
    let again = plots(&s, &["run", "--positions", "positions", "--force"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert!(std::fs::read_to_string(s.path("run/plots/report.html")).unwrap() == page);
}

#[test]
fn runs_that_cannot_be_plotted() {
    let s = Scratch::new("no-plots");
    refused(&plots(&s, &["nowhere"]), "nowhere: there is no such run");
    std::fs::create_dir_all(s.path("empty")).unwrap();
    refused(&plots(&s, &["empty"]), "empty/config.toml: ");
    table::make(&s.path("run"));
    refused(&plots(&s, &["run", "--images", "100000"]), "--images 100000: ");
    refused(&plots(&s, &["run", "--positions", "nowhere"]), "nowhere/models.json: ");
    std::fs::write(s.path("run/models.json"), "[]").unwrap();
    refused(&plots(&s, &["run"]), "lists no teacher's weights");
    std::fs::remove_file(s.path("run/models.json")).unwrap();
    refused(&plots(&s, &["run"]), "run/models.json: the run is not done");
    assert!(!s.path("run/plots/report.html").exists());
}
