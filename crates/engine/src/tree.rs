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
use plimsoll_shard::{
    FileMeta, IndexFile, KillFile, PostingFile, ReadMode, SealedFile, SealedView, VectorFile,
};
use roaring::RoaringTreemap;

use crate::error::Result;
use crate::manifest::{CollectionEntry, Manifest};
use crate::model::{Document, Posting, value};
use crate::router::Router;

/// How sealed files are opened.
#[derive(Clone)]
pub(crate) struct FileOpener {
    pub storage: Arc<dyn Storage>,
    pub dir: std::path::PathBuf,
    pub database: [u8; 16],
    pub mode: ReadMode,
}

impl FileOpener {
    fn open_new<T: SealedView>(&self, meta: &FileMeta) -> Result<T, StorageError> {
        T::open(&*self.storage, &self.dir, meta, self.database, self.mode)
    }

    /// The file of that name among those that are open already, or else opened now.
    fn open<'a, T: SealedView + 'a>(
        &self,
        meta: &FileMeta,
        mut known: impl Iterator<Item = &'a Arc<T>>,
    ) -> Result<Arc<T>, StorageError> {
        match known.find(|file| file.sealed().file_meta() == meta) {
            Some(file) => Ok(Arc::clone(file)),
            None => self.open_new(meta).map(Arc::new),
        }
    }
}

/// One collection's sealed files.
pub(crate) struct Tree {
    pub entry: CollectionEntry,
    /// In the order of their ordinals.
    pub postings: Vec<Arc<PostingFile>>,
    pub vectors: Vec<Arc<VectorSegment>>,
    pub kills: Kills,
    /// By generation; generation 0 has no file.
    pub routers: BTreeMap<Generation, Arc<Router>>,
}

