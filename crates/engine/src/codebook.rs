//! What the rows and queries of one index generation are encoded with: its rotation, its mean and its centroids.
//!
//! **Owns** the way from a vector to its codes, and the codes of the centroids. **Must not know** files or documents.
//! Everything here follows from an index file, and everything that is encoded can be encoded again from the raw
//! vectors: codes are derived data.

mod query;
mod route;

use plimsoll_base::aligned::AlignedBytes;
use plimsoll_base::{ListId, Metric};
use plimsoll_codes::{Measure, PlaneEncoder, Rotation, SignEncoder, block_len, record_len, refine};
use plimsoll_index::{Centroids, covering_radius};
use plimsoll_kernels::l2_squared;
use plimsoll_shard::CodeLengths;

pub(crate) use query::CodedQuery;
pub(crate) use route::{CodedRoute, Visit};

/// The rounds of the one kind of rotation there is; an index file with another number has no codes.
pub(crate) const ROUNDS: u32 = 3;

/// Appends a vector as an index of this metric sees it: normalised under cosine.
pub(crate) fn push_indexed(metric: Metric, vector: &[f32], norm: f32, block: &mut Vec<f32>) {
    match metric {
        Metric::Cosine => {
            let scale = 1.0 / f64::from(norm);
            block.extend(vector.iter().map(|component| (f64::from(*component) * scale) as f32));
        }
        Metric::L2 | Metric::Dot => block.extend_from_slice(vector),
    }
}

/// The encodings of one generation.
pub(crate) struct Codebook {
    metric: Metric,
    lists: Vec<ListId>,
    spreads: Vec<f32>,
    rows: Vec<u32>,
    rotation: Rotation,
    mean: Vec<f32>,
    rotated_mean: Vec<f32>,
    /// The rotated centroids, one after another.
    centroids: Vec<f32>,
    /// The centroids' sign codes, as of one list around the mean.
    signs: AlignedBytes,
    /// The centroids' records.
    records: Vec<u8>,
}

impl Codebook {
    /// The codebook of a generation with this mean and these lists, which ascend.
    pub(crate) fn new(metric: Metric, seed: u64, mean: &[f32], lists: &Centroids) -> Self {
        let centroids = lists.vectors();
        let rotation = Rotation::new(mean.len(), seed);
        let width = rotation.width();
        let mut rotated_mean = vec![0.0; width];
        rotation.rotate(mean, &mut rotated_mean);
        let mut book = Self {
            metric,
            lists: lists.ids().to_vec(),
            spreads: lists.spreads().to_vec(),
            rows: lists.rows().to_vec(),
            rotation,
            mean: mean.to_vec(),
            rotated_mean,
            centroids: Vec::with_capacity(centroids.len() / mean.len() * width),
            signs: AlignedBytes::zeroed(0),
            records: Vec::new(),
        };
        let mut encoder = RowEncoder::new(&book);
        let mut rotated = Vec::with_capacity(book.centroids.capacity());
        for centroid in centroids.chunks_exact(mean.len()) {
            rotated.extend_from_slice(encoder.rotate(centroid));
        }
        // Queries are routed by their distance to the centroids, whatever the metric is.
        let (mut signs, mut records) = (Vec::new(), Vec::new());
        let (mut sign_encoder, plane) =
            (SignEncoder::new(width, Measure::L2), PlaneEncoder::new(Measure::L2));
        let origin = vec![0.0; width];
        for (slot, centroid) in rotated.chunks_exact(width).enumerate() {
            sign_encoder.put(centroid, &origin, slot, &mut signs);
            plane.encode(centroid, &mut records);
        }
        book.centroids = rotated;
        book.signs = AlignedBytes::copy_of(&signs);
        book.records = records;
        book
    }

    pub(crate) fn width(&self) -> usize {
        self.rotation.width()
    }

    /// A vector as the index sees it (normalised under cosine), less the mean, rotated; `centred` is for what is between.
    fn rotate(&self, vector: &[f32], centred: &mut Vec<f32>, rotated: &mut [f32]) {
        centred.clear();
        centred.extend(vector.iter().zip(&self.mean).map(|(x, m)| x - m));
        self.rotation.rotate(centred, rotated);
    }

