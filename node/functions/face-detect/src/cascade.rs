//! The model: a cascade of boosted stages over local binary patterns, as OpenCV's `opencv_traincascade` writes it.
//!
//! Source of the method: S. Liao et al., "Learning Multi-scale Block Local Binary Patterns for Face Recognition" (2007),
//! and P. Viola, M. Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features" (2001). A parsed cascade
//! is consistent: every weak classifier names a feature that exists, and every feature lies inside the window.

use roxmltree::{Document, Node};

/// Pixels of a window's edge. Why 256: far above any cascade in use (20 to 50), and sums of a window fit 32 bits.
const WINDOW_EDGE_MAX: u32 = 256;

/// Stages, weak classifiers and features of a model. Why 10,000: OpenCV's own models have up to a few thousand.
const PARTS_MAX: usize = 10_000;

/// A cascade of stages over one window.
#[derive(Debug)]
pub struct Cascade {
    /// The window's edges, in pixels.
    pub width: u32,
    pub height: u32,
    pub features: Vec<Feature>,
    pub stages: Vec<Stage>,
}

/// Three by three equal cells, compared with the one in the middle. In pixels of the unscaled window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub x: u32,
    pub y: u32,
    /// The edges of one cell.
    pub cell_width: u32,
    pub cell_height: u32,
}

/// A sum of weak classifiers, and what it must reach.
#[derive(Debug)]
pub struct Stage {
    pub threshold: f32,
    pub classifiers: Vec<Classifier>,
}

/// A decision over the 256 patterns of one feature.
#[derive(Debug)]
pub struct Classifier {
    pub feature: usize,
    /// One bit for each pattern: set means `inside`.
    pub patterns: [u32; 8],
    pub inside: f32,
    pub outside: f32,
}

impl Cascade {
    /// Reads a model. The error is a sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document = Document::parse(text).map_err(|error| format!("it is no well-formed XML: {error}"))?;
        let cascade = child(document.root_element(), "cascade")?;
        for (name, wanted) in [("stageType", "BOOST"), ("featureType", "LBP")] {
            let found = child(cascade, name)?.text().unwrap_or_default().trim();
            if found != wanted {
                return Err(format!("its {name} is `{found}`, and only `{wanted}` is known"));
            }
        }
        let [width] = numbers::<u32, 1>(child(cascade, "width")?)?;
        let [height] = numbers::<u32, 1>(child(cascade, "height")?)?;
        if !(3..=WINDOW_EDGE_MAX).contains(&width) || !(3..=WINDOW_EDGE_MAX).contains(&height) {
            return Err(format!("its window is {width} x {height}, and edges go from 3 to {WINDOW_EDGE_MAX}"));
        }
        let features = entries(child(cascade, "features")?)
            .map(|node| feature(node, width, height))
            .collect::<Result<Vec<_>, _>>()?;
        let stages = entries(child(cascade, "stages")?)
            .map(|node| stage(node, features.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let classifiers = stages.iter().map(|stage| stage.classifiers.len()).sum::<usize>();
        if stages.is_empty() || stages.len() > PARTS_MAX || classifiers > PARTS_MAX || features.len() > PARTS_MAX {
            return Err(format!("it needs 1 to {PARTS_MAX} stages, weak classifiers and features"));
        }
        Ok(Self { width, height, features, stages })
    }
}

fn feature(node: Node<'_, '_>, width: u32, height: u32) -> Result<Feature, String> {
    let [x, y, cell_width, cell_height] = numbers::<u32, 4>(child(node, "rect")?)?;
    let inside =
        |start: u32, cell: u32, edge: u32| cell > 0 && cell <= edge && start <= edge && start + 3 * cell <= edge;
    if !inside(x, cell_width, width) || !inside(y, cell_height, height) {
        return Err(format!("the feature {x} {y} {cell_width} {cell_height} does not lie inside its window"));
    }
    Ok(Feature { x, y, cell_width, cell_height })
}

fn stage(node: Node<'_, '_>, features: usize) -> Result<Stage, String> {
    let [threshold] = numbers::<f32, 1>(child(node, "stageThreshold")?)?;
    let classifiers =
        entries(child(node, "weakClassifiers")?).map(|node| classifier(node, features)).collect::<Result<_, _>>()?;
    Ok(Stage { threshold, classifiers })
}

fn classifier(node: Node<'_, '_>, features: usize) -> Result<Classifier, String> {
    // A stump: "0 -1" says that both branches are leaves, then the feature, then the patterns as signed words.
    let [left, right, feature, patterns @ ..] = numbers::<i64, 11>(child(node, "internalNodes")?)?;
    let [inside, outside] = numbers::<f32, 2>(child(node, "leafValues")?)?;
    if (left, right) != (0, -1) {
        return Err("a weak classifier is a tree, and only stumps are known".to_owned());
    }
    let feature = usize::try_from(feature).ok().filter(|index| *index < features);
    let feature = feature.ok_or("a weak classifier names a feature that does not exist")?;
    Ok(Classifier { feature, patterns: patterns.map(|word| word as u32), inside, outside })
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Result<Node<'a, 'input>, String> {
    let found = node.children().find(|child| child.has_tag_name(name));
    found.ok_or_else(|| format!("`{}` has no `{name}`", node.tag_name().name()))
}

/// The elements of a sequence: OpenCV names each of them `_`.
fn entries<'a, 'input>(node: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(|child| child.has_tag_name("_"))
}

fn numbers<T: std::str::FromStr + Copy + Default, const COUNT: usize>(
    node: Node<'_, '_>,
) -> Result<[T; COUNT], String> {
    let mut found = [T::default(); COUNT];
    let mut words = node.text().unwrap_or_default().split_ascii_whitespace();
    for place in &mut found {
        let number = words.next().and_then(|word| word.parse().ok());
        *place = number.ok_or_else(|| format!("`{}` needs {COUNT} numbers", node.tag_name().name()))?;
    }
    match words.next() {
        None => Ok(found),
        Some(_) => Err(format!("`{}` has more than {COUNT} numbers", node.tag_name().name())),
    }
}
