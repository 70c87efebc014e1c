//! Every figure with data like those it is for: drawn whole, to the same bytes, with nothing cut, and with the numbers beside it.

mod samples;

use std::path::{Path, PathBuf};

use fd_analysis::figures::{
    Bars, Caption, ContourPanel, Contours, DotPanel, Figure, HeadDots, HeatMaps, HeatPanel, Line, LinePanel, Lines, OverlayPanel, Overlays,
    Scale, Width, write,
};

use samples::{bars, caption, cka, contours, dots, gallery, layer_head, lines, overlays, sections};

fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("figures-{name}"));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn figures_are_whole_and_repeat_to_the_byte() {
    let folder = folder("gallery");
    for (name, figure, width) in gallery() {
        let paths = write(figure.as_ref(), &folder.join(name), width, &caption()).unwrap();
        let bytes: Vec<Vec<u8>> = paths.iter().map(|p| std::fs::read(p).unwrap()).collect();
        assert_eq!(paths.iter().map(|p| p.extension().unwrap().to_str().unwrap()).collect::<Vec<_>>(), ["svg", "png", "csv"]);
        let image = fd_data::decode(name, &bytes[1], 3).unwrap();
        let svg = String::from_utf8(bytes[0].clone()).unwrap();
        let mm = width.mm();
        assert!(svg.starts_with(&format!("<svg width=\"{mm}mm\"")) && svg.trim_end().ends_with("</svg>"), "{name}");
        assert!(svg.contains("10,000 images") && svg.contains("Seed: 0, 1, 2"), "{name}: the caption");
        assert_eq!(image.width as f64, mm * 20.0, "{name}");
        let inked = image.data.as_chunks::<3>().0.iter().filter(|p| p.iter().any(|c| *c < 200)).count();
        assert!(inked * 60 > image.data.len() / 3, "{name} is nearly blank: {inked}");
        let again = write(figure.as_ref(), &folder.join(name), width, &caption()).unwrap();
        assert!(again.iter().zip(&bytes).all(|(p, b)| std::fs::read(p).unwrap() == *b), "{name} differs the second time");
    }
}

/// Every text lies on the sheet, and no two lie on each other.
fn texts_are_readable(name: &str, figure: &dyn Figure, width: Width) {
    let sheet = figure.sheet(width).unwrap();
    let ((w, h), texts) = (sheet.size_mm(), sheet.texts().unwrap());
    for (i, (text, [left, top, right, bottom])) in texts.iter().enumerate() {
        assert!(*left >= 0.0 && *top >= 0.0 && *right <= w && *bottom <= h + 1.0, "{name}: `{text}` leaves the sheet of {w} x {h} mm");
        for (other, b) in &texts[..i] {
            // Boxes are as high as ascender and descender together: they may touch by a fifth of that.
            let (across, down) = (right.min(b[2]) - left.max(b[0]), bottom.min(b[3]) - top.max(b[1]));
            assert!(across <= 0.2 || down <= 0.2 * (bottom - top), "{name}: `{text}` lies on `{other}`");
        }
    }
}

#[test]
fn texts_neither_overlap_nor_leave_the_sheet() {
    for (name, figure, width) in gallery() {
        texts_are_readable(name, figure.as_ref(), width);
        texts_are_readable(name, figure.as_ref(), Width::Mm(120.0));
    }
    let mut long = dots();
    long.panels.truncate(2);
    long.panels[0].title = "a model whose name is much longer than its panel is wide and goes on ".repeat(2);
    texts_are_readable("long", &long, Width::Columns(1));
}

#[test]
fn every_series_is_there() {
    let folder = folder("series");
    let paths = write(&lines(), &folder.join("lines"), Width::Columns(1), &caption()).unwrap();
    let svg = std::fs::read_to_string(&paths[0]).unwrap();
    let image = fd_data::decode("lines.png", &std::fs::read(&paths[1]).unwrap(), 3).unwrap();
    for (line, colour) in lines().panels[0].lines.iter().zip(fd_distill::figure::strokes::COLOURS) {
        let pixels = image.data.as_chunks::<3>().0.iter().filter(|p| **p == [colour.0, colour.1, colour.2]).count();
        assert!(svg.lines().any(|l| l.trim() == line.label) && pixels > 1000, "{}: {pixels}", line.label);
    }
    for text in ["cosine similarity of heads", "layer", "heads of a layer"] {
        assert!(svg.lines().any(|l| l.trim() == text), "{text}");
    }
}

fn table(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.records().map(|r| r.unwrap().iter().map(String::from).collect()).collect()
}

#[test]
fn tables_hold_what_is_drawn() {
    let rows = table(&dots().csv().unwrap());
    assert_eq!(rows.len(), 4 * 12 * 12);
    assert_eq!(rows[13], ["DINO", "2", "2", &dots().panels[0].layers[1][1].to_string()]);
    let rows = table(&layer_head().csv().unwrap());
    assert_eq!(rows[17], ["before", "1", "2", "5", "6", ""], "what is not finite is empty");
    assert_eq!(rows[18][5], layer_head().panels[0].values[18].to_string());
    let rows = table(&sections().csv().unwrap());
    let line = &sections().panels[0].lines[0];
    let numbers = [line.points[3].0, line.points[3].1, line.band[3].0, line.band[3].1].map(|v| v.to_string());
    assert_eq!((rows.len(), &rows[3][1], &rows[3][2]), (2 * 3 * 41, &line.label, &numbers[0]));
    assert_eq!(rows[3][4..], numbers[1..]);
    assert_eq!(table(&contours().csv().unwrap())[26][3], contours().panels[0].z[26].to_string());
    assert!(bars().csv().unwrap().contains("EsViT,control: longer training,,,\n"));
    assert!(overlays().csv().unwrap().contains("\"layer 1, mean of heads\",4,7,1,1\n"));
}

