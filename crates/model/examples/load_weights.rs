//! Opens a weight file of any code, says what is in it, loads it and looks at one random image.
//!
//! ```sh
//! cargo run --release -p fd-model --example load_weights -- FILE [KEY]
//! ```

use std::path::Path;

use fd_compute::{Arena, Cx, DType, Device, Layout, Params, Planner, StepKey, Stream};
use fd_model::{Allow, Import, Model, Taps};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let file = args.first().ok_or("usage: load_weights FILE [KEY]")?;

    // Which models are in the file? A checkpoint of DINO's has two: the key says which.
    let import = Import::open(Path::new(file))?;
    let found = import.choose(args.get(1).map(String::as_str))?;
    // Tensor by tensor against the architecture: what does not fit is refused, unless `Allow` names it.
    let fit = import.fit(found, &found.config, &Allow::default())?;
    println!("{}", fit.report());

    // Parameters by their names, then the model that reads them.
    let mut layout = Layout::builder();
    let model = Model::declare(&found.config, &mut layout, "")?;
    let mut params = Params::new(&layout.finish(), DType::F32);
    fit.load(&mut params, "")?;

    // A plan is described once and runs any number of times.
    let (height, width) = found.config.img_size();
    let mut p = Planner::new();
    p.bind(params.layout());
    let images = p.input([1, found.config.in_chans(), height, width]);
    let tokens = model.plan(&mut p, images, Taps::default())?.map();
    p.keep(tokens);
    let plan = p.finish()?;
    let mut arena = Arena::new(&plan, DType::F32);
    let mut random = Stream::new(&[0]);
    arena.value_mut::<f32>(images).iter_mut().for_each(|x| *x = random.normal() as f32);
    let sets = [&params];
    plan.forward(&mut Cx { train: false, ..Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default()) })?;
    println!("tokens {}: the first begins {:?}", plan.shape(tokens), &arena.value::<f32>(tokens)[..4]);
    Ok(())
}
