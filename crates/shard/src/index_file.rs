//! Index files: a generation of a collection's index, or a later state of one (rule R12).
//!
//! **Owns** the layout below, its writer and its reader. **Must not know** how centroids come about, how
//! routing uses them, or what the rotation does with its seed. **On a crash**: a sealed file, see
//! [`crate::container`].
//!
//! # Layout, version 1
//! A container with these sections of owner 0. `d` is the dimension, `k` the number of lists.
//! ```text
//! kind  name       length  content
//!    1  META           76  below
//!  401  MEAN          4 d  f32: the origin of rotated space
//!  402  CENTROIDS   4 d k  f32: the centroid of each list
//!  403  LISTS        16 k  {list u32, shard u32, rows u32, radius f32}, by ascending list
//!  404  STOPS        12 s  {k u32, recall f32, stop f32}, by ascending (k, recall); `s` of them
//!  405  SPREADS       4 k  f32: the mean squared distance of each list's rows to its centroid; absent in files of
//!                          before there were codes
//!  406  EPSILONS      4 s  f32: for each stop, how many standard deviations bounds by codes are below the estimates
//!  407  QUERIES     4 d q  f32: the queries that the stops are calibrated on, as the index sees them (normalised under
//!                          cosine), `q` of them; absent if they are calibrated on the collection's own rows. Searches
//!                          do not read it
//!
//! META
//! offset size field
//!      0    4 collection
//!      4    4 generation
//!      8    1 metric (Metric::code)
//!      9    3 reserved, zero
//!     12    4 dimension
//!     16    8 lists
//!     24    8 rows at training
//!     32    4 next list id: above all that were ever used
//!     36    4 next shard id: above all that were ever used
//!     40    8 rotation: seed
//!     48    4 rotation: rounds; 0 for no rotation
//!     52    4 stops
//!     56   16 reserved, zero
//!     72    4 CRC-32 of bytes 0 to 71
//! ```

use std::ops::Range;
use std::path::Path;

use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::storage::Storage;
use plimsoll_base::{CollectionId, FileNumber, Generation, ListId, Metric, Result, ShardId};

use crate::container::{
    DatabaseId, PendingFile, SealedFile, SealedWriter, Section, SectionKind, invalid, seal_meta,
};
use crate::names::SealedKind;
use crate::view::SealedView;

/// The newest version of the format.
pub const VERSION: u16 = 2;

/// The mean of the collection's vectors when the generation was trained.
pub const MEAN: SectionKind = SectionKind(401);
/// The centroid of each list.
pub const CENTROIDS: SectionKind = SectionKind(402);
/// The lists.
pub const LISTS: SectionKind = SectionKind(403);
/// When a search may stop.
pub const STOPS: SectionKind = SectionKind(404);

/// How far the rows of each list are from its centroid.
pub const SPREADS: SectionKind = SectionKind(405);

/// How careful bounds by codes are, for each stop.
pub const EPSILONS: SectionKind = SectionKind(406);

/// The queries that the stops are calibrated on.
pub const QUERIES: SectionKind = SectionKind(407);

/// The format's sections and their names.
pub(crate) const SECTIONS: &[(SectionKind, &str)] = &[
    (MEAN, "MEAN"),
    (CENTROIDS, "CENTROIDS"),
    (LISTS, "LISTS"),
    (STOPS, "STOPS"),
    (SPREADS, "SPREADS"),
    (EPSILONS, "EPSILONS"),
    (QUERIES, "QUERIES"),
];

/// Which rotation a generation uses; what it does is fixed with the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// Where its signs come from.
    pub seed: u64,
    /// The number of rounds; 0 for no rotation.
    pub rounds: u32,
}

/// What an index file says about all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    /// Whose index it is.
    pub collection: CollectionId,
    /// Its generation.
    pub generation: Generation,
    /// The collection's metric.
    pub metric: Metric,
    /// The number of components of the mean and of each centroid.
    pub dimension: u32,
    /// How many rows the collection had when the generation was trained, or when its rules were calibrated anew.
    pub rows_at_training: u64,
    /// Above all list ids that were ever used.
    pub next_list: ListId,
    /// Above all shard ids that were ever used.
    pub next_shard: ShardId,
    /// The rotation.
    pub rotation: Rotation,
}

