//! Data like those that each figure is for.

use std::path::Path;

use fd_analysis::figures::{
    Bar, BarSeries, Bars, Caption, ContourPanel, Contours, DotPanel, Figure, HeadDots, HeatAxis, HeatMaps, HeatPanel, Levels, Line,
    LinePanel, Lines, OverlayPanel, Overlays, Photograph, Scale, Width,
};

/// Numbers that look random and are not.
fn noise(k: usize) -> f64 {
    (k as f64 * 12.9898 + 4.1).sin() * 0.5
}

fn numbers(n: usize) -> Vec<String> {
    (1..=n).map(|i| i.to_string()).collect()
}

pub fn caption() -> Caption {
    Caption {
        model: "DINO ViT-B/16, FD-DINO".into(),
        data: "ImageNet-1K validation".into(),
        images: 10_000,
        seed: "0, 1, 2".into(),
        notes: "CLS rows and columns dropped, rows renormalised.".into(),
    }
}

pub fn dots() -> HeadDots {
    let panel = |m: usize, title: &str, spread: f64| DotPanel {
        title: title.into(),
        layers: (0..12)
            .map(|l| (0..12).map(|h| 60.0 + 3.0 * l as f64 + spread * (1.2 + l as f64 / 6.0) * noise(l * 12 + h + m)).collect())
            .collect(),
    };
    let panels = vec![panel(0, "DINO", 22.0), panel(7, "FD-DINO", 55.0), panel(13, "MAE", 50.0), panel(29, "FD-MAE", 52.0)];
    HeadDots { panels, quantity: "attention distance (pixels)".into(), layers: "layer".into(), columns: 0 }
}

pub fn lines() -> Lines {
    let curve = |label: &str, k: usize, slope: f64| Line {
        label: label.into(),
        points: (0..12).map(|i| (i as f64, 0.2 + slope * i as f64 + 0.05 * noise(i + k))).collect(),
        band: vec![],
    };
    let labels = ["DINO", "FD-DINO", "DeiT", "FD-DeiT", "CLIP", "FD-CLIP", "MAE"];
    let lines = labels.iter().enumerate().map(|(i, l)| curve(l, 31 * i, 0.06 - 0.008 * i as f64)).collect();
    let panel = LinePanel {
        title: "heads of a layer".into(),
        x: "layer".into(),
        y: "cosine similarity of heads".into(),
        names: numbers(12),
        range: None,
        log: false,
        lines,
    };
    Lines { panels: vec![panel], columns: 0 }
}

pub fn sections() -> Lines {
    let line = |label: &str, width: f64, accuracy: bool| {
        let x: Vec<f64> = (0..41).map(|i| -1.0 + f64::from(i) / 20.0).collect();
        let value = |x: f64| {
            if accuracy { 84.0 * (-(x / width).powi(2)).exp() } else { 0.8 + 6.0 * (x / width).powi(2) / (1.0 + (x / width).powi(2)) }
        };
        let half = |x: f64| 0.04 * value(x) * (1.0 + x.abs());
        Line {
            label: label.into(),
            points: x.iter().map(|x| (*x, value(*x))).collect(),
            band: x.iter().map(|x| (value(*x) - half(*x), value(*x) + half(*x))).collect(),
        }
    };
    let models = [("DINO, fine-tuned", 0.45), ("FD-DINO, fine-tuned", 0.75), ("MAE, fine-tuned", 0.7)];
    let panel = |y: &str, accuracy: bool| LinePanel {
        title: String::new(),
        x: "step along the direction".into(),
        y: y.into(),
        names: vec![],
        range: None,
        log: false,
        lines: models.iter().map(|(l, w)| line(l, *w, accuracy)).collect(),
    };
    Lines { panels: vec![panel("cross-entropy (nats)", false), panel("top-1 accuracy (%)", true)], columns: 0 }
}

pub fn cka() -> HeatMaps {
    let axis = |model: &str| HeatAxis { label: format!("block of {model}"), names: numbers(12) };
    let panel = |a: &str, b: &str, k: f64| HeatPanel {
        title: String::new(),
        rows: 12,
        columns: 12,
        values: (0..144).map(|i| (-((i / 12) as f64 - (i % 12) as f64).abs() / k).exp()).collect(),
        row_axis: axis(a),
        column_axis: axis(b),
        mark: None,
    };
    let panels = vec![panel("teacher", "teacher", 6.0), panel("teacher", "student", 3.0), panel("student", "student", 9.0)];
    HeatMaps {
        panels,
        columns: 3,
        quantity: "linear CKA".into(),
        scale: Scale::Fixed(0.0, 1.0),
        upwards: true,
        square: true,
        ..HeatMaps::default()
    }
}

pub fn layer_head() -> HeatMaps {
    let panel = |title: &str, k: usize| HeatPanel {
        title: title.into(),
        rows: 12,
        columns: 12,
        values: (0..144).map(|i| if i == 17 { f64::NAN } else { 3.0 + noise(i + k) * 4.0 }).collect(),
        row_axis: HeatAxis { label: "layer".into(), names: numbers(12) },
        column_axis: HeatAxis { label: "head".into(), names: numbers(12) },
        mark: None,
    };
    HeatMaps {
        panels: vec![panel("before", 0), panel("after", 99)],
        columns: 2,
        quantity: "row entropy (nats)".into(),
        ..HeatMaps::default()
    }
}

