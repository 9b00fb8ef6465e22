//! The search: every window of every size goes through the cascade; windows that agree become one detection.

use crate::cascade::{Cascade, Feature};
use crate::picture::Picture;

/// Windows that may pass the cascade. Why 20,000: a face collects a few dozen; above this the model accepts anything, and
/// grouping, which compares each with each, would not end.
const PASSED_MAX: usize = 20_000;

/// How to search.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// The smallest window's edge, in pixels.
    pub size_min: u32,
    /// Each size is this many times the one before. Above 1.
    pub scale_factor: f32,
    /// Windows that must agree.
    pub neighbours_min: usize,
}

/// A rectangle, in pixels of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub row: f32,
    pub column: f32,
    pub height: f32,
    pub width: f32,
}

/// Windows that agreed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    pub area: Area,
    /// How many windows agreed.
    pub neighbours: usize,
}

/// Finds what the cascade was trained on, strongest first. Calls `progress` with the sizes done, all sizes, and the edge
/// of the next window. The error is a sentence that names what is wrong.
pub fn detect(
    cascade: &Cascade,
    picture: &Picture,
    search: Search,
    mut progress: impl FnMut(usize, usize, u32),
) -> Result<Vec<Detection>, String> {
    let sums = Sums::of(picture);
    let scales = scales(cascade, picture, search);
    let mut passed = Vec::new();
    for (done, scale) in scales.iter().enumerate() {
        progress(done, scales.len(), (cascade.width as f32 * scale).round() as u32);
        Scanner::new(cascade, &sums, *scale).scan(&mut passed);
        if passed.len() > PASSED_MAX {
            return Err(format!("more than {PASSED_MAX} windows pass it: it tells nothing apart"));
        }
    }
    progress(scales.len(), scales.len(), 0);
    Ok(group(&passed, search.neighbours_min))
}

/// The scales from the smallest window asked for up to the picture's size.
fn scales(cascade: &Cascade, picture: &Picture, search: Search) -> Vec<f32> {
    let first = (search.size_min as f32 / cascade.width as f32).max(1.0);
    let fits = |scale: &f32| {
        (cascade.width as f32 * scale).round() as usize <= picture.width
            && (cascade.height as f32 * scale).round() as usize <= picture.height
    };
    std::iter::successors(Some(first), |scale| Some(scale * search.scale_factor)).take_while(fits).collect()
}

/// Sums over all rectangles from the upper left corner, with a row and a column of zeros before the first. They may wrap:
/// differences are right as long as the rectangle's own sum fits 32 bits.
struct Sums {
    stride: usize,
    width: usize,
    height: usize,
    values: Vec<u32>,
}

impl Sums {
    fn of(picture: &Picture) -> Self {
        let stride = picture.width + 1;
        let mut values = vec![0u32; stride];
        values.reserve(stride * picture.height);
        for (row, pixels) in picture.gray.chunks_exact(picture.width.max(1)).enumerate() {
            let above = row * stride;
            let mut line = 0u32;
            values.push(0);
            for (column, pixel) in pixels.iter().enumerate() {
                line = line.wrapping_add(u32::from(*pixel));
                values.push(line.wrapping_add(values[above + column + 1]));
            }
        }
        Self { stride, width: picture.width, height: picture.height, values }
    }
}

/// The cascade at one scale, over one picture.
struct Scanner<'a> {
    cascade: &'a Cascade,
    sums: &'a Sums,
    /// For each feature the sixteen corners of its cells, as distances from the window's corner.
    corners: Vec<[usize; 16]>,
    scale: f32,
    width: usize,
    height: usize,
}

impl<'a> Scanner<'a> {
    fn new(cascade: &'a Cascade, sums: &'a Sums, scale: f32) -> Self {
        let width = (cascade.width as f32 * scale).round() as usize;
        let height = (cascade.height as f32 * scale).round() as usize;
        let corners =
            cascade.features.iter().map(|feature| corners(feature, scale, width, height, sums.stride)).collect();
        Self { cascade, sums, corners, scale, width, height }
    }

    /// Tries every window that fits, one pixel of the unscaled window apart.
    fn scan(&self, passed: &mut Vec<Area>) {
        let places = |room: usize| {
            (0usize..).map(|index| (index as f32 * self.scale).round() as usize).take_while(move |place| *place <= room)
        };
        for row in places(self.sums.height - self.height) {
            for column in places(self.sums.width - self.width) {
                if self.passes(row * self.sums.stride + column) {
                    let (row, column) = (row as f32, column as f32);
                    passed.push(Area { row, column, height: self.height as f32, width: self.width as f32 });
                }
                if passed.len() > PASSED_MAX {
                    return;
                }
            }
        }
    }

