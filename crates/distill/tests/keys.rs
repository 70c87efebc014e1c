//! What is shown of a configuration's keys is what holds: the keys that there are, which may be left out and what they are then, and
//! the bounds that are enforced.

use std::collections::BTreeSet;

use fd_distill::config::{self, Source};
use fd_distill::keys::{Key, Kind, Listing, Table as Shown};
use fd_distill::price::{Fleet, TablePrice};
use fd_distill::table::{TableConfig, embedded};
use toml::{Table, Value};

const SMOKE: &str = include_str!("../../../experiments/tables/smoke.toml");
const SWIN: &str = include_str!("../../../experiments/tables/swin.toml");

fn source(text: String) -> Source {
    Source::Embedded { name: "x.toml", text: text.leak() }
}

fn listing(table: &Table) -> Listing {
    let (config, stated) = config::load::<TableConfig>(&source(toml::to_string(table).unwrap()), &[]).unwrap();
    Listing::of(&config, &stated, None).unwrap()
}

fn parts(path: &str) -> Vec<String> {
    path.split('.').map(String::from).collect()
}

fn get<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(first)?, |at, part| match at {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

/// The table, or an array's element, that holds the last part of a path.
fn holder<'a>(table: &'a mut Table, path: &[String]) -> &'a mut Table {
    let Some((first, rest)) = path[..path.len() - 1].split_first() else { return table };
    let at = rest.iter().fold(table.get_mut(first).unwrap(), |at, part| match at {
        Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
        other => other.get_mut(part).unwrap(),
    });
    at.as_table_mut().unwrap()
}

/// The smoke table with other values, of keys that it need not have.
fn smoke(edits: &[(&str, &str)]) -> Table {
    let mut table: Table = toml::from_str(SMOKE).unwrap();
    for (path, value) in edits {
        let path = parts(path);
        holder(&mut table, &path).insert(path[path.len() - 1].clone(), value.parse().unwrap());
    }
    table
}

const PHOTOMETRIC: &str = "{ jitter = { prob = 0.8, brightness = 0.3, contrast = 0.3, saturation = 0.2, hue = 0.1 }, grayscale = 0.2, \
                           blur = { prob = 0.5, sigma = [0.1, 1.0] }, solarise = { prob = 0.2, threshold = 128 } }";
const RAND_AUGMENT: &str = "{ layers = 2, magnitude = 9.0, magnitude_std = 0.5, prob = 0.5, interpolation = 'bicubic' }";
const SWIN_MODEL: &str = "{ kind = 'swin', img_size = [28, 28], patch_size = 2, in_chans = 1, embed_dim = 32, depths = [1, 1], num_heads = [1, 2], \
                          window_size = 7, mlp_ratio = 2.0, version = 'v2', attention = 'cosine', position = 'mlp', shared_position = false, \
                          coordinates = 'norm8-log', pretrained_windows = [0, 0], bias_output = 'sigmoid', rpe_hidden_dim = 16, \
                          qkv_bias = 'qv', absolute_position = false, patch_norm = true, mlp_norm_stages = [1], end_norm_interval = 0, \
                          init_norm = 1e-5, ln_eps = 1e-5, out_stage = 2, head = 'features', num_classes = 0, drop_path_rate = 0.0 }";

fn member(teacher: &str, projector: &str, normalisation: &str, target: &str, loss: &str) -> String {
    let objective = format!("{{ target = '{target}', normalisation = '{normalisation}', loss = {{ {loss} }} }}");
    format!("{{ teacher = '{teacher}', weight = 1.0, projector = {{ {projector} }}, objective = {objective} }}")
}

