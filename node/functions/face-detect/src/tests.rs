//! The detector on the photographs of `fixtures/`, against the results of another implementation, and what it refuses.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::*;
use crate::detect::{Area, detect};

/// Where scikit-image's implementation of the same cascade finds the face (see fixtures/README.md).
const FACE: Area = Area { row: 74.0, column: 178.0, height: 87.0, width: 87.0 };

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn cascade() -> Cascade {
    Cascade::parse(&std::fs::read_to_string(fixture("lbpcascade_frontalface_opencv.xml")).unwrap()).unwrap()
}

fn picture(name: &str) -> Picture {
    Picture::read(BufReader::new(File::open(fixture(name)).unwrap())).unwrap()
}

fn faces(picture: &Picture) -> Vec<Detection> {
    faces_with(picture, SEARCH)
}

fn faces_with(picture: &Picture, search: Search) -> Vec<Detection> {
    detect(&cascade(), picture, search, |_, _, _| {}).unwrap()
}

fn from_pixels(width: usize, height: usize, pixel: impl Fn(usize, usize) -> u8) -> Picture {
    let gray = (0..width * height).map(|index| pixel(index / width, index % width)).collect();
    Picture { width, height, gray }
}

/// Part of a picture; outside of it the nearest pixel repeats.
fn crop(source: &Picture, row: isize, column: isize, width: usize, height: usize) -> Picture {
    from_pixels(width, height, |y, x| {
        let y = (row + y as isize).clamp(0, source.height as isize - 1) as usize;
        let x = (column + x as isize).clamp(0, source.width as isize - 1) as usize;
        source.gray[y * source.width + x]
    })
}

/// Bilinear.
fn scale(source: &Picture, factor: f32) -> Picture {
    let at =
        |y: usize, x: usize| f32::from(source.gray[y.min(source.height - 1) * source.width + x.min(source.width - 1)]);
    let edge = |edge: usize| (edge as f32 * factor).round() as usize;
    from_pixels(edge(source.width), edge(source.height), |y, x| {
        let (y, x) = (((y as f32 + 0.5) / factor - 0.5).max(0.0), ((x as f32 + 0.5) / factor - 0.5).max(0.0));
        let (top, left, down, right) = (y as usize, x as usize, y.fract(), x.fract());
        let upper = at(top, left) * (1.0 - right) + at(top, left + 1) * right;
        let lower = at(top + 1, left) * (1.0 - right) + at(top + 1, left + 1) * right;
        (upper * (1.0 - down) + lower * down).round() as u8
    })
}

/// Intersection over union.
fn overlap(one: Area, other: Area) -> f32 {
    let length = |start: f32, len: f32, other_start: f32, other_len: f32| {
        ((start + len).min(other_start + other_len) - start.max(other_start)).max(0.0)
    };
    let common =
        length(one.row, one.height, other.row, other.height) * length(one.column, one.width, other.column, other.width);
    common / (one.height * one.width + other.height * other.width - common)
}

#[track_caller]
fn assert_face(picture: &Picture, expected: Area) {
    let faces = faces(picture);
    let strongest = faces.first().expect("no face");
    assert!(overlap(strongest.area, expected) >= 0.5, "{faces:?}");
}

#[test]
fn the_face_is_found_where_another_implementation_finds_it() {
    assert_face(&picture("astronaut.png"), FACE);
}

#[test]
fn the_face_is_found_in_a_mirrored_a_shifted_and_a_smaller_copy() {
    let original = picture("astronaut.png");
    let last = original.width - 1;
    let mirrored =
        from_pixels(original.width, original.height, |row, column| original.gray[row * original.width + last - column]);
    assert_face(&mirrored, Area { column: 512.0 - FACE.column - FACE.width, ..FACE });
    for (row, column) in [(-61, -37), (43, 29), (70, -90), (-120, 100)] {
        let moved = Area { row: FACE.row - row as f32, column: FACE.column - column as f32, ..FACE };
        assert_face(&crop(&original, row, column, 512, 512), moved);
    }
    for factor in [0.6, 0.7, 0.8, 1.3] {
        let [row, column, height, width] = [FACE.row, FACE.column, FACE.height, FACE.width].map(|part| part * factor);
        assert_face(&scale(&original, factor), Area { row, column, height, width });
    }
}

#[test]
fn there_is_no_face_in_a_cup_of_coffee() {
    let coffee = picture("coffee.png");
    assert_eq!(faces(&coffee), []);
    // A fixed sequence of crops (a linear congruential generator), so that a failure can be looked at.
    let mut state = 1u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..200 {
        let (width, height) = (100 + random(501), 100 + random(301));
        let (row, column) = (random(401 - height), random(601 - width));
        let found = faces(&crop(&coffee, row as isize, column as isize, width, height));
        assert_eq!(found, [], "{width} x {height} at row {row}, column {column}");
    }
}

