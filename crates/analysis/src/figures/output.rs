//! A sheet as SVG text and as a PNG's bytes.

use std::fmt::Write as _;

use fd_distill::figure::canvas::{self, Canvas, DrawError};
use flate2::Crc;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use plotters::prelude::*;

use super::sheet::{MM, Raster, Sheet};
use crate::report::encode::base64;

/// Makes the bundled font known to plotters.
pub(super) fn register_font() -> Result<(), DrawError> {
    canvas::register_font()
}

/// Pixels of a sheet.
fn pixels(sheet: &Sheet) -> (u32, u32) {
    (sheet.width.ceil().max(1.0) as u32, sheet.height.ceil().max(1.0) as u32)
}

/// SVG text of the sheet's size in millimetres; images are inside.
pub(super) fn svg(sheet: &Sheet) -> Result<String, DrawError> {
    let (width, height) = pixels(sheet);
    let mut drawn = String::new();
    let root = SVGBackend::with_string(&mut drawn, (width, height)).into_drawing_area();
    sheet.draw(&Canvas::new(&root, 1.0, false))?;
    root.present().map_err(|e| e.to_string())?;
    drop(root);
    // Plotters says its size in pixels; ours is one of paper, and images come first.
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    let (w, h) = (f64::from(width) / MM, f64::from(height) / MM);
    let mut svg = format!(
        "<svg width=\"{w}mm\" height=\"{h}mm\" viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\" \
         xmlns:xlink=\"http://www.w3.org/1999/xlink\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n"
    );
    for raster in &sheet.rasters {
        let Raster { left, top, width, height, pixels } = raster;
        if *width == 0 || *height == 0 {
            continue;
        }
        let data = base64(&encoded(pixels, *width as u32, *height as u32)?);
        let _ = writeln!(
            svg,
            "<image x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
             xlink:href=\"data:image/png;base64,{data}\"/>"
        );
    }
    svg.push_str(body.trim_start());
    Ok(svg)
}

/// A PNG's bytes, which say its size on paper.
pub(super) fn png(sheet: &Sheet) -> Result<Vec<u8>, DrawError> {
    let (width, height) = pixels(sheet);
    let row = 3 * width as usize;
    let mut pixels = vec![255; row * height as usize];
    for raster in &sheet.rasters {
        let wide = raster.width.min((width as usize).saturating_sub(raster.left));
        for (y, line) in raster.pixels.chunks_exact(3 * raster.width.max(1)).enumerate() {
            let at = (raster.top + y) * row + 3 * raster.left;
            if let Some(place) = pixels.get_mut(at..at + 3 * wide) {
                place.copy_from_slice(&line[..3 * wide]);
            }
        }
    }
    let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    sheet.draw(&Canvas::new(&root, 1.0, true))?;
    root.present().map_err(|e| e.to_string())?;
    drop(root);
    Ok(with_size(encoded(&pixels, width, height)?))
}

fn encoded(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, DrawError> {
    let mut bytes = vec![];
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive);
    encoder.write_image(pixels, width, height, ExtendedColorType::Rgb8).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Signature (8 bytes) and header chunk (25) of a PNG.
const HEAD: usize = 33;

/// Puts a `pHYs` chunk behind the header: pixels a metre.
fn with_size(png: Vec<u8>) -> Vec<u8> {
    let per_metre = ((MM * 1000.0) as u32).to_be_bytes();
    let mut body = b"pHYs".to_vec();
    [&per_metre[..], &per_metre, &[1]].iter().for_each(|part| body.extend_from_slice(part));
    let mut crc = Crc::new();
    crc.update(&body);
    let mut out = png[..HEAD].to_vec();
    out.extend(9u32.to_be_bytes());
    out.extend(body);
    out.extend(crc.sum().to_be_bytes());
    out.extend(&png[HEAD..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_says_how_large_it_is_on_paper() {
        let plain = encoded(&[9; 12], 2, 2).unwrap();
        let sized = with_size(plain.clone());
        // Chunk of 9 bytes, 20,000 pixels a metre both ways; its checksum as any reader computes it.
        assert_eq!(sized[HEAD..HEAD + 17], [0, 0, 0, 9, b'p', b'H', b'Y', b's', 0, 0, 0x4e, 0x20, 0, 0, 0x4e, 0x20, 1]);
        assert_eq!((sized.len(), &sized[HEAD + 21..]), (plain.len() + 21, &plain[HEAD..]));
        assert!(fd_data::decode("x.png", &sized, 3).is_ok_and(|i| i.data[..] == [9; 12]));
    }
}
