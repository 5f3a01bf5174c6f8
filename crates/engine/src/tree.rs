//! The open sealed files of one collection, as one manifest names them.
//!
//! **Owns** the way from a document's id or ordinal to its bytes. **Must not know** about memtables or the log.
//! A tree never changes: a flush or a compaction makes a new one that shares the files it keeps.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use plimsoll_base::storage::Storage;
use plimsoll_base::{DocumentId, DocumentOrdinal, Generation, ShardId, StorageError};
use plimsoll_index::bloom::BloomView;
use plimsoll_shard::{FileMeta, IndexFile, KillFile, PostingFile, ReadMode, SealedView, VectorFile};
use roaring::RoaringTreemap;

use crate::error::Result;
use crate::manifest::CollectionEntry;
use crate::model::{Document, Posting, value};
use crate::query::FilterCache;
use crate::router::Router;
use crate::rows::RowVectors;

const MISSING: &str = "the file is missing, and the manifest names it";

/// How sealed files are opened.
#[derive(Clone)]
pub(crate) struct FileOpener {
    pub storage: Arc<dyn Storage>,
    pub dir: std::path::PathBuf,
    pub database: [u8; 16],
    pub mode: ReadMode,
    pub damaged: Damaged,
}

/// What becomes of a file that can not even be opened, because it is damaged or can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damaged {
    /// Nothing is opened: it was written a moment ago, or is about to be checked.
    Fails,
    /// The rest is opened without it (rule R17). That a file is missing fails all the same: a writer may have
    /// replaced it.
    LeftOut,
    /// The rest is opened without it, and without what is missing.
    OrMissingLeftOut,
}

impl FileOpener {
    /// Opens a file that has to be one of a collection's, as wide as that and of the generation that the manifest
    /// says: a kernel is never given a query and rows of different dimensions.
    fn open_new<T: SealedView>(
        &self,
        meta: &FileMeta,
        is_ours: impl Fn(&T) -> bool,
    ) -> Result<Slot<T>, StorageError> {
        let opened = T::open(&*self.storage, &self.dir, meta, self.database, self.mode);
        let opened = opened.and_then(|file| match is_ours(&file) {
            true => Ok(file),
            false => {
                let what =
                    "it is not a file of the collection, dimension or generation that the manifest says";
                Err(StorageError::corrupted(file.sealed().path(), 0, what))
            }
        });
        let file = match opened {
            Err(error) if error.is_of_one_file() && self.damaged != Damaged::Fails => Err(error),
            Err(error) if error.is_not_found() && self.damaged == Damaged::OrMissingLeftOut => {
                Err(StorageError::corrupted(&self.dir.join(meta.name().to_string()), 0, MISSING))
            }
            opened => Ok(Arc::new(opened?)),
        };
        Ok(Slot { meta: *meta, file })
    }

    /// The file among those that are known already, or else opened now.
    fn open<'a, T: SealedView + 'a>(
        &self,
        meta: &FileMeta,
        mut known: impl Iterator<Item = &'a Slot<T>>,
        is_ours: impl Fn(&T) -> bool,
    ) -> Result<Slot<T>, StorageError> {
        let known = known.find(|slot| slot.meta == *meta);
        known.map_or_else(|| self.open_new(meta, is_ours), |slot| Ok(slot.clone()))
    }
}

/// A sealed file that is open, or why it is not: whatever needs it gets the error, and nothing else does.
pub(crate) struct Slot<T> {
    pub meta: FileMeta,
    file: Result<Arc<T>, StorageError>,
}

impl<T> Slot<T> {
    pub(crate) fn get(&self) -> Result<&Arc<T>, StorageError> {
        self.file.as_ref().map_err(Clone::clone)
    }

    fn map<U>(self, view: impl FnOnce(Arc<T>) -> U) -> Slot<U> {
        Slot { meta: self.meta, file: self.file.map(|file| Arc::new(view(file))) }
    }

    fn damage(&self) -> Option<&StorageError> {
        self.file.as_ref().err()
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { meta: self.meta, file: self.file.clone() }
    }
}

/// One collection's sealed files.
pub(crate) struct Tree {
    pub entry: CollectionEntry,
    /// In the order of their ordinals.
    pub postings: Vec<Slot<PostingFile>>,
    pub vectors: Vec<Arc<VectorSegment>>,
    pub kills: Kills,
    /// By generation; generation 0 has no file.
    pub routers: BTreeMap<Generation, Slot<Router>>,
    /// What filters said of posting files.
    pub filters: Arc<FilterCache>,
    /// How far rows are from the centroids of their lists, of each generation; see [`Tree::radii`].
    radii: OnceLock<BTreeMap<Generation, Vec<f32>>>,
}