    /// Whether every stage reaches its threshold.
    fn passes(&self, origin: usize) -> bool {
        self.cascade.stages.iter().all(|stage| {
            let vote = |sum, classifier: &crate::cascade::Classifier| {
                let pattern = self.pattern(origin, classifier.feature);
                let word = classifier.patterns[usize::from(pattern >> 5)];
                sum + if word >> (pattern & 31) & 1 == 1 { classifier.inside } else { classifier.outside }
            };
            // OpenCV's tolerance, without which rounding rejects windows that the training accepted.
            stage.classifiers.iter().fold(0.0, vote) >= stage.threshold - 1e-5
        })
    }

    /// The local binary pattern: one bit for each outer cell that is at least as bright as the middle one, clockwise from
    /// the upper left, highest bit first.
    fn pattern(&self, origin: usize, feature: usize) -> u8 {
        let corner = self.corners[feature].map(|distance| self.sums.values[origin + distance]);
        let cell = |index: usize| {
            let lower = corner[index + 5].wrapping_sub(corner[index + 4]);
            lower.wrapping_sub(corner[index + 1].wrapping_sub(corner[index]))
        };
        let middle = cell(5);
        [0, 1, 2, 6, 10, 9, 8, 4].iter().fold(0, |bits, index| bits << 1 | u8::from(cell(*index) >= middle))
    }
}

/// The corners of a feature's cells at a scale: four lines of four. Cells stay equal in size, as sums are compared.
fn corners(feature: &Feature, scale: f32, width: usize, height: usize, stride: usize) -> [usize; 16] {
    let scaled = |length: u32| (length as f32 * scale).round() as usize;
    let cell_width = scaled(feature.cell_width).min(width / 3).max(1);
    let cell_height = scaled(feature.cell_height).min(height / 3).max(1);
    // Rounding may push a feature over the window's edge: it moves back by that pixel.
    let x = scaled(feature.x).min(width - 3 * cell_width);
    let y = scaled(feature.y).min(height - 3 * cell_height);
    std::array::from_fn(|index| (y + index / 4 * cell_height) * stride + x + index % 4 * cell_width)
}

/// Groups windows that lie close to each other, as OpenCV's `groupRectangles` with eps 0.2, and drops groups that are too
/// small or lie inside a stronger one. Strongest first.
fn group(areas: &[Area], neighbours_min: usize) -> Vec<Detection> {
    let mut groups: Vec<Detection> = classes(areas)
        .into_iter()
        .map(|members| Detection { area: mean(&members), neighbours: members.len() })
        .filter(|group| group.neighbours >= neighbours_min.max(1))
        .collect();
    let all = groups.clone();
    groups.retain(|group| !all.iter().any(|other| swallows(other, group)));
    groups.sort_by_key(|group| std::cmp::Reverse(group.neighbours));
    groups
}

/// The classes of the transitive closure of [`alike`].
fn classes(areas: &[Area]) -> Vec<Vec<Area>> {
    let mut left = areas.to_vec();
    let mut classes = Vec::new();
    while let Some(first) = left.pop() {
        let mut members = vec![first];
        let mut looked_at = 0;
        while let Some(member) = members.get(looked_at).copied() {
            members.extend(left.extract_if(.., |other| alike(&member, other)));
            looked_at += 1;
        }
        classes.push(members);
    }
    classes
}

fn alike(one: &Area, other: &Area) -> bool {
    let slack = 0.2 * (one.width.min(other.width) + one.height.min(other.height)) * 0.5;
    (one.row - other.row).abs() <= slack
        && (one.column - other.column).abs() <= slack
        && (one.row + one.height - other.row - other.height).abs() <= slack
        && (one.column + one.width - other.column - other.width).abs() <= slack
}

fn mean(members: &[Area]) -> Area {
    let count = members.len() as f32;
    let mean_of = |part: fn(&Area) -> f32| (members.iter().map(part).sum::<f32>() / count).round();
    Area {
        row: mean_of(|area| area.row),
        column: mean_of(|area| area.column),
        height: mean_of(|area| area.height),
        width: mean_of(|area| area.width),
    }
}

/// Whether `group` lies inside `other`, give or take a fifth, and is much the weaker of the two.
fn swallows(other: &Detection, group: &Detection) -> bool {
    let (outer, inner) = (other.area, group.area);
    let (slack_x, slack_y) = (outer.width * 0.2, outer.height * 0.2);
    other != group
        && inner.column >= outer.column - slack_x
        && inner.row >= outer.row - slack_y
        && inner.column + inner.width <= outer.column + outer.width + slack_x
        && inner.row + inner.height <= outer.row + outer.height + slack_y
        && (other.neighbours > group.neighbours.max(3) || group.neighbours < 3)
}