impl IndexHeader {
    fn encode(&self, lists: u64, stops: u32) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.u32(self.collection.0).u32(self.generation.0).u8(self.metric.code()).raw(&[0; 3]);
        encoder.u32(self.dimension).u64(lists).u64(self.rows_at_training);
        encoder.u32(self.next_list.0).u32(self.next_shard.0);
        encoder.u64(self.rotation.seed).u32(self.rotation.rounds).u32(stops).raw(&[0; 16]);
        seal_meta(encoder)
    }

    /// The header, the number of lists and the number of stops.
    fn decode(mut decoder: Decoder<'_>) -> Result<(Self, u64, u64)> {
        let (collection, generation) = (CollectionId(decoder.u32()?), Generation(decoder.u32()?));
        let at = decoder.clone();
        let code = decoder.u8()?;
        let metric = Metric::from_code(code).ok_or_else(|| at.corrupted(format!("unknown metric {code}")))?;
        let reserved = decoder.array::<3>()?;
        let dimension = decoder.u32()?;
        let (lists, rows_at_training) = (decoder.u64()?, decoder.u64()?);
        let (next_list, next_shard) = (ListId(decoder.u32()?), ShardId(decoder.u32()?));
        let rotation = Rotation { seed: decoder.u64()?, rounds: decoder.u32()? };
        let stops = decoder.u32()?;
        if reserved != [0; 3] || decoder.array()? != [0; 16] {
            return Err(at.corrupted("reserved bytes that are not zero"));
        }
        decoder.finish()?;
        if dimension == 0 || lists > u64::from(next_list.0) {
            return Err(at.corrupted(format!("{lists} lists of dimension {dimension}")));
        }
        let header = Self {
            collection,
            generation,
            metric,
            dimension,
            rows_at_training,
            next_list,
            next_shard,
            rotation,
        };
        Ok((header, lists, u64::from(stops)))
    }
}

/// A list of the index.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct IndexList {
    /// The list.
    pub id: ListId,
    /// The shard that holds it.
    pub shard: ShardId,
    /// The number of its rows when the file was written.
    pub rows: u32,
    /// The distance from its centroid to the farthest of its rows, in rotated space.
    pub radius: f32,
}

const _: () = assert!(size_of::<IndexList>() == 16);

/// A calibrated rule: a search for `k` results at `recall` may stop at `stop`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct StopRule {
    /// The number of results.
    pub k: u32,
    /// The share of the true nearest that is to be found, in 0 to 1.
    pub recall: f32,
    /// The threshold; its meaning is the index's.
    pub stop: f32,
}

const _: () = assert!(size_of::<StopRule>() == 12);

/// What an index file is written from.
#[derive(Debug, Clone, Copy)]
pub struct IndexContents<'a> {
    /// Facts about all of it.
    pub header: IndexHeader,
    /// One mean.
    pub mean: &'a [f32],
    /// One centroid for each list, one after another.
    pub centroids: &'a [f32],
    /// The lists, by ascending id.
    pub lists: &'a [IndexList],
    /// The stop rules, by ascending (k, recall).
    pub stops: &'a [StopRule],
    /// The mean squared distance of each list's rows to its centroid, or nothing.
    pub spreads: &'a [f32],
    /// For each stop, how many standard deviations bounds by codes are below the estimates; or nothing.
    pub epsilons: &'a [f32],
    /// The queries that the stop rules are calibrated on, one after another; nothing if these are the collection's rows.
    pub queries: &'a [f32],
}

