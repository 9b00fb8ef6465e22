//! The demo, and the face detector that it ships, on real pictures through a whole node.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use shoal_client::Client;
use shoal_protocol::object::function::{Function, Grant, NewFunction};
use shoal_protocol::object::job::{FailureCode, Input, Job, Receipt, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::{BlobId, Kind};
use shoal_testnet::Node;

use crate::{file, node, shoal};

const FOLDER: &str = "node/functions/face-detect";
/// Where another implementation of the same cascade finds the face, see the fixtures' README.
const REFERENCE: Area = Area { row: 74.0, column: 178.0, height: 87.0, width: 87.0 };
/// What two frames must have in common to be of one face.
const OVERLAP_MIN: f64 = 0.5;
/// The demo's frame, in pixels.
const THICKNESS: usize = 3;
/// The variable that chooses another seed for the crops.
const SEED_VARIABLE: &str = "SHOAL_CROP_SEED";
const CROPS: usize = 20;
const CROP_EDGE: usize = 256;

/// A rectangle, in pixels from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Area {
    row: f64,
    column: f64,
    height: f64,
    width: f64,
}

impl Area {
    /// Intersection over union.
    fn overlap(self, other: Self) -> f64 {
        let common = |start: f64, len: f64, other: f64, other_len: f64| {
            ((start + len).min(other + other_len) - start.max(other)).max(0.0)
        };
        let both = common(self.row, self.height, other.row, other.height)
            * common(self.column, self.width, other.column, other.width);
        both / (self.height * self.width + other.height * other.width - both)
    }

    /// The largest distance between the two frames' edges.
    fn distance(self, other: Self) -> f64 {
        let edges = |area: Self| [area.row, area.column, area.row + area.height, area.column + area.width];
        edges(self).into_iter().zip(edges(other)).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max)
    }
}

/// What the function returns.
#[derive(Debug, Deserialize)]
struct Found {
    width: usize,
    height: usize,
    faces: Vec<Area>,
}

/// A picture of 8-bit RGB.
#[derive(Clone, PartialEq)]
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    fn read(bytes: &[u8]) -> Self {
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let mut reader = decoder.read_info().unwrap();
        let mut samples = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut samples).unwrap();
        let channels = info.color_type.samples();
        assert!(channels >= 3, "the fixtures are in colour");
        let pixels = samples[..info.buffer_size()].chunks_exact(channels).map(|p| [p[0], p[1], p[2]]).collect();
        Self { width: info.width as usize, height: info.height as usize, pixels }
    }

    fn fixture(name: &str) -> Self {
        Self::read(&file(&format!("{FOLDER}/fixtures/{name}")))
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(self.pixels.as_flattened()).unwrap();
        writer.finish().unwrap();
        bytes
    }

    /// The nearest pixel: outside of the picture its edge repeats.
    fn at(&self, row: isize, column: isize) -> [u8; 3] {
        let row = row.clamp(0, self.height as isize - 1) as usize;
        let column = column.clamp(0, self.width as isize - 1) as usize;
        self.pixels[row * self.width + column]
    }

    fn from_pixels(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Self {
        let pixels = (0..width * height).map(|place| pixel(place / width, place % width)).collect();
        Self { width, height, pixels }
    }

    fn mirrored(&self) -> Self {
        Self::from_pixels(self.width, self.height, |row, column| {
            self.at(row as isize, (self.width - 1 - column) as isize)
        })
    }

    /// Moved down and to the right.
    fn shifted(&self, down: isize, right: isize) -> Self {
        Self::from_pixels(self.width, self.height, |row, column| self.at(row as isize - down, column as isize - right))
    }

    /// Bilinear.
    fn scaled(&self, factor: f64) -> Self {
        let edge = |edge: usize| (edge as f64 * factor).round() as usize;
        Self::from_pixels(edge(self.width), edge(self.height), |row, column| {
            let source = |place: usize| ((place as f64 + 0.5) / factor - 0.5).max(0.0);
            let (y, x) = (source(row), source(column));
            let (top, left, down, right) = (y as isize, x as isize, y.fract(), x.fract());
            let corner = |row, column, channel: usize| f64::from(self.at(top + row, left + column)[channel]);
            std::array::from_fn(|channel| {
                let upper = corner(0, 0, channel) * (1.0 - right) + corner(0, 1, channel) * right;
                let lower = corner(1, 0, channel) * (1.0 - right) + corner(1, 1, channel) * right;
                (upper * (1.0 - down) + lower * down).round() as u8
            })
        })
    }

    fn crop(&self, row: usize, column: usize, edge: usize) -> Self {
        Self::from_pixels(edge, edge, |y, x| self.at((row + y) as isize, (column + x) as isize))
    }
}