/// A teacher that is pretrained by masked autoencoding.
const MAE: &str = "{ method = 'mae', train = { recipe = { epochs = 2, warmup_epochs = 1.0, batch = 40, accumulate = 1, lr = 1e-3, \
                   warmup_lr = 1e-5, min_lr = 2e-5, weight_decay = 0.05, layer_decay = 1.0, betas = [0.9, 0.95], clip_grad = 3.0, \
                   skip_nonfinite = 10 }, drop_path_rate = 0.0, views = { crop_scale = [0.6, 1.0], crop_ratio = [0.75, 1.3333333333333333], \
                   interpolation = 'bilinear', flip = 0.5, erase = 0.0 }, decoder = { mask_ratio = 0.75, decoder_embed_dim = 32, \
                   decoder_depth = 1, decoder_num_heads = 2, decoder_mlp_ratio = 2.0, norm_pix = 1e-6 } } }";

/// A teacher that is pretrained from captions.
const CLIP: &str = "{ method = 'clip', train = { recipe = { epochs = 2, warmup_epochs = 1.0, batch = 40, accumulate = 1, lr = 1e-3, \
                    warmup_lr = 1e-5, min_lr = 2e-5, weight_decay = 0.05, layer_decay = 1.0, betas = [0.9, 0.98], clip_grad = 3.0, \
                    skip_nonfinite = 10 }, drop_path_rate = 0.0, views = { crop_scale = [0.6, 1.0], crop_ratio = [0.75, 1.3333333333333333], \
                    interpolation = 'bilinear', flip = 0.5, erase = 0.0 }, templates = ['a {}'], embed_dim = 16, temperature = 0.07, \
                    text = { width = 16, layers = 1, heads = 2, mlp_ratio = 2.0 } } }";

/// Tables that have every key between them.
fn bases() -> Vec<Table> {
    let models = ["student", "teachers.0.model", "teachers.1.model"];
    let optional = [("reg_tokens", "0"), ("pre_norm", "false"), ("patch_bias", "true"), ("proj_dim", "32"), ("interpolate_offset", "0.0")];
    let of_models = models.iter().flat_map(|m| optional.iter().map(move |(key, value)| (format!("{m}.{key}"), value.to_string())));
    let views = ["teachers.1.pretrain.train", "distil", "fine_tune.0.train", "fine_tune.0.from_scratch"];
    let of_views = views.iter().map(|at| (format!("{at}.views.photometric"), PHOTOMETRIC.to_string()));
    let views = views.iter().chain(&["teachers.0.pretrain.train.crops.0"]);
    let of_views = of_views.chain(views.map(|at| (format!("{at}.views.rand_augment"), RAND_AUGMENT.to_string())));
    let smooth = "kind = 'smooth-l1', beta = 2.0";
    let members = [
        member("DINO", "kind = 'mlp', hidden = 32", "layer-norm", "map", smooth),
        member("supervised", "kind = 'wide', heads = 4", "layer-norm", "map", smooth),
    ];
    let others = [
        ("ensembles", format!("[{{ name = 'both', members = [{}] }}]", members.join(", "))),
        ("fine_tune.0.img_size", "[28, 28]".into()),
        ("gains", "[{ of = ['DINO'], against = ['supervised'] }]".into()),
        ("fine_tune.0.after", "'fine-tune-200'".into()),
        ("fine_tune.0.data", "{ kind = 'idx', images = 'a', labels = 'b', classes = 10 }".into()),
        ("fine_tune.1.data", "{ kind = 'folder', path = 'a', channels = 1 }".into()),
        ("controls", "'all'".into()),
        ("data.evaluation_crop", "0.875".into()),
        ("teachers.0.normalise", "{ mean = [0.286], std = [0.353] }".into()),
        ("teachers.0.interpolate", "false".into()),
        ("teachers.0.model.layer_scale", "0.1".into()),
        ("distil.recompute", "false".into()),
        ("distil.projector", "{ kind = 'mlp', hidden = 32 }".into()),
        ("data.test", "{ kind = 'idx', images = 'a', labels = 'b', classes = 10 }".into()),
    ];
    let others = others.into_iter().map(|(path, value)| (path.to_string(), value));
    let edits: Vec<(String, String)> = of_models.chain(of_views).chain(others).collect();
    let mut whole = smoke(&edits.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect::<Vec<_>>());
    let student = whole["student"].clone();
    whole["teachers"][1].as_table_mut().unwrap().insert("student".into(), student);

    let columns = ("columns", "['fine-tune-600', 'probe-avg']");
    let swin = smoke(&[
        ("student", SWIN_MODEL),
        ("teachers.0.model", SWIN_MODEL),
        ("teachers.1.model", SWIN_MODEL),
        ("teachers.1.student", SWIN_MODEL),
        ("teachers.0.pretrain.train.crops.1.size", "[28, 28]"),
        ("teachers.0.pretrain.train.targets", "{ kind = 'centring', momentum = 0.9 }"),
        ("distil.projector", "{ kind = 'wide', heads = 4 }"),
        ("data.train", "{ kind = 'idx', images = 'a', labels = 'b', classes = 10 }"),
        columns,
    ]);
    let logits = |loss: &str| {
        let mut table = smoke(&[
            ("distil.objective.target", "'logits'"),
            ("distil.objective.normalisation", "'none'"),
            ("distil.objective.loss", &format!("{{ {loss} }}")),
        ]);
        // Only a teacher with labels has logits: two of them.
        let teachers = table["teachers"].as_array_mut().unwrap();
        teachers[0] = teachers[1].clone();
        teachers[0]["name"] = "other".into();
        let members = ["other", "supervised"].map(|teacher| member(teacher, "kind = 'linear'", "none", "logits", loss));
        let both = format!("[{{ name = 'both', members = [{}] }}]", members.join(", "));
        table.insert("ensembles".into(), both.parse().unwrap());
        table
    };
    let [mae, clip] = [MAE, CLIP].map(|pretrain| {
        let views = "teachers.0.pretrain.train.views";
        let (photometric, rand_augment) = (format!("{views}.photometric"), format!("{views}.rand_augment"));
        smoke(&[("teachers.0.pretrain", pretrain), (&photometric, PHOTOMETRIC), (&rand_augment, RAND_AUGMENT)])
    });
    vec![whole, swin, mae, clip, logits("kind = 'kl', temperature = 2.0"), logits("kind = 'soft-cross-entropy', temperature = 2.0")]
}