/// An open vector segment and which of its sections are live.
pub(crate) struct VectorSegment {
    pub file: Slot<VectorFile>,
    pub generation: Generation,
    pub base: bool,
    pub live: Vec<(ShardId, u64)>,
}

/// Where a stored document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredPlace {
    /// The posting file, as an index into the tree's.
    pub file: usize,
    /// The document's index in that file.
    pub document: usize,
}

impl Tree {
    /// A collection without sealed files.
    pub(crate) fn empty(entry: CollectionEntry) -> Self {
        Self {
            entry,
            postings: Vec::new(),
            vectors: Vec::new(),
            kills: Kills::default(),
            routers: BTreeMap::new(),
            filters: Arc::default(),
            radii: OnceLock::new(),
        }
    }

    /// Opens what `entry` names, taking over from `old` what it has open already.
    pub(crate) fn open(entry: &CollectionEntry, opener: &FileOpener, old: Option<&Self>) -> Result<Self> {
        let CollectionEntry { id, config, .. } = entry;
        let is_wide =
            |dimension: u32, metric| (dimension as usize, metric) == (config.dimension, config.metric);
        let known = old.map_or(&[][..], |old| &old.postings);
        let postings = entry.postings.iter().map(|posting| {
            opener.open(&posting.file, known.iter(), |file: &PostingFile| {
                let info = &file.header().info;
                info.collection == *id && (file.rows() == 0 || is_wide(info.dimension, info.metric))
            })
        });
        let postings = postings.collect::<Result<_, StorageError>>()?;
        let known = old.map_or(&[][..], |old| &old.vectors);
        let vectors = entry
            .vectors
            .iter()
            .map(|vector| {
                Ok(Arc::new(VectorSegment {
                    file: opener.open(
                        &vector.file,
                        known.iter().map(|segment| &segment.file),
                        |file: &VectorFile| {
                            let info = &file.header().info;
                            (info.collection, info.generation) == (*id, vector.generation)
                        },
                    )?,
                    generation: vector.generation,
                    base: vector.base,
                    live: vector.live.clone(),
                }))
            })
            .collect::<Result<_, StorageError>>()?;
        let mut routers = BTreeMap::new();
        for index in &entry.indexes {
            let router = match old.and_then(|old| old.routers.get(&index.generation)) {
                Some(router) if router.meta == index.file => router.clone(),
                _ => {
                    let is_ours = |file: &IndexFile| {
                        let header = file.header();
                        (header.collection, header.generation) == (*id, index.generation)
                            && is_wide(header.dimension, header.metric)
                    };
                    opener.open_new(&index.file, is_ours)?.map(|file| Router::new(file, config))
                }
            };
            routers.insert(index.generation, router);
        }
        let kills = Kills::open(entry, opener, old.map(|old| &old.kills))?;
        let filters = old.map(|old| Arc::clone(&old.filters)).unwrap_or_default();
        let radii = OnceLock::new();
        Ok(Self { entry: entry.clone(), postings, vectors, kills, routers, filters, radii })
    }

    /// What is wrong with the first of its files that could not be opened.
    pub(crate) fn damage(&self) -> Option<&StorageError> {
        let postings = self.postings.iter().filter_map(Slot::damage);
        let vectors = self.vectors.iter().filter_map(|segment| segment.file.damage());
        let kills = self.kills.files.iter().filter_map(Slot::damage);
        postings.chain(kills).chain(vectors).chain(self.routers.values().filter_map(Slot::damage)).next()
    }

    /// Every posting file.
    pub(crate) fn posting_files(&self) -> Result<Vec<&PostingFile>> {
        self.postings.iter().map(|file| Ok(&**file.get()?)).collect()
    }

    /// The index of a generation; `None` for generation 0.
    pub(crate) fn router(&self, generation: Generation) -> Result<Option<&Router>> {
        Ok(self.routers.get(&generation).map(Slot::get).transpose()?.map(|router| &**router))
    }

    /// How far a row of each list of a generation is from its centroid at most, by position: as of the training, or farther where
    /// segments say so.
    pub(crate) fn radii(&self, router: &Router) -> Result<&[f32]> {
        let all = match self.radii.get() {
            Some(all) => all,
            None => {
                // Made before, so that no other thread waits for it.
                let generations = self.routers.iter();
                let all =
                    generations.map(|(generation, router)| Ok((*generation, self.reach(router.get()?)?)));
                let all = all.collect::<Result<_>>()?;
                self.radii.get_or_init(|| all)
            }
        };
        Ok(all.get(&router.generation()).map_or(&[], |radii| radii))
    }