#[test]
fn a_picture_smaller_than_the_window_has_no_face() {
    assert_eq!(faces(&from_pixels(1, 1, |_, _| 0)), []);
    assert_eq!(faces(&from_pixels(39, 500, |row, column| (row * column) as u8)), []);
}

#[test]
fn every_colour_type_is_read() {
    use png::{BitDepth, ColorType};
    let write = |color: ColorType, depth: BitDepth, palette: Option<Vec<u8>>, data: &[u8]| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if let Some(palette) = palette {
            encoder.set_palette(palette);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        Picture::read(Cursor::new(bytes)).unwrap().gray
    };
    assert_eq!(write(ColorType::Grayscale, BitDepth::Eight, None, &[7, 200]), [7, 200]);
    assert_eq!(write(ColorType::Grayscale, BitDepth::One, None, &[0b0100_0000]), [0, 255]);
    assert_eq!(write(ColorType::Grayscale, BitDepth::Sixteen, None, &[7, 255, 200, 0]), [7, 200]);
    assert_eq!(write(ColorType::GrayscaleAlpha, BitDepth::Eight, None, &[7, 0, 200, 9]), [7, 200]);
    assert_eq!(write(ColorType::Rgb, BitDepth::Eight, None, &[255, 0, 0, 255, 255, 255]), [76, 255]);
    assert_eq!(write(ColorType::Rgba, BitDepth::Eight, None, &[0, 255, 0, 1, 0, 0, 255, 1]), [150, 29]);
    let palette = Some(vec![255, 0, 0, 0, 0, 255]);
    assert_eq!(write(ColorType::Indexed, BitDepth::Eight, palette, &[1, 0]), [29, 76]);
}

#[test]
fn what_is_no_picture_is_refused() {
    let error = |bytes: &[u8]| Picture::read(Cursor::new(bytes.to_vec())).unwrap_err();
    assert!(error(b"GIF89a").starts_with("it is no PNG"), "{}", error(b"GIF89a"));
    let whole = std::fs::read(fixture("coffee.png")).unwrap();
    assert!(error(&whole[..whole.len() / 2]).starts_with("the PNG is damaged"), "{}", error(&whole[..whole.len() / 2]));
    // A header that promises 100,000 x 100,000 pixels costs nothing.
    let mut huge = whole[..33].to_vec();
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    assert!(Picture::read(Cursor::new(huge)).is_err());
}

#[test]
fn what_is_no_cascade_is_refused_in_words() {
    let good = std::fs::read_to_string(fixture("lbpcascade_frontalface_opencv.xml")).unwrap();
    for (change, to, says) in [
        ("<cascade type", "<cascade <", "no well-formed XML"),
        ("LBP", "HAAR", "featureType is `HAAR`"),
        ("<width>24<", "<width>0<", "window is 0 x 24"),
        ("18 0 2 2<", "19 0 2 2<", "feature 19 0 2 2 does not lie inside"),
        ("0 -1 46 ", "0 -1 136 ", "a feature that does not exist"),
        ("0 -1 46 ", "0 -1 ", "`internalNodes` needs 11 numbers"),
        ("<stageThreshold>-0.7520892024040222", "<stageThreshold>x", "`stageThreshold` needs 1 numbers"),
        ("<features>", "<feature>", "XML"),
    ] {
        let error = Cascade::parse(&good.replacen(change, to, 1)).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn arguments_are_read_and_checked() {
    let parse = |words: &[&str]| Arguments::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(parse(&[]).unwrap().model, "model");
    let arguments = parse(&["--model", "other", "--size-min", "60"]).unwrap();
    assert_eq!((arguments.model.as_str(), arguments.search.size_min), ("other", 60));
    assert_eq!(parse(&["--size-min", "big"]).err().unwrap(), "--size-min is `big`, and must be a number up to 65535");
    assert!(parse(&["--model"]).err().unwrap().contains("needs a value"));
    assert!(parse(&["--modle", "x"]).err().unwrap().contains("there is no argument --modle"));
}

#[test]
fn the_result_is_json() {
    let picture = from_pixels(2, 1, |_, _| 0);
    assert_eq!(to_json(&picture, &[]), r#"{"width":2,"height":1,"faces":[]}"#);
    let face = Detection { area: FACE, neighbours: 9 };
    assert_eq!(
        to_json(&picture, &[face, face]),
        concat!(
            r#"{"width":2,"height":1,"faces":["#,
            r#"{"row":74,"column":178,"height":87,"width":87,"neighbours":9},"#,
            r#"{"row":74,"column":178,"height":87,"width":87,"neighbours":9}]}"#
        )
    );
}