/// The places of a table that a path with `*` stands for.
fn places(table: &Table, path: &str) -> Vec<Vec<String>> {
    let mut places = vec![vec![]];
    for part in parts(path) {
        places = if part == "*" {
            let many = |p: &Vec<String>| get(table, p).and_then(Value::as_array).map_or(0, Vec::len);
            places.iter().flat_map(|p| (0..many(p)).map(|i| [p.clone(), vec![i.to_string()]].concat())).collect()
        } else {
            places.into_iter().map(|p| [p, vec![part.clone()]].concat()).collect()
        };
    }
    places
}

/// Does what the key depends on hold at this place?
fn applies(table: &Table, shown: &Shown, key: &Key, place: &[String]) -> bool {
    let beside = key.when.as_ref().map(|when| [&place[..place.len() - 1].join("."), when.as_str()].join("."));
    shown.when.iter().cloned().chain(beside).all(|condition| {
        let (path, word) = condition.split_once(" = ").unwrap();
        let path = parts(path);
        let at: Vec<String> = path.iter().enumerate().map(|(i, part)| if part == "*" { place[i].clone() } else { part.clone() }).collect();
        get(table, &at[..at.len() - 1]).is_some_and(Value::is_table)
            && get(table, &at).map_or(word == "\"vit\"", |value| format!("{value}").replace('\'', "\"") == word)
    })
}

/// A place where the table has the key.
fn here(table: &Table, shown: &Shown, key: &Key) -> Option<Vec<String>> {
    places(table, &key.path).into_iter().find(|place| get(table, place).is_some() && applies(table, shown, key, place))
}