impl IndexContents<'_> {
    /// What makes these contents unfit for an index file, if anything does: before writing, and in `verify`.
    fn fault(&self) -> Option<String> {
        let header = &self.header;
        let dimension = header.dimension as usize;
        if dimension == 0
            || self.mean.len() != dimension
            || self.centroids.len() != self.lists.len() * dimension
        {
            return Some(format!("lengths do not fit {} lists of dimension {dimension}", self.lists.len()));
        }
        if !self.mean.iter().chain(self.centroids).all(|x| x.is_finite()) {
            return Some("a component of the mean or of a centroid is not finite".to_owned());
        }
        let possible = |spread: &f32| spread.is_finite() && *spread >= 0.0;
        if !(self.spreads.is_empty() || self.spreads.len() == self.lists.len())
            || !self.spreads.iter().all(possible)
        {
            return Some("impossible spreads".to_owned());
        }
        if !(self.epsilons.is_empty() || self.epsilons.len() == self.stops.len())
            || !self.epsilons.iter().all(possible)
        {
            return Some("impossible epsilons".to_owned());
        }
        if !self.queries.len().is_multiple_of(dimension) || !self.queries.iter().all(|x| x.is_finite()) {
            return Some("impossible queries".to_owned());
        }
        if !self.lists.is_sorted_by(|a, b| a.id < b.id) {
            return Some("lists do not ascend".to_owned());
        }
        let unfit = |list: &&IndexList| {
            list.id >= header.next_list
                || list.shard >= header.next_shard
                || !list.radius.is_finite()
                || list.radius < 0.0
        };
        if let Some(list) = self.lists.iter().find(unfit) {
            return Some(format!("an impossible list: {list:?}"));
        }
        let known =
            |stop: &StopRule| stop.k > 0 && stop.recall > 0.0 && stop.recall <= 1.0 && stop.stop.is_finite();
        let ascend = self.stops.is_sorted_by(|a, b| (a.k, a.recall) < (b.k, b.recall));
        (!ascend || !self.stops.iter().all(known)).then(|| "impossible stop rules".to_owned())
    }
}

/// Writes index file `number`; its name is not durable before [`crate::commit_files`].
///
/// # Errors
/// `InvalidInput` if the contents contradict each other or hold what is not finite; any error of the storage.
pub fn write_index_file<'a>(
    storage: &'a dyn Storage,
    dir: &Path,
    number: FileNumber,
    database: DatabaseId,
    contents: &IndexContents<'_>,
) -> Result<PendingFile<'a>> {
    let mut writer = SealedWriter::create(storage, dir, SealedKind::Index, number, database)?;
    if let Some(fault) = contents.fault() {
        return Err(invalid(writer.path(), fault));
    }
    let stops = contents.stops.len() as u32;
    writer.section(SectionKind::META, 0, &contents.header.encode(contents.lists.len() as u64, stops))?;
    writer.section(MEAN, 0, bytemuck::cast_slice(contents.mean))?;
    writer.section(CENTROIDS, 0, bytemuck::cast_slice(contents.centroids))?;
    writer.section(LISTS, 0, bytemuck::cast_slice(contents.lists))?;
    writer.section(STOPS, 0, bytemuck::cast_slice(contents.stops))?;
    if !contents.spreads.is_empty() {
        writer.section(SPREADS, 0, bytemuck::cast_slice(contents.spreads))?;
    }
    if !contents.epsilons.is_empty() {
        writer.section(EPSILONS, 0, bytemuck::cast_slice(contents.epsilons))?;
    }
    if !contents.queries.is_empty() {
        writer.section(QUERIES, 0, bytemuck::cast_slice(contents.queries))?;
    }
    writer.finish()
}

/// An open index file.
#[derive(Debug)]
pub struct IndexFile {
    file: SealedFile,
    header: IndexHeader,
    mean: Section,
    centroids: Section,
    lists: Section,
    stops: Section,
    spreads: Option<Section>,
    epsilons: Option<Section>,
    queries: Option<Section>,
}

impl SealedView for IndexFile {
    fn from_sealed(file: SealedFile) -> Result<Self> {
        file.expect_kind(SealedKind::Index)?;
        let (meta, offset) = file.read_meta()?;
        let (header, lists, stops) = IndexHeader::decode(Decoder::new(&meta, file.path(), offset))?;
        let mean_len = u64::from(header.dimension) * 4;
        let centroids_len = mean_len.checked_mul(lists);
        let centroids_len = centroids_len.ok_or_else(|| file.damaged(offset, "impossible counts"))?;
        Ok(Self {
            mean: file.section_of(MEAN, 0, mean_len)?,
            centroids: file.section_of(CENTROIDS, 0, centroids_len)?,
            lists: file.section_of(LISTS, 0, lists * size_of::<IndexList>() as u64)?,
            stops: file.section_of(STOPS, 0, stops * size_of::<StopRule>() as u64)?,
            spreads: optional(&file, SPREADS, lists * 4)?,
            epsilons: optional(&file, EPSILONS, stops * 4)?,
            queries: queries_of(&file, mean_len)?,
            file,
            header,
        })
    }

