//! The page as a file: what it may load, that texts stay texts, how large it is.

use fd_analysis::report::observations::{Observation, Verdict};
use fd_analysis::report::{Explorer, ExplorerImage, ExplorerLayer, ExplorerModel, Picture, Report, Section, SpecialTokens, Table};

const NASTY: &str = "</script><script>alert('1 & \"2\"')</script><!--";

fn grey(share: f64) -> [u8; 3] {
    [(share * 255.0).round() as u8; 3]
}

/// Models of so many layers and heads on square images of `side` pixels in patches of `patch`, with a CLS token.
fn explorer((models, layers, heads): (usize, usize, usize), (images, side, patch): (usize, usize, usize), label: &str) -> Explorer {
    let grid = side / patch;
    let n = 1 + grid * grid;
    let attention: Vec<f32> = (0..heads * n * n).map(|i| (i % n) as f32).collect();
    let mut layer = ExplorerLayer::new(label, heads, (grid, grid), SpecialTokens { cls: true, registers: 0 }, None).unwrap();
    (0..images).for_each(|_| layer.push(&attention).unwrap());
    let image = ExplorerImage::new(label, (side, side, 3), &vec![127; side * side * 3]).unwrap();
    let models = vec![ExplorerModel { label: label.into(), layers: vec![layer; layers] }; models];
    Explorer::new(vec![image; images], models).unwrap()
}

fn page(text: &str) -> String {
    let text = || text.to_string();
    let observation = |claim: &str, verdict| Observation { claim: claim.into(), of: text(), verdict, sentence: text() };
    let section = Section {
        heading: text(),
        prose: vec![text()],
        observations: vec![
            observation("a", Verdict::Holds),
            observation("a", Verdict::DoesNotHold),
            observation(&text(), Verdict::NotShown),
        ],
        tables: vec![Table { caption: text(), head: vec![text(), "n".into()], rows: vec![vec![text(), "1.5".into()], vec![text()]] }],
        pictures: vec![Picture { svg: format!("<svg><!-- {} --></svg>", text()), caption: text() }],
        explorer: Some(explorer((1, 1, 1), (1, 2, 1), &text())),
    };
    let facts = vec![(text(), text())];
    Report { title: text(), subtitle: text(), facts, sections: vec![section, Section::default()] }.html(&grey)
}

/// Names of the elements that are opened and closed, in order; what is in scripts and styles is text.
fn tags(page: &str) -> Vec<String> {
    let (mut tags, mut rest) = (vec![], page);
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').map(|e| at + e).expect("a tag ends");
        let tag = &rest[at + 1..end];
        let name: String = tag.chars().take_while(|c| !c.is_whitespace()).collect();
        rest = &rest[end + 1..];
        if name == "script" || name == "style" {
            rest = &rest[rest.find(&format!("</{name}>")).expect("closed")..];
        }
        tags.push(name);
    }
    tags
}

#[test]
fn texts_stay_texts_and_elements_are_closed() {
    let (plain, nasty) = (page("plain"), page(NASTY));
    assert_eq!(tags(&plain), tags(&nasty), "a text made or ended an element");
    let mut open: Vec<String> = vec![];
    for tag in tags(&nasty) {
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name)),
            None if ["!DOCTYPE", "meta", "img", "input"].contains(&tag.as_str()) => {}
            None => open.push(tag),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn nothing_is_loaded() {
    let page = page("plain");
    let policy = page.split_once("Content-Security-Policy\" content=\"").unwrap().1.split_once('"').unwrap().0;
    assert!(policy.starts_with("default-src 'none'; img-src data:; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && !page.contains("://"), "no address, not even in a comment");
    for attribute in [" src=\"", " href=\""] {
        assert!(
            page.split(attribute).skip(1).all(|value| value.starts_with("data:image/svg+xml;base64,") || value.starts_with("#section-"))
        );
    }
    // Inline styles and handlers would be blocked.
    assert!(!page.contains(" style=\"") && !page.contains(" onclick="));
}

#[test]
fn observations_of_a_claim_stand_together() {
    let page = page("plain");
    assert_eq!((page.matches("<div class=\"claim\">").count(), page.matches("<li><b>plain</b>").count()), (2, 3));
    assert!(["holds", "does not hold", "not shown"].iter().all(|v| page.contains(&format!("\">{v}</span>"))));
}

#[test]
fn columns_of_numbers_are_set_right() {
    let page = page("plain");
    assert!(page.contains("<th scope=\"row\">plain</th><td class=\"number\">1.5</td>"));
    assert!(page.contains("<th scope=\"row\">plain</th><td class=\"number\"></td>"), "a short row is filled up");
}

#[test]
fn pages_are_small_enough_to_pass_on() {
    let size = |explorer| {
        let section = Section { explorer: Some(explorer), ..Section::default() };
        Report { sections: vec![section], ..Report::default() }.html(&grey).len()
    };
    let mini = size(explorer((10, 4, 4), (8, 28, 7), "mini"));
    assert!(mini < 2_000_000, "{mini}");
    let small = size(explorer((1, 12, 6), (1, 224, 14), "ViT-S/14"));
    assert!(small < 8_000_000, "{small}");
    println!("mini {mini}, ViT-S/14 {small} bytes");
}

#[test]
fn written_whole_or_not_at_all() {
    let folder = std::env::temp_dir().join(format!("fd-report-{}", std::process::id()));
    let path = folder.join("a/report.html");
    let report = Report { title: "T".into(), ..Report::default() };
    report.write(&path, &grey).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), report.html(&grey));
    assert_eq!(std::fs::read_dir(folder.join("a")).unwrap().count(), 1, "nothing beside it");
    let error = report.write(&path.join("b.html"), &grey).unwrap_err().to_string();
    assert!(error.contains("report.html") && !error.contains('\n'), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