/// Average attention of a 10 x 10 grid's patches to each other, for 6 layers of 2 models.
pub fn average_maps() -> HeatMaps {
    let map = |l: usize, sharp: f64| {
        let of = |q: usize, k: usize| {
            let d = ((q / 10).abs_diff(k / 10) + (q % 10).abs_diff(k % 10)) as f64;
            (-d / sharp).exp() + if k % 17 == l { 0.4 } else { 0.0 }
        };
        (0..100 * 100).map(|i| of(i / 100, i % 100)).collect()
    };
    let panel = |r: usize, l: usize| HeatPanel {
        title: if r == 0 { format!("layer {}", 2 * l + 1) } else { String::new() },
        rows: 100,
        columns: 100,
        values: map(l, if r == 0 { 6.0 } else { 2.0 }),
        ..HeatPanel::default()
    };
    let panels = (0..2).flat_map(|r| (0..6).map(move |l| panel(r, l))).collect();
    HeatMaps {
        panels,
        columns: 6,
        row_names: vec!["DINO".into(), "FD-DINO".into()],
        quantity: "average attention of a query (row) to a key (column), 100 x 100 patches".into(),
        scale: Scale::Each,
        square: true,
        ..HeatMaps::default()
    }
}

fn photograph() -> Photograph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/images/astronaut.png");
    let image = fd_data::decode("astronaut.png", &std::fs::read(path).unwrap(), 3).unwrap();
    Photograph { width: image.width, height: image.height, rgb: image.data.into_owned() }
}

pub fn overlays() -> Overlays {
    let query = (4, 7);
    let panel = |title: &str, width: f64| OverlayPanel {
        title: title.into(),
        photograph: photograph(),
        grid: (14, 14),
        values: if width == 0.0 {
            vec![]
        } else {
            (0..196).map(|k| (-((k / 14) as f64 - 4.0).hypot((k % 14) as f64 - 7.0) / width).exp()).collect()
        },
        query: Some(query),
    };
    let panels = vec![
        panel("query", 0.0),
        panel("layer 1, mean of heads", 1.5),
        panel("layer 6, mean of heads", 3.0),
        panel("layer 12, mean of heads", 8.0),
    ];
    Overlays { panels, columns: 4, quantity: "attention of the outlined patch".into(), scale: Scale::Common, opacity: 0.6 }
}

pub fn contours() -> Contours {
    let axis: Vec<f64> = (0..25).map(|i| -1.0 + f64::from(i) / 12.0).collect();
    let panel = |title: &str, w: f64| {
        let height = |x: f64, y: f64| {
            0.3 + 9.0 * ((x * x + 1.4 * y * y + 0.6 * x * y) / (w * w)).powf(0.8) + 0.3 * (4.0 * x).sin() * (3.0 * y).cos()
        };
        ContourPanel {
            title: title.into(),
            x: axis.clone(),
            y: axis.clone(),
            z: axis.iter().flat_map(|y| axis.iter().map(|x| height(*x, *y)).collect::<Vec<_>>()).collect(),
        }
    };
    Contours {
        panels: vec![panel("DINO", 0.9), panel("FD-DINO", 1.5)],
        columns: 0,
        quantity: "cross-entropy (nats)".into(),
        axes: ("step along direction 1".into(), "step along direction 2".into()),
        levels: Levels::Round,
    }
}

pub fn bars() -> Bars {
    let bar = |v: f64| Some(Bar { value: v, interval: (v - 0.4, v + 0.5) });
    let series = |label: &str, values: [Option<Bar>; 4]| BarSeries { label: label.into(), bars: values.to_vec() };
    Bars {
        groups: ["DINO", "EsViT", "CLIP, ViT-B/16", "supervised, DeiT"].map(String::from).to_vec(),
        series: vec![
            series("before", [bar(82.8), bar(81.9), bar(82.9), bar(81.8)]),
            series("after feature distillation", [bar(83.8), bar(85.1), bar(84.9), bar(83.0)]),
            series("control: longer training", [bar(83.0), None, bar(83.1), bar(81.9)]),
        ],
        quantity: "top-1 accuracy (%), mean and 95 % interval".into(),
        base: Some(80.0),
    }
}

pub fn gallery() -> Vec<(&'static str, Box<dyn Figure>, Width)> {
    vec![
        ("dots", Box::new(dots()), Width::Columns(2)),
        ("lines", Box::new(lines()), Width::Columns(1)),
        ("sections", Box::new(sections()), Width::Columns(2)),
        ("cka", Box::new(cka()), Width::Columns(2)),
        ("layer_head", Box::new(layer_head()), Width::Columns(2)),
        ("average_maps", Box::new(average_maps()), Width::Columns(2)),
        ("overlays", Box::new(overlays()), Width::Columns(2)),
        ("contours", Box::new(contours()), Width::Columns(2)),
        ("bars", Box::new(bars()), Width::Columns(1)),
    ]
}
