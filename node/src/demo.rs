//! `shoal demo`: the main job on real input, by the commands that anybody would type.
//!
//! It starts a node of its own in a folder of its own and runs this very program as the client, once for each step:
//! a client that hands over a photograph has exited before the result exists.

mod picture;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::cli::DemoArgs;
use crate::stage::{Stage, say};

/// The function: a core module, which becomes a component when it is deployed.
const FUNCTION: &[u8] = include_bytes!("../functions/face-detect/face-detect.wasm");
/// The model that it is given: OpenCV's cascade for frontal faces.
const MODEL: &[u8] = include_bytes!("../functions/face-detect/fixtures/lbpcascade_frontalface_opencv.xml");
/// The photographs.
const PHOTOGRAPHS: [(&str, &[u8]); 2] = [
    ("astronaut.png", include_bytes!("../functions/face-detect/fixtures/astronaut.png")),
    ("coffee.png", include_bytes!("../functions/face-detect/fixtures/coffee.png")),
];
/// The KV key under which the function looks for the id of its model.
const MODEL_KEY: &str = "model";

/// What the function returns.
#[derive(Debug, Deserialize)]
struct Found {
    faces: Vec<Face>,
}

/// One face, in pixels from the top left; of all the strongest stands first.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Face {
    row: u32,
    column: u32,
    height: u32,
    width: u32,
    neighbours: u32,
}

/// Runs the demo to its end.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let out = match args.out {
        Some(out) => out,
        None => std::env::temp_dir().join(format!("shoal-demo-{}", std::process::id())),
    };
    let out = std::path::absolute(out).context("finding the folder for the demo")?;
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let files = write_files(&out)?;
    let mut stage = Stage::new(&out)?;

    say("A node starts, with a worker process beside it.");
    let arguments = ["up", "--name", "demo", "--gateway", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    say(&format!("  $ shoal {}", arguments.join(" ")));
    stage.start_node(&arguments)?;

    say("A developer ships a function, and the model that it shall use: the model's id stands in KV under a key.");
    stage.shoal(&["deploy", &files.function, "--name", "face-detect", "--grant", "blob,kv"])?;
    let model = stage.shoal(&["blob", "put", &files.model])?;
    let model = model.split_whitespace().next().unwrap_or_default().to_owned();
    stage.shoal(&["kv", "set", "face-detect", MODEL_KEY, "--blob", &model])?;

    say("A camera hands its photographs over and goes away: what `submit` prints is a promise that is on disk.");
    let mut jobs = Vec::new();
    for photograph in &files.photographs {
        let id = stage.shoal(&["submit", "face-detect", "--input", photograph])?;
        jobs.push((photograph, id.trim().to_owned()));
    }

    say("Later, another client collects the results.");
    let mut faces = 0;
    for (photograph, job) in &jobs {
        stage.shoal(&["job", "wait", job])?;
        let result = stage.shoal(&["job", "result", job])?;
        let found: Found = serde_json::from_str(&result)
            .with_context(|| format!("the result of job {job} is not what the function writes: {result}"))?;
        faces += show(Path::new(photograph), &found, &out)?;
    }

    say("The node stops in order.");
    stage.stop_node()?;
    if faces == 0 {
        bail!("no face was found, although one photograph shows one");
    }
    say(&format!("Done in {:.1} s. All that was made is in {}", begun.elapsed().as_secs_f64(), out.display()));
    Ok(())
}

/// The files that the commands are given.
struct Files {
    function: String,
    model: String,
    photographs: Vec<String>,
}

fn write_files(out: &Path) -> anyhow::Result<Files> {
    let write = |name: &str, bytes: &[u8]| -> anyhow::Result<String> {
        let path: PathBuf = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        path.into_os_string()
            .into_string()
            .map_err(|path| anyhow::anyhow!("{} is not UTF-8", Path::new(&path).display()))
    };
    let photographs = PHOTOGRAPHS.iter().map(|(name, bytes)| write(name, bytes)).collect::<Result<_, _>>()?;
    Ok(Files { function: write("face-detect.wasm", FUNCTION)?, model: write("lbpcascade.xml", MODEL)?, photographs })
}

/// Says what was found in a photograph and frames the strongest face. How many faces there are.
fn show(photograph: &Path, found: &Found, out: &Path) -> anyhow::Result<usize> {
    let name = photograph.file_stem().and_then(|name| name.to_str()).unwrap_or("photograph");
    let Some(face) = found.faces.first() else {
        say(&format!("  {name}: no face"));
        return Ok(0);
    };
    let framed = out.join(format!("{name}-found.png"));
    picture::frame(photograph, &framed, *face)?;
    say(&format!(
        "  {name}: {} face{}, the strongest at row {}, column {}, {} × {} pixels ({} windows agree)\n  framed in {}",
        found.faces.len(),
        if found.faces.len() == 1 { "" } else { "s" },
        face.row,
        face.column,
        face.height,
        face.width,
        face.neighbours,
        framed.display(),
    ));
    Ok(found.faces.len())
}
