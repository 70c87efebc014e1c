//! The golden cases that this crate can run pass; a case with anything changed does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fd_compute::Device;
use fd_distill::Error;
use fd_distill::parity::{Report, Verdict, parity};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

type Checked<T = ()> = Result<T, Box<dyn std::error::Error>>;
/// Tensors as bytes.
type Raw = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/goldens")
}

/// A folder with one case in it, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Checked<Self> {
        let path = std::env::temp_dir().join(format!("fd-parity-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }

    /// A copy of a case under another name, changed.
    fn with(case: &str, change: impl FnOnce(&mut Value, &mut Raw)) -> Checked<Self> {
        let folder = Folder::new(&format!("{case}-{:?}", std::thread::current().id()))?;
        folder.write(case, change)?;
        Ok(folder)
    }

    fn write(&self, case: &str, change: impl FnOnce(&mut Value, &mut Raw)) -> Checked {
        let source = |ending: &str| goldens().join(format!("{case}.{ending}"));
        let mut json: Value = serde_json::from_slice(&std::fs::read(source("json"))?)?;
        let has_tensors = source("safetensors").exists();
        let mut raw = Raw::new();
        if has_tensors {
            let bytes = std::fs::read(source("safetensors"))?;
            for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
                raw.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
            }
        }
        change(&mut json, &mut raw);
        std::fs::write(self.json(), serde_json::to_vec(&json)?)?;
        if has_tensors {
            let mut views = vec![];
            for (name, (dtype, shape, data)) in &raw {
                views.push((name, TensorView::new(*dtype, shape.clone(), data)?));
            }
            std::fs::write(self.tensors(), safetensors::serialize(views, None)?)?;
        }
        Ok(())
    }

    fn json(&self) -> PathBuf {
        self.0.join("renamed.json")
    }

    fn tensors(&self) -> PathBuf {
        self.0.join("renamed.safetensors")
    }

    fn run(&self) -> Result<Report, Error> {
        parity(&self.0, Device::CPU, &mut std::io::sink())
    }

    fn verdict(&self) -> Checked<Verdict> {
        Ok(self.run()?.cases.remove(0).verdict)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Adds something noticeable to the middle value of a tensor.
fn nudge((dtype, _, data): &mut (Dtype, Vec<usize>, Vec<u8>)) {
    let middle = |size: usize| data.len() / size / 2 * size;
    match dtype {
        Dtype::F32 => {
            let at = middle(4);
            let bytes = data[at..at + 4].try_into().expect("four bytes");
            data[at..at + 4].copy_from_slice(&(f32::from_le_bytes(bytes) + 0.25).to_le_bytes());
        }
        _ => {
            let at = middle(8);
            data[at] ^= 1; // i64: the neighbour; f64: not noticeable, so more of it
            data[at + 5] ^= 0x40;
        }
    }
}

/// One tensor of each kind: the first of each prefix up to the first dot, and the last.
fn samples(raw: &Raw) -> Vec<String> {
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for name in raw.keys() {
        let prefix = name.split('.').next().unwrap_or_default().to_owned();
        found.entry(prefix).and_modify(|f| f.1 = name.clone()).or_insert((name.clone(), name.clone()));
    }
    found.into_values().flat_map(|(first, last)| [first, last]).collect()
}

const CASES: [&str; 20] = [
    "a_vit_shared_rpb",
    "b_vit_ape",
    "c_vit_finetune",
    "d_vit_kbias_nocls",
    "e_teacher_dino_vit",
    "f_teacher_clip_vit",
    "g2_teacher_swin_v1_windowclamp",
    "h2_student_swin_v2_sharedrpb",
    "i1_fd_vit_dino",
    "i2_fd_swinv2_esvit",
    "i3_fd_vit_clip",
    "j_variants",
    "k_interpolation",
    "l1_adamw_finetune_layerdecay",
    "l2_adamw_pretrain",
    "l3_adamw_finetune_swinv2",
    "n_fd_train5",
    "o1_swin_v1_odd_rectangle",
    "o4_swin_v2_norms",
    "o5_swin_v2_plain",
];

#[test]
fn all_pass() -> Checked {
    let mut out = vec![];
    let report = parity(&goldens(), Device::CPU, &mut out)?;
    let out = String::from_utf8(out)?;
    println!("{out}");
    assert_eq!((report.passed, report.failed, report.unknown), (26, 0, 0), "{out}");
    assert!(out.contains("out.block*") && out.contains("g.blocks.*.attn") && out.contains("p5.*"));
    Ok(())
}

/// Nothing depends on a case's name.
#[test]
fn renamed_cases_pass() -> Checked {
    for case in CASES {
        assert_eq!(Folder::with(case, |_, _| ())?.verdict()?, Verdict::Passed, "{case}");
    }
    Ok(())
}

#[test]
fn a_changed_or_missing_tensor_fails() -> Checked {
    for case in CASES {
        let mut names = vec![];
        Folder::with(case, |_, raw| names = samples(raw))?;
        for name in names {
            // A key bias changes nothing, whatever it is.
            if !name.ends_with("k_bias") || !name.starts_with("w.") {
                let changed = Folder::with(case, |_, raw| raw.get_mut(&name).into_iter().for_each(nudge))?.verdict()?;
                assert!(matches!(changed, Verdict::Failed(_)), "{case}: {name} changed: {changed:?}");
            }
            // Without `loss.f64` there is still `loss`; without an index there is still the table.
            if !name.ends_with(".f64") && !name.starts_with("buf.") {
                let missing = Folder::with(case, |_, raw| drop(raw.remove(&name)))?.verdict()?;
                assert!(!matches!(missing, Verdict::Passed), "{case}: {name} missing: {missing:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_unknown_tensor_is_not_passed_over() -> Checked {
    let extra = |_: &mut Value, raw: &mut Raw| drop(raw.insert("out.new".into(), (Dtype::F32, vec![1], vec![0; 4])));
    for case in ["a_vit_shared_rpb", "i1_fd_vit_dino", "k_interpolation", "l2_adamw_pretrain", "n_fd_train5"] {
        let Verdict::Failed(why) = Folder::with(case, extra)?.verdict()? else { panic!("{case} passed") };
        assert_eq!(why, ["`out.new` is not checked"]);
    }
    assert!(!matches!(Folder::with("j_variants", extra)?.verdict()?, Verdict::Passed));
    Ok(())
}

#[test]
fn a_changed_number_fails() -> Checked {
    let numbers = [
        ("k_interpolation", "/items/vit_rpb.4to7.cls/q"),
        ("k_interpolation", "/items/vit_rpb.7to4.cls/src_positions/5"),
        ("k_interpolation", "/items/vit_rpb.14to16.cls/dst_positions/0"),
        ("k_interpolation", "/items/vit_rpb.7to12.nocls/extra_tokens"),
        ("l1_adamw_finetune_layerdecay", "/groups/2/lr_scale"),
        ("l1_adamw_finetune_layerdecay", "/groups/3/weight_decay"),
        ("l1_adamw_finetune_layerdecay", "/lr_per_step_per_group/2/1"),
        ("l1_adamw_finetune_layerdecay", "/grad_norm_before_clip/4"),
        ("l1_adamw_finetune_layerdecay", "/layer_decay"),
        ("l2_adamw_pretrain", "/clip_grad"),
        ("l2_adamw_pretrain", "/betas/1"),
        ("l2_adamw_pretrain", "/min_lr"),
        ("l4_lr_schedule", "/schedules/0/lr_used_at_step/7/0"),
        ("l4_lr_schedule", "/schedules/1/group_scales/2"),
        ("l4_lr_schedule", "/schedules/3/accumulation_steps"),
        ("n_fd_train5", "/losses/3"),
        ("n_fd_train5", "/grad_norms/0"),
        ("n_fd_train5", "/lrs/4"),
        ("n_fd_train5", "/warmup_epochs"),
    ];
    for (case, key) in numbers {
        let change = |json: &mut Value, _: &mut Raw| {
            let number = json.pointer_mut(key).expect("a key of this case");
            *number = number.as_u64().map_or_else(|| json!(number.as_f64().expect("a number") * 0.99), |whole| json!(whole + 1));
        };
        let verdict = Folder::with(case, change)?.verdict()?;
        assert!(matches!(verdict, Verdict::Failed(_)), "{case}: {key}: {verdict:?}");
    }
    Ok(())
}

#[test]
fn what_we_do_not_have_is_unknown_and_named() -> Checked {
    let cases = [
        ("a_vit_shared_rpb", "/kwargs", "rope", json!(true)),
        ("a_vit_shared_rpb", "", "whiten", json!("l2")),
        ("a_vit_shared_rpb", "", "cls", json!("SwinV2ForFD")),
        ("a_vit_shared_rpb", "", "gelu", json!("tanh")),
        ("a_vit_shared_rpb", "", "loss", json!("focal(tokens)")),
        ("a_vit_shared_rpb", "/kwargs", "drop_path_rate", json!(0.1)),
        ("c_vit_finetune", "", "loss", json!("loss: FocalLoss(2)")),
        ("i1_fd_vit_dino", "/student", "window_size", json!(7)),
        ("i1_fd_vit_dino", "", "cls", json!("FD(PRED_FEAT=CLIP_400M, AFTERNORM)")),
        ("i1_fd_vit_dino", "", "ln_tgt_eps", json!(1e-6)),
        ("n_fd_train5", "", "accumulation_steps", json!(4)),
        ("n_fd_train5", "", "amsgrad", json!(true)),
        ("l2_adamw_pretrain", "", "amsgrad", json!(true)),
        ("l4_lr_schedule", "/schedules/0", "decay_rate", json!(0.1)),
        ("j_variants", "", "M", json!(3)),
        ("k_interpolation", "/items/pos.4to7", "antialias", json!(true)),
        ("k_interpolation", "/items/pos.7to4", "method", json!("bicubic a=-0.5, align_corners=False, no antialias")),
        ("k_interpolation", "/items/swin_rpb.4to7", "rpe_method", json!("outer_mask")),
        ("k_interpolation", "/items", "rope.4to7", json!({})),
        ("k_interpolation", "/items", "pos.0to7", json!({})),
        ("k_interpolation", "", "torch_resize", json!("bilinear")),
    ];
    for (case, at, key, value) in cases {
        let change = |json: &mut Value, _: &mut Raw| json.pointer_mut(at).expect("an object")[key] = value.clone();
        let Verdict::Unknown(why) = Folder::with(case, change)?.verdict()? else { panic!("{case}: {key} is not unknown") };
        let named = why.contains(key) || why.contains(value.as_str().unwrap_or(key));
        assert!(named, "{case}: {key}: {why}");
    }
    // An option under another name is an option we do not know.
    let rename = |json: &mut Value, _: &mut Raw| {
        let kwargs = json["kwargs"].as_object_mut().expect("an object");
        let depth = kwargs.remove("depth").expect("it is there");
        kwargs.insert("deepness".into(), depth);
    };
    let Verdict::Unknown(why) = Folder::with("b_vit_ape", rename)?.verdict()? else { panic!("not unknown") };
    assert!(why.contains("deepness"), "{why}");
    Ok(())
}

/// Sizes of position tables are read, wherever they are said, and have to agree.
#[test]
fn position_tables_of_other_sizes() -> Checked {
    // An item under another name, with its tensors: (from, to, may it pass?).
    let names = [
        ("pos.4to7", "pos.4x4to7x7", true),
        ("pos.4to7", "pos.2x8to7", false),
        ("pos.4to7", "pos.5to7", false),
        ("pos.4to7", "pos.4to6", false),
        ("pos.4to7", "pos.4to65535", false),
        ("pos.4to7", "pos.4to7.nocls", false),
        ("pos.4to7", "pos.4to7.cls", true),
        ("vit_rpb.7to4.cls", "vit_rpb.7to4", true),
        ("vit_rpb.7to4.cls", "vit_rpb.7to4.nocls", false),
        ("vit_rpb.7to4.cls", "vit_rpb.7to65535.cls", false),
        ("vit_rpb.7to12.nocls", "vit_rpb.7to12.cls", false),
        ("swin_rpb.7to12", "swin_rpb.7to12.nocls", true),
        ("swin_rpb.7to12", "swin_rpb.14to12", false),
    ];
    for (from, to, passes) in names {
        let rename = |json: &mut Value, raw: &mut Raw| {
            let items = json["items"].as_object_mut().expect("an object");
            let item = items.remove(from).expect("an item of this case");
            items.insert(to.into(), item);
            for what in ["in", "out", "out_f32"] {
                raw.remove(&format!("{from}.{what}")).into_iter().for_each(|tensor| drop(raw.insert(format!("{to}.{what}"), tensor)));
            }
        };
        let verdict = Folder::with("k_interpolation", rename)?.verdict()?;
        assert_eq!(verdict == Verdict::Passed, passes, "{from} as {to}: {verdict:?}");
    }
    Ok(())
}

/// Options of any kind of wrong value, and tensors of another rank: a verdict, never a crash.
#[test]
fn nothing_crashes() -> Checked {
    for case in CASES {
        let (mut places, mut names) = (vec![], vec![]);
        Folder::with(case, |json, raw| {
            names = samples(raw);
            for at in ["", "/kwargs", "/student", "/teacher", "/items", "/items/pos.4to7", "/items/vit_rpb.4to7.cls"] {
                let keys = json.pointer(at).and_then(Value::as_object).into_iter().flat_map(|o| o.keys());
                places.extend(keys.filter(|k| !k.starts_with("f32_")).map(|k| (at, k.clone())));
            }
        })?;
        for (at, key) in places {
            for value in [json!(0), json!(7), json!(-1), json!(0.5), json!("x"), json!([]), Value::Null] {
                Folder::with(case, |json, _| json.pointer_mut(at).expect("an object")[&key] = value.clone())?.run()?;
            }
        }
        for name in names {
            let flat = |_: &mut Value, raw: &mut Raw| {
                let (_, shape, _) = raw.get_mut(&name).expect("a tensor of this case");
                *shape = vec![1, 1, shape.iter().product(), 1];
            };
            assert!(!matches!(Folder::with(case, flat)?.verdict()?, Verdict::Passed), "{case}: {name} of another shape");
        }
    }
    Ok(())
}

#[test]
fn a_broken_file_is_an_error_that_names_it() -> Checked {
    let folder = Folder::with("e_teacher_dino_vit", |_, _| ())?;
    for file in [folder.tensors(), folder.json()] {
        let whole = std::fs::read(&file)?;
        std::fs::write(&file, &whole[..whole.len() - 9])?;
        let error = folder.run().expect_err("half a file").to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        std::fs::write(&file, whole)?;
    }
    std::fs::remove_file(folder.tensors())?;
    assert!(folder.run().expect_err("no tensors").to_string().contains("renamed.safetensors"));
    std::fs::remove_file(folder.json())?;
    assert!(folder.run().expect_err("an empty folder").to_string().contains("no golden cases"));
    Ok(())
}
