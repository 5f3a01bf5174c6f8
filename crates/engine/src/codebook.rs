//! What the rows and queries of one index generation are encoded with: its rotation, its mean and its centroids.
//!
//! **Owns** the way from a vector to its codes, and the codes of the centroids. **Must not know** files or documents.
//! Everything here follows from an index file, and everything that is encoded can be encoded again from the raw
//! vectors: codes are derived data.

use plimsoll_base::aligned::AlignedBytes;
use plimsoll_base::{ListId, Metric};
use plimsoll_codes::{
    Measure, PlaneDistance, PlaneEncoder, PlaneQuery, Rotation, SignEncoder, SignQuery, block_len, blocks_of,
    record_len,
};
use plimsoll_index::{Centroids, Estimated, Scored, priority};
use plimsoll_kernels as kernels;
use plimsoll_shard::CodeLengths;

/// The rounds of the one kind of rotation there is; an index file with another number has no codes.
pub(crate) const ROUNDS: u32 = 3;

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

    /// How many rows the list at `position` had when the index was trained.
    pub(crate) fn rows(&self, position: u32) -> u32 {
        self.rows[position as usize]
    }

    /// The position of a list.
    pub(crate) fn position(&self, list: ListId) -> Option<u32> {
        self.lists.binary_search(&list).ok().map(|position| position as u32)
    }

    /// What the codes of some rows say of their distances to a query, both as the index sees them, as the stop rule
    /// compares distances. `vector` appends the vector of a row, and says whether it could. Empty if that can not be
    /// said of all rows.
    pub(crate) fn estimates(
        &self,
        query: &[f32],
        rows: &[Scored],
        vector: impl Fn(u64, &mut Vec<f32>) -> bool,
    ) -> Vec<Estimated> {
        let (mut coded, mut encoder) = (CodedQuery::default(), RowEncoder::new(self));
        if !coded.set(self, query) {
            return Vec::new();
        }
        let (mut block, mut row) = (Vec::new(), Vec::new());
        let estimate = |scored: &Scored| {
            block.clear();
            row.clear();
            if !vector(scored.row, &mut row) {
                return None;
            }
            encoder.signs(&row, scored.position, 0, &mut block);
            let centroid = self.centroid(scored.position);
            let distance_squared = kernels::l2_squared(&coded.rotated, centroid);
            let base = match self.metric {
                Metric::Cosine | Metric::L2 => distance_squared,
                Metric::Dot => -2.0 * kernels::dot(&coded.rotated, centroid),
            };
            let at = |epsilon| {
                let (mut lows, mut masks) = ([0.0; kernels::BLOCK], [0]);
                let bound = coded.signs.bound(base, distance_squared, epsilon);
                coded.signs.scan(&block, &[], &bound, f32::MAX, &mut lows, &mut masks)?;
                Some(coded.stop_rank(self, lows[0]))
            };
            let (estimate, low) = (at(0.0)?, at(1.0)?);
            Some(Estimated { estimate, deviation: estimate - low })
        };
        rows.iter().map(estimate).collect::<Option<_>>().unwrap_or_default()
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
    centred: Vec<f32>,
    rotated: Vec<f32>,
}

impl<'a> RowEncoder<'a> {
    pub(crate) fn new(book: &'a Codebook) -> Self {
        Self {
            book,
            signs: SignEncoder::new(book.width(), book.measure()),
            plane: PlaneEncoder::new(book.measure()),
            centred: Vec::with_capacity(book.mean.len()),
            rotated: vec![0.0; book.width()],
        }
    }

    /// A vector as the index sees it (normalised under cosine), less the mean, rotated.
    fn rotate(&mut self, vector: &[f32]) -> &[f32] {
        self.centred.clear();
        self.centred.extend(vector.iter().zip(&self.book.mean).map(|(x, m)| x - m));
        self.book.rotation.rotate(&self.centred, &mut self.rotated);
        &self.rotated
    }

    /// Puts the signs of a row of the list at `position` into slot `slot` of `blocks`.
    pub(crate) fn signs(&mut self, vector: &[f32], position: u32, slot: usize, blocks: &mut Vec<u8>) {
        self.rotate(vector);
        self.signs.put(&self.rotated, self.book.centroid(position), slot, blocks);
    }

    /// Appends the plane's record of a row.
    pub(crate) fn record(&mut self, vector: &[f32], records: &mut Vec<u8>) {
        self.rotate(vector);
        self.plane.encode(&self.rotated, records);
    }
}

/// A query as the codes of one generation see it.
///
/// Distances are |q − x|² under L2 and, of normalised vectors, under cosine; −2 ⟨q, x⟩ + 2 ⟨q, m⟩ under dot.
#[derive(Default)]
pub(crate) struct CodedQuery {
    centred: Vec<f32>,
    pub rotated: Vec<f32>,
    pub signs: SignQuery,
    pub plane: PlaneQuery,
    /// |q'|².
    squared: f32,
    /// 2 ⟨q, m⟩ under dot.
    shift: f32,
}

/// The deviation of a record's distance is this times the record's scale times |q'|: each component is rounded evenly
/// within one step, which has a deviation of 1 / √12, and the distance has twice the product.
const RECORD_DEVIATION: f32 = 0.577_350_26;
/// Numbers up to here can be squared and added without becoming infinite.
const LARGEST: f32 = 1e36;