    fn reach(&self, router: &Router) -> Result<Vec<f32>> {
        let centroids = router.centroids()?;
        let mut all = centroids.radii().to_vec();
        for segment in self.vectors.iter().filter(|segment| segment.generation == router.generation()) {
            let file = segment.file.get()?;
            for (shard, _) in &segment.live {
                let Some(radii) = file.radii(*shard)? else { continue };
                for (entry, radius) in file.lists(*shard)?.iter().zip(radii) {
                    if let Ok(position) = centroids.ids().binary_search(&entry.list) {
                        all[position] = all[position].max(*radius);
                    }
                }
            }
        }
        Ok(all)
    }

    /// The index generation that new rows are assigned to.
    pub(crate) fn generation(&self) -> Generation {
        self.routers.last_key_value().map_or(Generation(0), |(generation, _)| *generation)
    }

    /// The live stored version of a document.
    pub(crate) fn find(&self, id: DocumentId) -> Result<Option<StoredPlace>> {
        // The newest version is in the youngest file that has one; older ones are killed.
        for (file, posting) in self.postings.iter().enumerate().rev() {
            let posting = posting.get()?;
            let bloom = posting.bloom()?;
            let may_hold = BloomView::new(bloom).is_none_or(|bloom| bloom.contains(&id));
            if !may_hold {
                continue;
            }
            if let Some(document) = posting.find(&id)?
                && !self.kills.contains(posting.entry(document)?.ordinal())?
            {
                return Ok(Some(StoredPlace { file, document }));
            }
        }
        Ok(None)
    }

    /// The ordinal of the live stored version of a document.
    pub(crate) fn ordinal_of(&self, id: DocumentId) -> Result<Option<DocumentOrdinal>> {
        let place = self.find(id)?;
        place.map(|place| Ok(self.posting(place)?.entry(place.document)?.ordinal())).transpose()
    }

    /// Where the document with that ordinal is; `None` if no file has it (any more).
    pub(crate) fn place_of(&self, ordinal: DocumentOrdinal) -> Result<Option<StoredPlace>> {
        let after = self.entry.postings.partition_point(|entry| entry.first_ordinal <= ordinal);
        let Some(file) = after.checked_sub(1) else { return Ok(None) };
        Ok(self.postings[file].get()?.index_of(ordinal)?.map(|document| StoredPlace { file, document }))
    }

    /// Where that document is, and the row of one of its postings in the same file; `None` if no file has it (any more).
    pub(crate) fn row_place(
        &self,
        ordinal: DocumentOrdinal,
        posting: u16,
    ) -> Result<Option<(StoredPlace, u32)>> {
        let Some(place) = self.place_of(ordinal)? else { return Ok(None) };
        Ok(Some((place, self.posting(place)?.row_of(place.document, posting)?)))
    }

    /// The vector and the length of a posting of the document with that ordinal; `None` if no file has it (any more).
    pub(crate) fn row(&self, ordinal: DocumentOrdinal, posting: u16) -> Result<Option<(&[f32], f32)>> {
        let Some((place, row)) = self.row_place(ordinal, posting)? else { return Ok(None) };
        let file = self.posting(place)?;
        let norm = file.norms(row..row + 1)?.first().copied().unwrap_or_default();
        Ok(Some((file.vectors(row..row + 1)?, norm)))
    }