/// An open vector segment and which of its sections are live.
pub(crate) struct VectorSegment {
    pub file: Arc<VectorFile>,
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
        }
    }

    /// Opens what `entry` names, taking over from `old` what it has open already.
    pub(crate) fn open(entry: &CollectionEntry, opener: &FileOpener, old: Option<&Self>) -> Result<Self> {
        let known = old.map_or(&[][..], |old| &old.postings);
        let postings = entry.postings.iter().map(|posting| opener.open(&posting.file, known.iter()));
        let postings = postings.collect::<Result<_, StorageError>>()?;
        let known = old.map_or(&[][..], |old| &old.vectors);
        let vectors = entry
            .vectors
            .iter()
            .map(|vector| {
                Ok(Arc::new(VectorSegment {
                    file: opener.open(&vector.file, known.iter().map(|segment| &segment.file))?,
                    generation: vector.generation,
                    base: vector.base,
                    live: vector.live.clone(),
                }))
            })
            .collect::<Result<_, StorageError>>()?;
        let mut routers = BTreeMap::new();
        for index in &entry.indexes {
            let router = match old.and_then(|old| old.routers.get(&index.generation)) {
                Some(router) if router.file().sealed().file_meta() == &index.file => Arc::clone(router),
                _ => {
                    let file = opener.open_new::<IndexFile>(&index.file)?;
                    Arc::new(Router::new(file, &entry.config))
                }
            };
            routers.insert(index.generation, router);
        }
        let kills = Kills::open(entry, opener, old.map(|old| &old.kills))?;
        let tree = Self { entry: entry.clone(), postings, vectors, kills, routers };
        tree.check_headers()?;
        Ok(tree)
    }

    /// That the files are of this collection and as wide as it, and of the generations that the manifest says: a
    /// kernel is never given a query and rows of different dimensions.
    fn check_headers(&self) -> Result<()> {
        let CollectionEntry { id, config, .. } = &self.entry;
        let space =
            |dimension: u32, metric| (dimension as usize, metric) == (config.dimension, config.metric);
        let stranger = |file: &SealedFile| {
            let what = format!("this is not a file of collection {id}, {} dimensions", config.dimension);
            Err(StorageError::corrupted(file.path(), 0, what).into())
        };
        for file in &self.postings {
            let info = &file.header().info;
            if info.collection != *id || (file.rows() > 0 && !space(info.dimension, info.metric)) {
                return stranger(file.sealed());
            }
        }
        for segment in &self.vectors {
            let info = &segment.file.header().info;
            if (info.collection, info.generation) != (*id, segment.generation) {
                return stranger(segment.file.sealed());
            }
        }
        for (generation, router) in &self.routers {
            let header = router.file().header();
            let is_ours = (header.collection, header.generation) == (*id, *generation);
            if !is_ours || !space(header.dimension, header.metric) {
                return stranger(router.file().sealed());
            }
        }
        match self.kills.files.iter().find(|file| file.header().collection != *id) {
            Some(file) => stranger(file.sealed()),
            None => Ok(()),
        }
    }

    /// The index generation that new rows are assigned to.
    pub(crate) fn generation(&self) -> Generation {
        self.routers.last_key_value().map_or(Generation(0), |(generation, _)| *generation)
    }

    /// The live stored version of a document.
    pub(crate) fn find(&self, id: DocumentId) -> Result<Option<StoredPlace>> {
        // The newest version is in the youngest file that has one; older ones are killed.
        for (file, posting) in self.postings.iter().enumerate().rev() {
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

    /// Where the document with that ordinal is; `None` if no file has it (any more).
    pub(crate) fn place_of(&self, ordinal: DocumentOrdinal) -> Result<Option<StoredPlace>> {
        let after = self.entry.postings.partition_point(|entry| entry.first_ordinal <= ordinal);
        let Some(file) = after.checked_sub(1) else { return Ok(None) };
        Ok(self.postings[file].index_of(ordinal)?.map(|document| StoredPlace { file, document }))
    }

    /// What keeps an open file of this tree open.
    pub(crate) fn holder(&self, meta: &FileMeta) -> Option<Arc<dyn Any + Send + Sync>> {
        fn held<T: Any + Send + Sync>(file: &Arc<T>) -> Arc<dyn Any + Send + Sync> {
            Arc::clone(file) as _
        }
        let postings = self.postings.iter().filter(|file| file.sealed().file_meta() == meta).map(held);
        let vectors = self
            .vectors
            .iter()
            .filter(|segment| segment.file.sealed().file_meta() == meta)
            .map(|s| held(&s.file));
        let kills = self.kills.files.iter().filter(|file| file.sealed().file_meta() == meta).map(held);
        let routers =
            self.routers.values().filter(|router| router.file().sealed().file_meta() == meta).map(held);
        postings.chain(vectors).chain(kills).chain(routers).next()
    }

    pub(crate) fn posting(&self, place: StoredPlace) -> &PostingFile {
        &self.postings[place.file]
    }

    /// The whole document, copied out.
    pub(crate) fn document(&self, place: StoredPlace) -> Result<Document> {
        let file = self.posting(place);
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

    /// Vector rows in live sections, killed ones too.
    pub(crate) fn rows(&self) -> u64 {
        self.vectors.iter().flat_map(|segment| &segment.live).map(|(_, rows)| rows).sum()
    }
}

/// The ordinals that later writes replaced or deleted, over all kill files; read when first asked for.
#[derive(Default, Clone)]
pub(crate) struct Kills {
    pub files: Vec<Arc<KillFile>>,
    merged: OnceLock<Arc<RoaringTreemap>>,
}

impl Kills {
    fn open(entry: &CollectionEntry, opener: &FileOpener, old: Option<&Self>) -> Result<Self> {
        let known = old.map_or(&[][..], |old| &old.files);
        let files = entry.kills.iter().map(|kill| opener.open(&kill.file, known.iter()));
        let files = files.collect::<Result<Vec<_>, StorageError>>()?;
        let kills = Self { files, merged: OnceLock::new() };
        // What is only added to is not read again.
        if let Some(old) = old
            && let Some(merged) = old.merged.get()
            && old.files.iter().all(|file| kills.files.iter().any(|kept| Arc::ptr_eq(kept, file)))
        {
            let mut all = Arc::clone(merged);
            for file in
                kills.files.iter().filter(|file| !old.files.iter().any(|known| Arc::ptr_eq(known, file)))
            {
                *Arc::make_mut(&mut all) |= file.ordinals()?;
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
            all |= file.ordinals()?;
        }
        Ok(self.merged.get_or_init(|| Arc::new(all)))
    }

    pub(crate) fn contains(&self, ordinal: DocumentOrdinal) -> Result<bool> {
        Ok(!self.files.is_empty() && self.all()?.contains(ordinal.0))
    }
}

/// Checks that every file a manifest names is there with its length, which opening one by one would find
/// only later. Cheap: one listing of the directory.
pub(crate) fn check_presence(manifest: &Manifest, storage: &dyn Storage, dir: &Path) -> Result<()> {
    let listed: BTreeMap<String, u64> =
        storage.list(dir)?.into_iter().map(|entry| (entry.name, entry.len)).collect();
    for meta in manifest.files() {
        let name = meta.name().to_string();
        match listed.get(&name) {
            Some(len) if *len == meta.len => {}
            Some(len) => {
                let what = format!("the file has {len} bytes, the manifest says {}", meta.len);
                return Err(StorageError::corrupted(&dir.join(name), (*len).min(meta.len), what).into());
            }
            None => {
                let missing = std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    "it is missing, and the manifest names it",
                );
                return Err(StorageError::io("open", &dir.join(name), missing).into());
            }
        }
    }
    Ok(())
}
