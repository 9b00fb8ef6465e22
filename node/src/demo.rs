//! `shoal demo`: the main job on real input, by the commands that anybody would type.
//!
//! It starts three nodes of its own in a folder of its own, which find each other by address, and runs this very program as
//! the client, once for each step: the function is shipped at the first node, the photographs are handed over at the second
//! by clients that have exited before a result exists, they run where the only worker with the needed label is, the second node
//! stops, and the results are read at the third.

mod picture;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::cli::DemoArgs;
use crate::stage::{Stage, say};
use shoal_protocol::object::job::Job;

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
/// What the function is called.
const FUNCTION_NAME: &str = "face-detect";

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
    let mut mesh = Mesh::start(&out)?;

    say(
        "A developer ships a function at `desk`, and the model that it shall use: the model's id stands in KV under a key.",
    );
    let desk = &mesh.desk;
    desk.shoal(&[
        "deploy",
        &files.function,
        "--name",
        FUNCTION_NAME,
        "--grant",
        "blob,kv",
        "--needs-label",
        "place=attic",
    ])?;
    let model = desk.shoal(&["blob", "put", &files.model])?;
    let model = model.split_whitespace().next().unwrap_or_default().to_owned();
    desk.shoal(&["kv", "set", FUNCTION_NAME, MODEL_KEY, "--blob", &model])?;

    say("A token that is rooted in the developer's own key counts at every node.");
    let token = desk.shoal_quietly(&["token", "mint", "--valid", "1h"])?;
    mesh.camera.show_token(token.trim());
    mesh.attic.show_token(token.trim());
    mesh.camera.until(&["kv", "get", FUNCTION_NAME, MODEL_KEY], |_| true)?;

    say(
        "A client at `camera` hands photographs over and goes away: what `submit` prints is a promise that is on disk.",
    );
    let mut jobs = Vec::new();
    for photograph in &files.photographs {
        let id = mesh.camera.shoal(&["submit", FUNCTION_NAME, "--input", photograph])?;
        jobs.push((photograph, id.trim().to_owned()));
    }

    say("They run at `attic`, where the label is. Their home is `camera`, and the two others keep them with it.");
    for (_, job) in &jobs {
        mesh.attic.shoal(&["job", "wait", job])?;
    }
    say(
        "`camera`, which has accepted them, stops. Later, another client collects the results at `attic` all the same.",
    );
    mesh.camera.stop_node()?;
    let mut faces = 0;
    for (photograph, job) in &jobs {
        mesh.attic.until(&["job", "wait", job, "--timeout", "1s"], |_| true)?;
        let result = mesh.attic.shoal(&["job", "result", job])?;
        let found: Found = serde_json::from_str(&result)
            .with_context(|| format!("the result of job {job} is not what the function writes: {result}"))?;
        faces += show(Path::new(photograph), &found, &out)?;
    }
    if let Some((_, job)) = jobs.first() {
        mesh.check_where(job)?;
    }

    say("The nodes stop in order.");
    mesh.stop()?;
    if faces == 0 {
        bail!("no face was found, although one photograph shows one");
    }
    say(&format!("Done in {:.1} s. All that was made is in {}", begun.elapsed().as_secs_f64(), out.display()));
    Ok(())
}

/// Three nodes on this machine, each a process with a worker process of its own.
struct Mesh {
    desk: Stage,
    camera: Stage,
    attic: Stage,
}

impl Mesh {
    /// Starts them and returns when each sees the others.
    fn start(out: &Path) -> anyhow::Result<Self> {
        say("Three nodes start, each with a worker process beside it; the second and the third are told of the first.");
        let mut desk = Stage::new(out, "desk")?;
        let (mut camera, mut attic) = (Stage::new(out, "camera")?, Stage::new(out, "attic")?);
        say("  $ shoal up --name desk");
        desk.start_node(&["up", "--name", "desk"])?;
        let join = desk.mesh_address()?;
        say("  $ shoal up --name camera --join DESK");
        camera.start_node(&["up", "--name", "camera", "--join", &join])?;
        say("  $ shoal up --name attic --join DESK --label place=attic");
        attic.start_node(&["up", "--name", "attic", "--join", &join, "--label", "place=attic"])?;
        for (stage, others) in
            [(&desk, ["camera", "attic"]), (&camera, ["desk", "attic"]), (&attic, ["desk", "camera"])]
        {
            stage.until(&["peers"], |peers| others.iter().all(|other| peers.contains(other)))?;
        }
        desk.shoal(&["peers"])?;
        Ok(Self { desk, camera, attic })
    }

    /// Says where a job ran. An error if that is not where the label is.
    fn check_where(&self, job: &str) -> anyhow::Result<()> {
        let job: Job = serde_json::from_str(&self.attic.shoal_quietly(&["job", "show", job, "--json"])?)?;
        let worker = job.attempts.last().map(|attempt| attempt.worker_name.as_str()).unwrap_or_default();
        if worker != "attic-local" {
            bail!("the job ran at {worker:?}, not at the only worker with the label that it needs");
        }
        say(&format!("  handed over at `camera` (home {}), ran at the worker {worker}", job.home.short()));
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        [&mut self.attic, &mut self.desk].into_iter().try_for_each(Stage::stop_node)
    }
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
