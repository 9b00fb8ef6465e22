//! Draws a frame into a PNG.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use anyhow::Context as _;

use super::Face;

/// The frame's colour: a red that stands out in photographs.
const COLOUR: [u8; 3] = [255, 32, 32];
/// The frame's thickness, in pixels.
const THICKNESS: u32 = 3;

/// Copies a picture of 8-bit RGB or RGBA and draws a frame around the face.
pub(super) fn frame(from: &Path, to: &Path, face: Face) -> anyhow::Result<()> {
    let mut decoder = png::Decoder::new(BufReader::new(File::open(from)?));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().with_context(|| format!("reading {}", from.display()))?;
    let len = reader.output_buffer_size().context("the picture is too large")?;
    let mut pixels = vec![0; len];
    let info = reader.next_frame(&mut pixels)?;
    let channels = info.color_type.samples();
    for (x, y) in outline(face) {
        let place = (y as usize * info.width as usize + x as usize) * channels;
        if x < info.width
            && let Some(pixel) = pixels.get_mut(place..place + channels)
        {
            // Gray gets a bright frame, colour a red one; transparency stays.
            for (sample, colour) in pixel.iter_mut().zip(COLOUR).take(channels.min(3)) {
                *sample = colour;
            }
        }
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(to)?), info.width, info.height);
    encoder.set_color(info.color_type);
    encoder.set_depth(info.bit_depth);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.get(..info.buffer_size()).unwrap_or_default())?;
    writer.finish().with_context(|| format!("writing {}", to.display()))
}

/// The pixels of the frame, around the face and not over it.
fn outline(face: Face) -> impl Iterator<Item = (u32, u32)> {
    let left = face.column.saturating_sub(THICKNESS);
    let top = face.row.saturating_sub(THICKNESS);
    let right = face.column.saturating_add(face.width).saturating_add(THICKNESS);
    let bottom = face.row.saturating_add(face.height).saturating_add(THICKNESS);
    (top..bottom).flat_map(move |y| {
        let edge_row = y < face.row || y >= face.row.saturating_add(face.height);
        (left..right).filter_map(move |x| {
            let edge_column = x < face.column || x >= face.column.saturating_add(face.width);
            (edge_row || edge_column).then_some((x, y))
        })
    })
}