/// A sequence of numbers that a seed decides: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// A node with the detector deployed and its model under its key.
struct Detector {
    client: Client,
    function: Function,
    model: BlobId,
    // Last: it outlives its client.
    _node: Node,
}

impl Detector {
    async fn start() -> Self {
        let node = node().await;
        let client = node.client().await.unwrap();
        let component = client.put_bytes(&file(&format!("{FOLDER}/face-detect.wasm")), false, "").await.unwrap().id;
        let grants = [Grant::Blob, Grant::Kv].into();
        let function =
            client.deploy(&NewFunction { grants, ..NewFunction::new("face-detect", component) }).await.unwrap();
        let cascade = file(&format!("{FOLDER}/fixtures/lbpcascade_frontalface_opencv.xml"));
        let model = client.put_bytes(&cascade, false, "").await.unwrap().id;
        client.kv_set(function.id, Scope::Global, "model", Value::Blob(model)).await.unwrap();
        Self { client, function, model, _node: node }
    }

    async fn input(&self, picture: &Picture) -> Submit {
        let input = Input::Blob(self.client.put_bytes(&picture.write(), false, "").await.unwrap().id);
        Submit { function: "face-detect".into(), input, ..Submit::default() }
    }

    async fn run(&self, picture: &Picture) -> Job {
        let id = self.client.submit(&self.input(picture).await).await.unwrap();
        self.client.wait(id, None, true).await.unwrap()
    }

    async fn found(&self, job: Job) -> Found {
        assert_eq!(job.state, State::Succeeded, "{:?}", job.failure);
        let result = self.client.result_bytes(job.id, 1 << 20).await.unwrap();
        serde_json::from_slice(&result).unwrap()
    }

    /// The strongest face, of a picture that shows one.
    async fn face(&self, picture: &Picture) -> Area {
        let found = self.found(self.run(picture).await).await;
        assert_eq!((found.width, found.height), (picture.width, picture.height));
        *found.faces.first().expect("no face was found")
    }
}

#[test]
fn the_demo_runs_to_its_end_and_frames_the_face() {
    let out = tempfile::tempdir().unwrap();
    let demo = Command::new(shoal()).args(["demo", "--out"]).arg(out.path()).output().unwrap();
    let said = String::from_utf8(demo.stdout).unwrap();
    assert!(demo.status.success(), "{said}{}", String::from_utf8_lossy(&demo.stderr));
    assert!(said.contains("coffee: no face"), "{said}");
    for node in ["desk", "camera", "attic"] {
        let worker = std::fs::read_to_string(out.path().join(node).join("worker/lock")).unwrap();
        assert!(!Path::new("/proc").join(worker.trim()).exists(), "a worker of the demo lives on as process {worker}");
    }
    assert!(said.contains("ran at the worker attic-local"), "{said}");

    let original = Picture::fixture("astronaut.png");
    let framed = Picture::read(&std::fs::read(out.path().join("astronaut-found.png")).unwrap());
    assert_eq!((framed.width, framed.height), (original.width, original.height));
    let places = 0..original.pixels.len();
    let changed: HashSet<(usize, usize)> = places
        .filter(|place| original.pixels[*place] != framed.pixels[*place])
        .map(|place| (place / original.width, place % original.width))
        .collect();
    let rows = changed.iter().map(|(row, _)| *row);
    let columns = changed.iter().map(|(_, column)| *column);
    let (top, bottom) = (rows.clone().min().expect("nothing was drawn"), rows.max().unwrap());
    let (left, right) = (columns.clone().min().unwrap(), columns.max().unwrap());
    for row in top..=bottom {
        for column in left..=right {
            let from_edge = (row - top).min(bottom - row).min(column - left).min(right - column);
            let on_frame = from_edge < THICKNESS;
            assert_eq!(changed.contains(&(row, column)), on_frame, "row {row}, column {column}");
        }
    }
    let inside = Area {
        row: (top + THICKNESS) as f64,
        column: (left + THICKNESS) as f64,
        height: (bottom + 1 - top - 2 * THICKNESS) as f64,
        width: (right + 1 - left - 2 * THICKNESS) as f64,
    };
    assert!(inside.overlap(REFERENCE) >= OVERLAP_MIN, "{inside:?}");
}

