//! Image folders: layouts, order, conversion, damage; and data sets as configuration names them.

mod support;

use std::fs;
use std::io::Cursor;

use fd_data::{DataSpec, Folder, Source, Split, decode, open};
use image::{DynamicImage, ImageFormat};
use support::{TempDir, message};

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A png of 2 rows, 3 columns in one colour.
fn png(rgb: [u8; 3]) -> Vec<u8> {
    encoded(image::RgbImage::from_pixel(3, 2, image::Rgb(rgb)), ImageFormat::Png)
}

#[test]
fn a_flat_folder_is_unlabelled_and_sorted() {
    let dir = TempDir::new("flat");
    dir.write("b.PNG", &png([9, 8, 7]));
    dir.write("a.Jpg", &encoded(image::GrayImage::from_pixel(5, 4, image::Luma([77])), ImageFormat::Jpeg));
    dir.write("notes.txt", b"no image");
    dir.write(".hidden.png", b"ignored");
    let folder = Folder::open(dir.path(), 3).unwrap();
    assert_eq!((folder.len(), folder.num_classes(), folder.label(0)), (2, 0, None));
    let (first, second) = (folder.image(0).unwrap(), folder.image(1).unwrap());
    assert_eq!((first.height, first.width, first.channels), (4, 5, 3));
    assert!(first.data.iter().all(|v| v.abs_diff(77) <= 1));
    assert_eq!(second.data.as_ref(), [9, 8, 7].repeat(6));
    assert!(message(folder.image(2)).contains("no sample 2: expected an index less than 2"));
}

#[test]
fn class_folders_follow_the_order_of_image_folder() {
    let dir = TempDir::new("classes");
    for name in ["dog/2.png", "dog/10.png", "cat/z.png", "cat/deep/a.png", "Ape/x.jpeg", ".git/y.png"] {
        dir.write(name, &png([1, 2, 3]));
    }
    let folder = Folder::open(dir.path(), 1).unwrap();
    let names: Vec<_> = folder.files().iter().map(|f| f.strip_prefix(dir.path()).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["Ape/x.jpeg", "cat/z.png", "cat/deep/a.png", "dog/10.png", "dog/2.png"]);
    assert_eq!(folder.class_names(), ["Ape", "cat", "dog"]);
    assert_eq!((0..6).map(|i| folder.label(i)).collect::<Vec<_>>(), [Some(0), Some(1), Some(1), Some(2), Some(2), None]);
    // The content decides: Ape/x.jpeg is a png.
    assert_eq!(folder.image(0).unwrap().channels, 1);
}

#[cfg(unix)]
#[test]
fn cycles_of_links_end() {
    let dir = TempDir::new("links");
    dir.write("real/a.png", &png([0; 3]));
    std::os::unix::fs::symlink(dir.path(), dir.path().join("real/loop")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("real"), dir.path().join("alias")).unwrap();
    assert_eq!(Folder::open(dir.path(), 3).unwrap().class_names(), ["alias", "real"]);
}

#[test]
fn bad_folders_are_refused_with_their_names() {
    let dir = TempDir::new("bad-folders");
    assert!(message(Folder::open(&dir.path().join("absent"), 3)).contains("absent: cannot be read: "));
    assert!(message(Folder::open(dir.path(), 3)).ends_with(": expected at least one image, found none"));
    dir.write("full/a.png", &png([0; 3]));
    dir.write("void/readme", b"");
    assert!(message(Folder::open(dir.path(), 3)).ends_with("void: expected at least one image, found none"));
    dir.write("void/b.png", &png([0; 3]));
    assert_eq!(message(Folder::open(dir.path(), 2)), "channels: expected 1 or 3, found 2");
    dir.write("stray.png", &png([0; 3]));
    assert!(message(Folder::open(dir.path(), 3)).ends_with("expected images or class folders, found both (stray.png beside full)"));
}

#[test]
fn damaged_images_are_named() {
    let dir = TempDir::new("bad-images");
    let good = png([5; 3]);
    dir.write("cut.png", &good[..good.len() / 2]);
    dir.write("text.jpg", b"this is no image");
    dir.write("void.png", b"");
    dir.write("wide.png", &encoded(image::ImageBuffer::from_pixel(2, 2, image::Luma([40_000u16])), ImageFormat::Png));
    let folder = Folder::open(dir.path(), 3).unwrap();
    for (index, name) in ["cut.png", "text.jpg", "void.png"].iter().enumerate() {
        assert!(message(folder.image(index)).contains(&format!("{name}: undecodable image: ")));
    }
    assert!(message(folder.image(3)).ends_with("wide.png: unsupported image: expected 8 bits a channel, found L16"));
    fs::remove_file(dir.path().join("cut.png")).unwrap();
    assert!(message(folder.image(0)).contains("cut.png: cannot be read: "));
}

#[test]
fn channels_convert_as_pillow_does() {
    // Luma: 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2.
    let pixel = [200, 100, 50];
    let rgb = encoded(image::RgbImage::from_pixel(1, 1, image::Rgb(pixel)), ImageFormat::Png);
    let rgba = encoded(image::RgbaImage::from_pixel(1, 1, image::Rgba([200, 100, 50, 7])), ImageFormat::Png);
    let grey = encoded(image::GrayImage::from_pixel(1, 1, image::Luma([30])), ImageFormat::Png);
    let grey_alpha = encoded(image::GrayAlphaImage::from_pixel(1, 1, image::LumaA([30, 7])), ImageFormat::Png);
    for (bytes, one, three) in [(rgb, 124, pixel), (rgba, 124, pixel), (grey, 30, [30; 3]), (grey_alpha, 30, [30; 3])] {
        assert_eq!(decode("x", &bytes, 1).unwrap().data.as_ref(), [one]);
        assert_eq!(decode("x", &bytes, 3).unwrap().data.as_ref(), three);
    }
    assert_eq!(message(decode("x", b"", 4)), "channels: expected 1 or 3, found 4");
}

#[test]
fn specs_open_what_they_name_and_refuse_unknown_keys() {
    let dir = TempDir::new("spec");
    dir.write("a.png", &png([0; 3]));
    let spec: DataSpec = toml::from_str("kind = \"fashion-mnist\"\nsplit = \"test\"").unwrap();
    assert_eq!(spec, DataSpec::FashionMnist { split: Split::Test });
    assert_eq!(open(&spec).unwrap().name(), "fashion-mnist test");
    let text = format!("kind = \"folder\"\nchannels = 3\npath = '{}'", dir.path().display());
    let spec: DataSpec = toml::from_str(&text).unwrap();
    assert_eq!(toml::from_str::<DataSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
    assert_eq!(open(&spec).unwrap().len(), 1);
    let spec: DataSpec = toml::from_str("kind = \"idx\"\nimages = \"nowhere.gz\"").unwrap();
    assert!(message(open(&spec)).starts_with("nowhere.gz: cannot be read: "));
    for bad in ["kind = \"fashion-mnist\"", "kind = \"fashion-mnist\"\nsplit = \"test\"\nsize = 3", "kind = \"folder\"\npath = \"x\""] {
        assert!(toml::from_str::<DataSpec>(bad).is_err(), "{bad}");
    }
}
