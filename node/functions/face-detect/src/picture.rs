//! The picture: PNG in, gray values out.

use std::io::{BufRead, Seek};

use png::{ColorType, Decoder, Limits, Transformations};

/// Pixels of a picture. Why 16 Mi: decoding and scanning then need about 160 MiB of the 256 that a run has by default.
const PIXELS_MAX: u64 = 16 * 1024 * 1024;

/// Gray values, row by row.
#[derive(Debug, Clone)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub gray: Vec<u8>,
}

impl Picture {
    /// Reads a PNG of any colour type and depth; transparency is ignored. The error is a sentence that names what is
    /// wrong.
    pub fn read(source: impl BufRead + Seek) -> Result<Self, String> {
        let mut decoder = Decoder::new_with_limits(source, Limits { bytes: 4 * PIXELS_MAX as usize });
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(|error| format!("it is no PNG: {error}"))?;
        let (width, height) = (reader.info().width, reader.info().height);
        if u64::from(width) * u64::from(height) > PIXELS_MAX {
            return Err(format!("it has {width} x {height} pixels, and at most {PIXELS_MAX} are taken"));
        }
        let mut pixels = vec![0; reader.output_buffer_size().ok_or("its size is beyond this machine")?];
        let frame = reader.next_frame(&mut pixels).map_err(|error| format!("the PNG is damaged: {error}"))?;
        pixels.truncate(frame.buffer_size());
        Ok(Self { width: width as usize, height: height as usize, gray: to_gray(pixels, frame.color_type) })
    }
}

fn to_gray(pixels: Vec<u8>, color: ColorType) -> Vec<u8> {
    match color {
        ColorType::Grayscale | ColorType::Indexed => pixels,
        ColorType::GrayscaleAlpha => pixels.chunks_exact(2).map(|pixel| pixel[0]).collect(),
        ColorType::Rgb => pixels.chunks_exact(3).map(luma).collect(),
        ColorType::Rgba => pixels.chunks_exact(4).map(luma).collect(),
    }
}

/// OpenCV's weights (ITU-R BT.601) in its 14-bit fixed point, so that the model sees what it was trained on.
fn luma(pixel: &[u8]) -> u8 {
    let weighted = u32::from(pixel[0]) * 4899 + u32::from(pixel[1]) * 9617 + u32::from(pixel[2]) * 1868;
    ((weighted + (1 << 13)) >> 14) as u8
}