impl CodedQuery {
    /// Prepares a query that is as the index sees it; false if its numbers are too large for codes.
    pub(crate) fn set(&mut self, book: &Codebook, query: &[f32]) -> bool {
        self.centred.clear();
        self.centred.extend(query.iter().zip(&book.mean).map(|(x, m)| x - m));
        self.rotated.resize(book.width(), 0.0);
        book.rotation.rotate(&self.centred, &mut self.rotated);
        self.squared = kernels::norm_squared(&self.rotated);
        self.shift = match book.metric {
            Metric::Cosine | Metric::L2 => 0.0,
            Metric::Dot => 2.0 * kernels::dot(query, &book.mean),
        };
        let fits = self.squared < LARGEST && self.shift.abs() < LARGEST;
        if fits {
            self.signs.set(&self.rotated);
            self.plane.set(&self.rotated, book.measure());
        }
        fits
    }

    /// |q' − c'|² by a centroid's record; the plane's own distances are of another kind under dot.
    fn centroid_distance(&self, record: &[u8]) -> Option<PlaneDistance> {
        self.plane.distance(record)
    }

    /// How far the distance by a record with this scale is from the true one, as a standard deviation.
    pub(crate) fn record_deviation(&self) -> f32 {
        RECORD_DEVIATION * self.squared.sqrt()
    }

    /// The distance, rounded up, of a rank as measures order rows: 1 − cos, a squared distance, or a negated product.
    pub(crate) fn distance_of(&self, book: &Codebook, rank: f64) -> f32 {
        let distance = match book.metric {
            Metric::Cosine => 2.0 * rank,
            Metric::L2 => rank,
            Metric::Dot => 2.0 * rank + f64::from(self.shift),
        };
        // The roundings of a query and of its product with the mean.
        let slack = 1e-5 * (distance.abs() + f64::from(self.squared) + f64::from(self.shift.abs()));
        if distance.is_finite() { ((distance + slack) as f32).next_up() } else { f32::INFINITY }
    }

    /// A distance as the stop rule compares it: under dot the negated product.
    pub(crate) fn stop_rank(&self, book: &Codebook, distance: f32) -> f32 {
        match book.metric {
            Metric::Cosine | Metric::L2 => distance,
            Metric::Dot => (distance - self.shift) / 2.0,
        }
    }
}

/// A list that a query may visit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Visit {
    pub position: u32,
    /// What the stop rule compares; see [`plimsoll_index::Step`].
    pub priority: f32,
    /// The list's part in the distances of its rows.
    pub base: f32,
    /// |q' − c'|².
    pub distance_squared: f32,
}

/// The lists in the order in which a query visits them, nearest first, measured as far as they are asked for.
#[derive(Default)]
pub(crate) struct CodedRoute {
    /// A list's priority and position; the first `measured` are in order, the others by their signs alone.
    order: Vec<u64>,
    /// |q' − c'|² by position, where it was measured, and how far off it may be.
    distances: Vec<(f32, f32)>,
    measured: usize,
    next: usize,
}

/// So many lists are measured at first, and as many again as there are when half of them are visited: the order by
/// signs is not exact, so that what is visited next has to be chosen from more than it.
const FIRST_MEASURED: usize = 16;
/// How many standard deviations a centroid's distance may be off.
const CENTROID_DEVIATIONS: f32 = 2.0;

/// Numbers that are ordered by a priority of at least 0, and then by position.
fn order_key(priority: f32, position: u32) -> u64 {
    u64::from(priority.max(0.0).to_bits()) << 32 | u64::from(position)
}

impl CodedRoute {
    /// Looks at the signs of all centroids.
    pub(crate) fn start(
        &mut self,
        book: &Codebook,
        query: &CodedQuery,
        lows: &mut Vec<f32>,
        masks: &mut Vec<u32>,
    ) {
        let lists = book.spreads.len();
        lows.resize(blocks_of(lists) * kernels::BLOCK, 0.0);
        masks.resize(blocks_of(lists), 0);
        let bound = query.signs.bound(query.squared, query.squared, 0.0);
        let _blocks = query.signs.scan(&book.signs, &[], &bound, f32::MAX, lows, masks);
        let priorities =
            lows.iter().zip(&book.spreads).map(|(distance, spread)| priority(*distance, *spread));
        self.order.clear();
        self.order.extend(priorities.zip(0..).map(|(priority, position)| order_key(priority, position)));
        self.distances.resize(lists, (0.0, 0.0));
        (self.measured, self.next) = (0, 0);
    }

    /// The next list.
    pub(crate) fn next(&mut self, book: &Codebook, query: &CodedQuery) -> Option<Visit> {
        let position = self.peek(book, query)?;
        let (distance_squared, error) = self.distances[position as usize];
        let priority = f32::from_bits((self.order[self.next] >> 32) as u32);
        self.next += 1;
        Some(Visit { position, priority, base: distance_squared - error, distance_squared })
    }

    /// The position of the next list.
    pub(crate) fn peek(&mut self, book: &Codebook, query: &CodedQuery) -> Option<u32> {
        if self.next * 2 >= self.measured && self.measured < self.order.len() {
            self.measure_more(book, query);
        }
        self.order.get(self.next).map(|key| *key as u32)
    }

    fn measure_more(&mut self, book: &Codebook, query: &CodedQuery) {
        let rest = &mut self.order[self.measured..];
        let more = self.measured.max(FIRST_MEASURED).min(rest.len());
        if more < rest.len() {
            rest.select_nth_unstable(more);
        }
        let len = record_len(book.width());
        let deviation = CENTROID_DEVIATIONS * query.record_deviation();
        for key in &mut rest[..more] {
            let position = *key as u32;
            let record = &book.records[position as usize * len..][..len];
            let measured = query.centroid_distance(record);
            let (distance, error) = measured
                .map_or((f32::INFINITY, 0.0), |found| (found.distance.max(0.0), deviation * found.scale));
            self.distances[position as usize] = (distance, error);
            *key = order_key(priority(distance, book.spreads[position as usize]), position);
        }
        self.measured += more;
        self.order[self.next..self.measured].sort_unstable();
    }
}