    fn sealed(&self) -> &SealedFile {
        &self.file
    }
}

/// A section that older files do not have.
fn optional(file: &SealedFile, kind: SectionKind, len: u64) -> Result<Option<Section>> {
    file.find_section(kind, 0).map(|_| file.section_of(kind, 0, len)).transpose()
}

/// The section of the queries, if there are any; one of them has `len` bytes.
fn queries_of(file: &SealedFile, len: u64) -> Result<Option<Section>> {
    match file.find_section(QUERIES, 0) {
        Some(section) if section.len == 0 || !section.len.is_multiple_of(len) => {
            Err(file.damaged(section.offset, "no queries, or a part of one"))
        }
        found => Ok(found),
    }
}

impl IndexFile {
    /// Asks the disk for what searches read; a hint.
    pub fn ask_for(&self) {
        self.searched().into_iter().for_each(|part| self.file.ask_for_bytes(part));
    }

    /// The parts of the file that searches read: all but the queries.
    pub fn searched(&self) -> [Range<u64>; 2] {
        let end = self.file.file_meta().len;
        let queries = self.queries.map_or(end..end, |queries| queries.offset..queries.offset + queries.len);
        [0..queries.start, queries.end..end]
    }

    /// What the file says about itself.
    pub const fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// The number of lists.
    pub const fn list_count(&self) -> usize {
        (self.lists.len / size_of::<IndexList>() as u64) as usize
    }

    /// The mean of the collection's vectors when the generation was trained.
    ///
    /// # Errors
    /// `Corrupted` if a block that is touched is damaged. So for all of the methods below.
    pub fn mean(&self) -> Result<&[f32]> {
        self.file.array(&self.mean)
    }

    /// The centroids of the lists, one after another.
    pub fn centroids(&self) -> Result<&[f32]> {
        self.file.array(&self.centroids)
    }

    /// The lists, by ascending id.
    pub fn lists(&self) -> Result<&[IndexList]> {
        self.file.array(&self.lists)
    }

    /// The stop rules, by ascending (k, recall).
    pub fn stops(&self) -> Result<&[StopRule]> {
        self.file.array(&self.stops)
    }

    /// Whether the file says how far the rows of lists are from their centroids.
    pub const fn has_spreads(&self) -> bool {
        self.spreads.is_some()
    }

    /// The mean squared distance of each list's rows to its centroid; empty if the file does not say.
    pub fn spreads(&self) -> Result<&[f32]> {
        self.spreads.as_ref().map_or(Ok(&[]), |spreads| self.file.array(spreads))
    }

    /// For each stop, how many standard deviations bounds by codes are below the estimates; empty if the file does not
    /// say.
    pub fn epsilons(&self) -> Result<&[f32]> {
        self.epsilons.as_ref().map_or(Ok(&[]), |epsilons| self.file.array(epsilons))
    }

    /// How many queries the stop rules are calibrated on; 0 if on the collection's rows.
    pub fn query_count(&self) -> usize {
        let len = u64::from(self.header.dimension) * size_of::<f32>() as u64;
        self.queries.map_or(0, |queries| (queries.len / len) as usize)
    }

    /// The queries that the stop rules are calibrated on, one after another; empty if these are the collection's rows.
    pub fn queries(&self) -> Result<&[f32]> {
        self.queries.as_ref().map_or(Ok(&[]), |queries| self.file.array(queries))
    }

    /// Everything in the file.
    pub fn contents(&self) -> Result<IndexContents<'_>> {
        Ok(IndexContents {
            header: self.header,
            mean: self.mean()?,
            centroids: self.centroids()?,
            lists: self.lists()?,
            stops: self.stops()?,
            spreads: self.spreads()?,
            epsilons: self.epsilons()?,
            queries: self.queries()?,
        })
    }

    /// Verifies every checksum of the file ([`SealedFile::verify`]), and that its contents are possible:
    /// numbers are finite, lists ascend, and ids lie below those to be used next.
    ///
    /// # Errors
    /// `Corrupted` naming the first place that is wrong.
    pub fn verify(&self) -> Result<()> {
        self.file.verify()?;
        match self.contents()?.fault() {
            Some(fault) => Err(self.file.damaged(self.mean.offset, fault)),
            None => Ok(()),
        }
    }
}