#[tokio::test]
async fn the_face_is_followed_through_a_mirrored_a_shifted_and_a_smaller_copy() {
    let detector = Detector::start().await;
    let original = Picture::fixture("astronaut.png");
    let face = detector.face(&original).await;
    assert!(face.overlap(REFERENCE) >= OVERLAP_MIN, "{face:?}");
    // One step from size to size is a tenth of the frame: that far its edges may move where sizes or sides change.
    let step = face.width / 10.0;

    let mirrored = Area { column: original.width as f64 - face.column - face.width, ..face };
    let found = detector.face(&original.mirrored()).await;
    assert!(found.overlap(mirrored) >= OVERLAP_MIN && found.distance(mirrored) <= step, "{found:?}, not {mirrored:?}");

    let shifted = Area { row: face.row + 57.0, column: face.column - 83.0, ..face };
    let found = detector.face(&original.shifted(57, -83)).await;
    assert!(found.overlap(shifted) >= OVERLAP_MIN && found.distance(shifted) <= step, "{found:?}, not {shifted:?}");

    let part = |length: f64| length * 0.7;
    let smaller =
        Area { row: part(face.row), column: part(face.column), height: part(face.height), width: part(face.width) };
    let found = detector.face(&original.scaled(0.7)).await;
    assert!(found.overlap(smaller) >= OVERLAP_MIN && found.distance(smaller) <= step, "{found:?}, not {smaller:?}");
}

#[tokio::test]
async fn no_crop_of_a_cup_of_coffee_shows_a_face() {
    let seed = std::env::var(SEED_VARIABLE).map_or(2, |text| text.parse().expect("a seed is a number"));
    println!("the crops are those of {SEED_VARIABLE}={seed}");
    let mut random = Random(seed);
    let detector = Detector::start().await;
    let coffee = Picture::fixture("coffee.png");
    let whole = detector.run(&coffee).await;
    assert_eq!(detector.found(whole).await.faces, []);

    let mut places = Vec::new();
    let mut submits = Vec::new();
    for _ in 0..CROPS {
        let (row, column) = (random.below(coffee.height - CROP_EDGE + 1), random.below(coffee.width - CROP_EDGE + 1));
        submits.push(detector.input(&coffee.crop(row, column, CROP_EDGE)).await);
        places.push((row, column));
    }
    let receipts = detector.client.submit_batch(&submits).await.unwrap();
    assert_eq!(receipts.len(), CROPS);
    for (receipt, (row, column)) in receipts.into_iter().zip(places) {
        let Receipt::Accepted { id } = receipt else { panic!("refused: {receipt:?}") };
        let found = detector.found(detector.client.wait(id, None, true).await.unwrap()).await;
        assert_eq!((found.width, found.height), (CROP_EDGE, CROP_EDGE));
        assert_eq!(found.faces, [], "at row {row}, column {column} of {SEED_VARIABLE}={seed}");
    }
}

#[tokio::test]
async fn without_its_model_the_job_fails_and_says_what_is_missing() {
    let detector = Detector::start().await;
    let (client, function, model) = (&detector.client, detector.function.id, detector.model);
    let picture = Picture::fixture("astronaut.png").crop(0, 0, CROP_EDGE);
    let refused = client.delete_blob(model).await.expect_err("a key refers to it");
    assert_eq!(refused.kind(), Some(Kind::Conflict), "{refused}");
    assert_eq!(detector.run(&picture).await.state, State::Succeeded);

    client.kv_delete(function, Scope::Global, "model").await.unwrap();
    let job = detector.run(&picture).await;
    let failure = job.failure.expect("it failed");
    assert_eq!((job.state, failure.code), (State::Failed, FailureCode::Guest));
    assert!(failure.message.contains("no key `model`"), "{}", failure.message);

    // A key that names it as text does not hold it.
    client.kv_set(function, Scope::Global, "model", Value::Text(model.to_string())).await.unwrap();
    assert_eq!(detector.run(&picture).await.state, State::Succeeded);
    client.delete_blob(model).await.unwrap();
    let job = detector.run(&picture).await;
    let failure = job.failure.expect("it failed");
    assert_eq!((job.state, failure.code), (State::Failed, FailureCode::Guest));
    assert!(failure.message.contains(&format!("blob {model} of the key `model`")), "{}", failure.message);
}