/// Is it refused, by the command line's way or, `deep`, by what a run does first?
fn verdict(table: &Table, sets: &[String], deep: bool) -> Result<(), String> {
    let (config, _) = config::load::<TableConfig>(&source(toml::to_string(table).unwrap()), sets).map_err(|e| e.to_string())?;
    config.check(600, 10).map_err(|e| e.to_string())?;
    let price = || TablePrice::of(config, Some((600, 10)), Fleet { devices: 1, rate: None });
    if deep { price().map(|_| ()).map_err(|e| e.to_string()) } else { Ok(()) }
}

/// Values just outside of a key's bounds and, for each, the bound (or, where it is excluded itself, what is next to it).
fn probes(key: &Key) -> Vec<(f64, f64)> {
    let range = key.shape.range;
    let step = |x: f64| if key.shape.kind == Kind::Integer { 1.0 } else { x.abs().max(1.0) * 1e-6 };
    let least = range.minimum.map(|x| (x - step(x), x)).or(range.exclusive_minimum.map(|x| (x, x + 1e-3)));
    let most = range.maximum.map(|x| (x + step(x), x)).or(range.exclusive_maximum.map(|x| (x, x - 1e-3)));
    least.into_iter().chain(most).collect()
}

fn set(table: &Table, key: &Key, place: &[String], x: f64) -> String {
    let one = if key.shape.kind == Kind::Integer { format!("{x}") } else { format!("{x:?}") };
    let many = get(table, place).and_then(Value::as_array).map(Vec::len);
    let value = many.map_or(one.clone(), |n| format!("[{}]", vec![one; n].join(", ")));
    format!("{}={value}", place.join("."))
}

/// What has to be set besides, so that a bound is not refused for the same words as what lies beyond it.
fn besides(table: &Table, key: &Key, place: &[String]) -> Vec<String> {
    let parent = &place[..place.len() - 1];
    let swin = get(table, parent).is_some_and(|model| model.get("kind").is_some());
    match (key.name.as_str(), key.path.contains("crops")) {
        ("img_size", _) if key.path.starts_with("fine_tune") => {
            let models = ["student", "teachers.0.model", "teachers.1.model", "teachers.1.student"];
            models.iter().filter(|m| get(table, &parts(m)).is_some()).map(|model| format!("{model}.patch_size=1")).collect()
        }
        ("img_size", _) => vec![format!("{}.patch_size=1", parent.join("."))],
        ("size", true) => {
            let of_model = |set: &str| format!("teachers.{}.model.{set}", place[1]);
            let one_stage = ["depths=[1]", "num_heads=[1]", "pretrained_windows=[]", "out_stage=1"].map(of_model).to_vec();
            let swin = get(table, &[&place[..2], &["model".into(), "kind".into()]].concat()).is_some();
            [vec![of_model("patch_size=1")], if swin { one_stage } else { vec![] }].concat()
        }
        ("mlp_ratio", _) if parent.last().is_some_and(|p| p == "text") => vec![format!("{}.width=8192", parent.join("."))],
        ("mlp_ratio", _) => vec![format!("{}.embed_dim=8192", parent.join("."))],
        ("num_classes", _) if swin => vec![format!("{}.head=mean-pool", parent.join("."))],
        _ => vec![],
    }
}