    /// What keeps an open file of this tree open.
    pub(crate) fn holder(&self, meta: &FileMeta) -> Option<Arc<dyn Any + Send + Sync>> {
        fn held<'a, T: Any + Send + Sync>(
            mut slots: impl Iterator<Item = &'a Slot<T>>,
            meta: &FileMeta,
        ) -> Option<Arc<dyn Any + Send + Sync>> {
            slots.find(|slot| slot.meta == *meta)?.file.as_ref().ok().map(|file| Arc::clone(file) as _)
        }
        held(self.postings.iter(), meta)
            .or_else(|| held(self.vectors.iter().map(|segment| &segment.file), meta))
            .or_else(|| held(self.kills.files.iter(), meta))
            .or_else(|| held(self.routers.values(), meta))
    }

    pub(crate) fn posting(&self, place: StoredPlace) -> Result<&PostingFile> {
        Ok(self.postings[place.file].get()?)
    }

    /// The whole document, copied out.
    pub(crate) fn document(&self, place: StoredPlace) -> Result<Document> {
        let file = self.posting(place)?;
        let index = place.document;
        let vectors = file.vectors(file.entry(index)?.rows())?;
        let postings = file
            .ranges(index)?
            .iter()
            .zip(vectors.chunks_exact(self.entry.config.dimension))
            .map(|(range, vector)| Posting {
                start: range.start,
                length: range.length,
                vector: vector.to_vec(),
            })
            .collect();
        Ok(Document {
            key: crate::model::Key::decode(file.key(index)?, file.sealed().path())?,
            text: file.text(index)?.map(str::to_owned),
            metadata: value::decode(file.metadata(index)?, file.sealed().path())?,
            postings,
        })
    }

    /// Lists of all visible generations.
    pub(crate) fn lists(&self) -> usize {
        self.entry.indexes.iter().map(|index| index.lists as usize).sum()
    }

    /// Vector rows in live sections, killed ones too.
    pub(crate) fn rows(&self) -> u64 {
        self.vectors.iter().flat_map(|segment| &segment.live).map(|(_, rows)| rows).sum()
    }

    /// Vector rows of documents that are not killed, if kills are spread evenly over documents.
    pub(crate) fn live_rows(&self) -> u64 {
        let live = |documents: u64, killed: u64, rows: u64| match documents {
            0 => 0,
            _ => {
                (u128::from(rows) * u128::from(documents.saturating_sub(killed)) / u128::from(documents))
                    as u64
            }
        };
        self.entry.postings.iter().map(|file| live(file.documents, file.killed, file.rows)).sum()
    }
}

impl RowVectors for Tree {
    fn vector(&self, ordinal: DocumentOrdinal, posting: u16) -> Result<(&[f32], f32)> {
        self.row(ordinal, posting)?.ok_or_else(|| {
            let what = format!("a row names document {ordinal}, which no file has");
            StorageError::corrupted(Path::new(&self.entry.name), 0, what).into()
        })
    }
}

/// The ordinals that later writes replaced or deleted, over all kill files; read when first asked for.
#[derive(Default, Clone)]
pub(crate) struct Kills {
    pub files: Vec<Slot<KillFile>>,
    merged: OnceLock<Arc<RoaringTreemap>>,
}

impl Kills {
    fn open(entry: &CollectionEntry, opener: &FileOpener, old: Option<&Self>) -> Result<Self> {
        let known = old.map_or(&[][..], |old| &old.files);
        let is_ours = |file: &KillFile| file.header().collection == entry.id;
        let files = entry.kills.iter().map(|kill| opener.open(&kill.file, known.iter(), is_ours));
        let files = files.collect::<Result<Vec<_>, StorageError>>()?;
        let kills = Self { files, merged: OnceLock::new() };
        // What is only added to is not read again.
        let has = |files: &[Slot<KillFile>], meta| files.iter().any(|file| file.meta == meta);
        if let Some(old) = old
            && let Some(merged) = old.merged.get()
            && old.files.iter().all(|file| has(&kills.files, file.meta))
        {
            let mut all = Arc::clone(merged);
            for file in kills.files.iter().filter(|file| !has(&old.files, file.meta)) {
                *Arc::make_mut(&mut all) |= file.get()?.ordinals()?;
            }
            let _first = kills.merged.set(all);
        }
        Ok(kills)
    }

    /// All killed ordinals.
    pub(crate) fn all(&self) -> Result<&Arc<RoaringTreemap>> {
        if let Some(merged) = self.merged.get() {
            return Ok(merged);
        }
        let mut all = RoaringTreemap::new();
        for file in &self.files {
            all |= file.get()?.ordinals()?;
        }
        Ok(self.merged.get_or_init(|| Arc::new(all)))
    }

    pub(crate) fn contains(&self, ordinal: DocumentOrdinal) -> Result<bool> {
        Ok(!self.files.is_empty() && self.all()?.contains(ordinal.0))
    }
}

/// Checks that files which a manifest names are there with their lengths. Cheap: one listing of the directory.
pub(crate) fn check_presence<'a>(
    files: impl Iterator<Item = &'a FileMeta>,
    storage: &dyn Storage,
    dir: &Path,
) -> Result<()> {
    let listed: BTreeMap<String, u64> =
        storage.list(dir)?.into_iter().map(|entry| (entry.name, entry.len)).collect();
    for meta in files {
        let name = meta.name().to_string();
        let what = match listed.get(&name) {
            Some(len) if *len == meta.len => continue,
            Some(len) => format!("the file has {len} bytes, the manifest says {}", meta.len),
            None => MISSING.to_owned(),
        };
        let offset = listed.get(&name).map_or(0, |len| (*len).min(meta.len));
        return Err(StorageError::corrupted(&dir.join(name), offset, what).into());
    }
    Ok(())
}
