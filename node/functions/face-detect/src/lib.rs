//! Finds faces in a picture.
//!
//! Input: a PNG. Model: an LBP cascade in OpenCV's XML, as a blob whose id stands in the function's own global KV
//! namespace, under the key `model` or the one that the argument `--model KEY` names. Result: JSON,
//! `{"width":..,"height":..,"faces":[{"row":..,"column":..,"height":..,"width":..,"neighbours":..},..]}`, in pixels, the
//! strongest face first. More arguments: `--size-min PIXELS` (the smallest face), `--neighbours-min COUNT` (windows that
//! must agree).
//!
//! Needs the grants `kv` and `blob`.

mod cascade;
mod detect;
mod picture;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::io::Cursor;

use shoal_guest::{Input, blob, info, job, kv, progress};

use cascade::Cascade;
use detect::{Detection, Search};
use picture::Picture;

/// A model, in bytes. Why 16 MiB: OpenCV's largest cascades are 2 MiB.
const MODEL_LEN_MAX: u64 = 16 * 1024 * 1024;

/// How to search unless the arguments say otherwise. Why 40 pixels: below, the cascade fires on texture. Why 8 windows: with
/// this step and factor a face collected 14 to 29 of them in 15 copies of one photograph, texture at most 4 in 300 crops.
const SEARCH: Search = Search { size_min: 40, scale_factor: 1.1, neighbours_min: 8 };

shoal_guest::function!(run);

fn run(input: Input) -> Result<String, String> {
    let Arguments { model, search } = Arguments::parse(&job::arguments())?;
    let cascade = load(&model).map_err(|error| format!("model: {error}"))?;
    let bytes = input.bytes().map_err(|error| format!("picture: {error}"))?;
    let picture = Picture::read(Cursor::new(bytes)).map_err(|error| format!("picture: {error}"))?;
    let faces = detect::detect(&cascade, &picture, search, |done, total, size| match size {
        0 => progress!(done as u64, total as u64, "grouping"),
        _ => progress!(done as u64, total as u64, "windows of {size} pixels"),
    })
    .map_err(|error| format!("model: {error}"))?;
    info!("{} x {} pixels, faces: {}", picture.width, picture.height, faces.len());
    Ok(to_json(&picture, &faces))
}

struct Arguments {
    /// The key under which the model's id stands.
    model: String,
    search: Search,
}

impl Arguments {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut arguments = Self { model: "model".to_owned(), search: SEARCH };
        let mut words = words.iter();
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("the argument {name} needs a value"))?;
            let number =
                || value.parse::<u16>().map_err(|_| format!("{name} is `{value}`, and must be a number up to 65535"));
            match name.as_str() {
                "--model" => arguments.model.clone_from(value),
                "--size-min" => arguments.search.size_min = number()?.into(),
                "--neighbours-min" => arguments.search.neighbours_min = number()?.into(),
                _ => return Err(format!("there is no argument {name}, only --model, --size-min and --neighbours-min")),
            }
        }
        Ok(arguments)
    }
}

/// Fetches and parses the model. The error is a sentence that names the key or the blob that is missing or wrong.
fn load(key: &str) -> Result<Cascade, String> {
    let id = match kv::function().get(key) {
        Ok(Some(kv::Value::Blob(id))) => id,
        // As a person writes it with a plain `set`.
        Ok(Some(kv::Value::Text(text))) => blob::Id::new(text.trim()),
        Ok(Some(_)) => return Err(format!("the key `{key}` holds no blob id")),
        Ok(None) => return Err(format!("the function's namespace has no key `{key}`")),
        Err(error) => return Err(format!("the key `{key}` cannot be read: {error}")),
    };
    let reader = blob::open(&id).map_err(|error| format!("blob {id} of the key `{key}` cannot be opened: {error}"))?;
    if reader.size() > MODEL_LEN_MAX {
        return Err(format!("blob {id} has {} bytes, and at most {MODEL_LEN_MAX} are taken", reader.size()));
    }
    let bytes = reader.into_bytes().map_err(|error| format!("blob {id} of the key `{key}` cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("blob {id} is no text"))?;
    Cascade::parse(&text).map_err(|error| format!("blob {id} is not a cascade: {error}"))
}

fn to_json(picture: &Picture, faces: &[Detection]) -> String {
    let mut json = format!(r#"{{"width":{},"height":{},"faces":["#, picture.width, picture.height);
    for (index, face) in faces.iter().enumerate() {
        let Detection { area, neighbours } = face;
        let separator = if index == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            r#"{separator}{{"row":{},"column":{},"height":{},"width":{},"neighbours":{neighbours}}}"#,
            area.row, area.column, area.height, area.width
        );
    }
    json.push_str("]}");
    json
}