#[test]
fn bounds_that_are_shown_are_enforced() {
    let bases = bases();
    bases.iter().enumerate().for_each(|(i, base)| verdict(base, &[], true).unwrap_or_else(|e| panic!("base {i}: {e}")));
    let listing = listing(&bases[0]);
    let mut tried = 0;
    for (shown, key) in listing.tables.iter().flat_map(|t| t.keys.iter().map(move |k| (t, k))) {
        let probes = probes(key);
        if probes.is_empty() {
            continue;
        }
        let there: Vec<_> = bases.iter().filter_map(|base| Some((base, here(base, shown, key)?))).collect();
        assert!(!there.is_empty(), "{} {:?}: no table has it", key.path, shown.when);
        for ((base, place), (outside, bound)) in there.iter().flat_map(|at| probes.iter().map(move |probe| (at, *probe))) {
            let sets = |x| [besides(base, key, place), vec![set(base, key, place, x)]].concat();
            let shallow = verdict(base, &sets(outside), false).err();
            let deep = shallow.is_none();
            let refused = shallow.or_else(|| verdict(base, &sets(outside), true).err());
            let refused = refused.unwrap_or_else(|| panic!("{} = {outside} is not refused", place.join(".")));
            // Of a crop the messages name `scale` and `ratio`, of groups of crops the groups.
            let name = key.name.strip_prefix("crop_").unwrap_or(&key.name);
            let name = if key.name == "count" { "crops" } else { name };
            assert!(refused.contains(name), "{} = {outside}: {refused}", place.join("."));
            let without_numbers = |text: &str| text.replace(|c: char| c.is_ascii_digit() || "-+.e".contains(c), "");
            if let Err(why) = verdict(base, &sets(bound), deep) {
                assert_ne!(without_numbers(&why), without_numbers(&refused), "{} = {bound}: {why}", place.join("."));
            }
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn words_that_are_shown_are_known() {
    let bases = bases();
    for (base, listing) in bases.iter().map(|base| (base, listing(base))) {
        for (shown, key) in listing.tables.iter().flat_map(|t| t.keys.iter().map(move |k| (t, k))) {
            let place = here(base, shown, key);
            // Of numbers (an image's channels) the type is refused.
            let Some(place) = place.filter(|_| key.shape.words.iter().any(|w| w.value.is_string())) else { continue };
            let said = |word: &str| verdict(base, &[format!("{}={word}", place.join("."))], false).err().unwrap_or_default();
            let unknown = |text: &str| text.contains("unknown variant") || text.contains("neither");
            for word in key.shape.words.iter().filter_map(|w| w.value.as_str()) {
                assert!(!unknown(&said(word)), "{} = {word}: {}", key.path, said(word));
            }
            assert!(unknown(&said("nothing-like-it")), "{}: {}", key.path, said("nothing-like-it"));
        }
    }
}

/// Every value that a table states, arrays of tables with `*`.
fn stated(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(name, value)| stated(value, &below(name), into)),
        Value::Array(items) if items.first().is_some_and(Value::is_table) => items.iter().for_each(|v| stated(v, &below("*"), into)),
        _ => drop(into.insert(path.to_string())),
    }
}

#[test]
fn every_key_of_a_table_is_listed_and_every_key_listed_is_there_or_optional() {
    let text = |name| match embedded(name) {
        Some(Source::Embedded { text, .. }) => text,
        _ => unreachable!(),
    };
    let tables = ["main", "smoke", "small", "paper/clip-l-336", "paper/swinv2-g"]
        .map(text)
        .into_iter()
        .chain([SWIN])
        .map(|t| toml::from_str(t).unwrap());
    for table in tables.chain(bases()) {
        let (listing, mut keys) = (listing(&table), BTreeSet::new());
        stated(&Value::Table(table.clone()), "", &mut keys);
        let listed: BTreeSet<String> = listing.keys().map(|k| k.path.clone()).collect();
        // An array of tables without any says nothing of its keys.
        let known = |key: &&String| listed.contains(*key) || listed.iter().any(|l| l.starts_with(&format!("{key}.*.")));
        assert!(keys.iter().all(|key| known(&key)), "{:?}", keys.difference(&listed).collect::<Vec<_>>());
        for (shown, key) in listing.tables.iter().flat_map(|t| t.keys.iter().map(move |k| (t, k))) {
            assert!(!key.description.is_empty() && !key.description.contains("[`"), "{}: {}", key.path, key.description);
            for place in places(&table, &key.path).iter().filter(|p| applies(&table, shown, key, p)) {
                let parent = if place.len() == 1 { Some(&table) } else { get(&table, &place[..place.len() - 1]).and_then(Value::as_table) };
                let Some(parent) = parent else { continue };
                let there = parent.contains_key(&key.name);
                assert!(there || !key.required || parent.contains_key("preset"), "{} is not there", place.join("."));
                assert!(!there || !key.values.is_empty(), "{} has no value", place.join("."));
            }
        }
    }
}

#[test]
fn what_may_be_left_out_may_and_is_then_the_default() {
    for base in bases() {
        let (listing, read) = (listing(&base), |table: &Table| table.clone().try_into::<TableConfig>());
        for (shown, key) in listing.tables.iter().flat_map(|t| t.keys.iter().map(move |k| (t, k))) {
            let place = here(&base, shown, key);
            let Some(place) = place.filter(|_| key.name != "kind") else { continue };
            let mut without = base.clone();
            holder(&mut without, &place).remove(&key.name);
            let without = read(&without);
            assert_eq!(without.is_err(), key.required, "{}: {without:?}", place.join("."));
            if let Some(default) = &key.default {
                let mut with = base.clone();
                holder(&mut with, &place).insert(key.name.clone(), Value::try_from(default).unwrap());
                assert_eq!(read(&with).unwrap(), without.unwrap(), "{}", place.join("."));
            }
        }
    }
}

#[test]
fn a_prefix_names_tables_keys_and_elements() {
    let (config, stated) = config::load::<TableConfig>(&embedded("main").unwrap(), &[]).unwrap();
    let of = |prefix: &str| Listing::of(&config, &stated, Some(prefix)).map_err(|e| e.to_string());
    let recipe = of("distil.recipe").unwrap();
    assert_eq!((recipe.tables.len(), recipe.tables[0].path.as_str(), recipe.keys().count()), (1, "distil.recipe", 12));
    let epochs = of("distil.recipe.epochs").unwrap();
    assert_eq!(epochs.keys().map(|k| k.values.clone()).collect::<Vec<_>>(), [[20]]);
    let train_on = |prefix: &str| of(prefix).unwrap().keys().find(|k| k.name == "train_on_epochs").unwrap().clone();
    assert_eq!(train_on("teachers").values, [6, 4, 12, 27, 25]);
    assert_eq!(
        (train_on("teachers.supervised").path.as_str(), train_on("teachers.supervised").values),
        ("teachers.supervised.train_on_epochs", vec![27.into()])
    );
    assert_eq!(train_on("teachers.0").values, [6]);
    // A number stays as it was written.
    assert_eq!(of("data.normalise.mean").unwrap().keys().next().unwrap().values[0].to_string(), "[0.286]");
    for (wrong, said) in [
        ("distil.recip", "no key `distil.recip`; nearest: `distil.recipe`"),
        ("tables", "no key `tables`"),
        ("teachers.DIN", "no key `teachers.DIN`; nearest: `teachers.DINO`"),
        ("distil.recipe.epochs.x", "no key `distil.recipe.epochs.x`: `distil.recipe.epochs` has no keys below it"),
        ("distil..x", "an empty part"),
    ] {
        assert!(of(wrong).unwrap_err().contains(said), "{wrong}: {:?}", of(wrong));
    }
}

#[test]
fn a_preset_s_values_are_shown() {
    let table = smoke(&[("student", "{ preset = 'swinv2-t', img_size = [28, 28], patch_size = 2, in_chans = 1 }")]);
    let (config, stated) = config::load::<TableConfig>(&source(toml::to_string(&table).unwrap()), &[]).unwrap();
    let listing = Listing::of(&config, &stated, Some("student")).unwrap();
    let value = |name: &str| listing.keys().filter(|k| k.name == name).flat_map(|k| k.values.clone()).collect::<Vec<_>>();
    assert_eq!((value("preset"), value("window_size"), value("patch_size")), (vec!["swinv2-t".into()], vec![7.into()], vec![2.into()]));
    assert!(value("depth").is_empty());
}