    /// How long the codes are.
    pub(crate) fn lengths(&self) -> CodeLengths {
        CodeLengths { block: block_len(self.width()) as u32, record: record_len(self.width()) as u32 }
    }

    fn measure(&self) -> Measure<'_> {
        match self.metric {
            Metric::Cosine | Metric::L2 => Measure::L2,
            Metric::Dot => Measure::Dot { mean: &self.rotated_mean },
        }
    }

    /// Whether records have refinements, which say squared distances.
    pub(crate) fn refines(&self) -> bool {
        self.metric != Metric::Dot
    }

    /// Whether searches have to know how far rows are from their centroids: where lists come by the largest product a row of
    /// them may have.
    pub(crate) fn needs_radii(&self) -> bool {
        self.metric == Metric::Dot
    }

    /// How many rows the list at `position` had when the index was trained.
    pub(crate) fn rows(&self, position: u32) -> u32 {
        self.rows[position as usize]
    }

    /// The position of a list.
    pub(crate) fn position(&self, list: ListId) -> Option<u32> {
        self.lists.binary_search(&list).ok().map(|position| position as u32)
    }

    /// Encodes rows.
    pub(crate) fn encoder(&self) -> RowEncoder<'_> {
        RowEncoder::new(self)
    }

    /// The rotated centroid of the list at `position`.
    pub(crate) fn centroid(&self, position: u32) -> &[f32] {
        let width = self.width();
        &self.centroids[position as usize * width..][..width]
    }
}

/// Encodes rows, one after another.
pub(crate) struct RowEncoder<'a> {
    book: &'a Codebook,
    signs: SignEncoder<'a>,
    plane: PlaneEncoder<'a>,
    indexed: Vec<f32>,
    centred: Vec<f32>,
    rotated: Vec<f32>,
    origin: Vec<f32>,
    /// The record that is refined.
    coarse: Vec<u8>,
}

impl<'a> RowEncoder<'a> {
    pub(crate) fn new(book: &'a Codebook) -> Self {
        Self {
            book,
            signs: SignEncoder::new(book.width(), book.measure()),
            plane: PlaneEncoder::new(book.measure()),
            indexed: Vec::new(),
            centred: Vec::with_capacity(book.mean.len()),
            rotated: vec![0.0; book.width()],
            origin: vec![0.0; book.width()],
            coarse: Vec::new(),
        }
    }

    fn rotate(&mut self, vector: &[f32]) -> &[f32] {
        self.book.rotate(vector, &mut self.centred, &mut self.rotated);
        &self.rotated
    }

    /// Puts the signs of a row of the list at `position` into slot `slot` of `blocks`.
    pub(crate) fn signs(&mut self, vector: &[f32], position: u32, slot: usize, blocks: &mut Vec<u8>) {
        self.rotate(vector);
        self.signs.put(&self.rotated, self.book.centroid(position), slot, blocks);
    }

    /// As [`RowEncoder::signs`], of a row as it was given, with its length, in a list around the mean.
    pub(crate) fn signs_around_mean(&mut self, vector: &[f32], norm: f32, slot: usize, blocks: &mut Vec<u8>) {
        self.indexed.clear();
        push_indexed(self.book.metric, vector, norm, &mut self.indexed);
        self.book.rotate(&self.indexed, &mut self.centred, &mut self.rotated);
        self.signs.put(&self.rotated, &self.origin, slot, blocks);
    }

    /// How far the row whose signs were made last is from the centroid of the list at `position`, but for the rounding of the
    /// rotation.
    pub(crate) fn radius(&self, position: u32) -> f32 {
        covering_radius(l2_squared(&self.rotated, self.book.centroid(position)), self.book.width())
    }

    /// Appends what refines the record of a row.
    pub(crate) fn refinement(&mut self, vector: &[f32], refinements: &mut Vec<u8>) {
        self.rotate(vector);
        self.coarse.clear();
        self.plane.encode(&self.rotated, &mut self.coarse);
        refine(&self.rotated, &self.coarse, refinements);
    }

    /// Appends the plane's record of the row whose signs were made last.
    pub(crate) fn record(&mut self, records: &mut Vec<u8>) {
        self.plane.encode(&self.rotated, records);
    }
}