/// Cells are where they should be and have the colours of their values.
#[test]
fn a_heat_map_s_pixels_are_its_values() {
    let panel = HeatPanel { rows: 2, columns: 2, values: vec![0.0, 0.25, 0.75, 1.0], ..HeatPanel::default() };
    let map = HeatMaps { panels: vec![panel], scale: Scale::Fixed(0.0, 1.0), square: true, ..HeatMaps::default() };
    for upwards in [false, true] {
        let stem = folder("cells").join("map");
        let paths = write(&HeatMaps { upwards, ..map.clone() }, &stem, Width::Mm(50.0), &caption()).unwrap();
        let image = fd_data::decode("map.png", &std::fs::read(&paths[1]).unwrap(), 3).unwrap();
        let at = |x: usize, y: usize| image.data.as_chunks::<3>().0[y * image.width + x];
        // The map fills the sheet but for its margin of 1 mm.
        let places = [(250, 250), (750, 250), (250, 750), (750, 750)];
        let order = if upwards { [0.75, 1.0, 0.0, 0.25] } else { [0.0, 0.25, 0.75, 1.0] };
        for ((x, y), value) in places.into_iter().zip(order) {
            let c = fd_analysis::figures::colour(value);
            assert_eq!(at(x, y), [c.0, c.1, c.2], "{upwards} {value}");
        }
    }
}

#[test]
fn odd_data_draw() {
    let folder = folder("odd");
    let landscape = |z: [f64; 4]| Contours {
        panels: vec![ContourPanel { x: vec![0.0, 1.0], y: vec![0.0, 1.0], z: z.to_vec(), ..ContourPanel::default() }],
        ..contours()
    };
    let cells = |z: [f64; 4]| HeatMaps {
        panels: vec![HeatPanel { rows: 2, columns: 2, values: z.to_vec(), ..HeatPanel::default() }],
        ..HeatMaps::default()
    };
    let empty: Vec<(&str, Box<dyn Figure>)> = vec![
        ("dots", Box::new(HeadDots::default())),
        (
            "no heads",
            Box::new(HeadDots {
                panels: vec![DotPanel::default(), DotPanel { layers: vec![vec![], vec![f64::NAN]], ..DotPanel::default() }],
                ..dots()
            }),
        ),
        (
            "negative",
            Box::new(HeadDots { panels: vec![DotPanel { layers: vec![vec![-1.0, 2.0, f64::MAX]], ..DotPanel::default() }], ..dots() }),
        ),
        ("lines", Box::new(Lines::default())),
        (
            "nothing",
            Box::new(Lines {
                panels: vec![
                    LinePanel::default(),
                    LinePanel {
                        lines: vec![Line { points: vec![(f64::NAN, 1.0), (1.0, f64::INFINITY)], ..Line::default() }],
                        log: true,
                        ..LinePanel::default()
                    },
                ],
                columns: 1,
            }),
        ),
        ("maps", Box::new(HeatMaps::default())),
        ("no cells", Box::new(HeatMaps { panels: vec![HeatPanel::default()], ..HeatMaps::default() })),
        (
            "no numbers",
            Box::new(HeatMaps {
                panels: vec![HeatPanel { rows: 1, columns: 2, values: vec![f64::NAN; 2], mark: Some((9, 9)), ..HeatPanel::default() }],
                ..HeatMaps::default()
            }),
        ),
        (
            "one number",
            Box::new(HeatMaps {
                panels: vec![HeatPanel { rows: 1, columns: 1, values: vec![3.0], ..HeatPanel::default() }],
                ..HeatMaps::default()
            }),
        ),
        ("overlays", Box::new(Overlays { panels: vec![OverlayPanel::default()], ..overlays() })),
        ("contours", Box::new(Contours::default())),
        ("flat", Box::new(landscape([1.0; 4]))),
        ("holes", Box::new(landscape([f64::NAN; 4]))),
        ("huge", Box::new(landscape([f64::MAX, f64::MIN, 0.0, 1.0]))),
        ("tiny", Box::new(landscape([1e-320, 1e300, f64::INFINITY, 1.0]))),
        ("huge cells", Box::new(cells([f64::MAX, f64::MIN, 0.0, 1e-320]))),
        ("bars", Box::new(Bars::default())),
    ];
    for (name, figure) in empty {
        write(figure.as_ref(), &folder.join(name), Width::Mm(f64::NAN), &Caption::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(!std::fs::read_dir(&folder).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
}

#[test]
fn data_that_do_not_fit_are_refused() {
    let mut wrong: Vec<Box<dyn Figure>> = vec![];
    let mut map = cka();
    map.panels[0].values.pop();
    wrong.push(Box::new(map));
    let mut map = cka();
    map.panels[1].row_axis.names.pop();
    wrong.push(Box::new(map));
    let mut lines = sections();
    lines.panels[0].lines[0].band.pop();
    wrong.push(Box::new(lines));
    let mut landscape = contours();
    landscape.panels[0].x.reverse();
    wrong.push(Box::new(landscape));
    let mut photo = overlays();
    photo.panels[0].photograph.rgb.pop();
    wrong.push(Box::new(photo));
    let mut table = bars();
    table.series[0].bars.pop();
    wrong.push(Box::new(table));
    let folder = folder("wrong");
    for figure in wrong {
        let e = write(figure.as_ref(), &folder.join("x"), Width::Columns(1), &caption()).unwrap_err().to_string();
        assert!(e.starts_with("figure: ") && !e.contains('\n'), "{e}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is half written");
}
