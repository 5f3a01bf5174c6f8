//! Which documents a filter lets through.
//!
//! A posting file never changes, so neither does what a filter says of its documents: it is found out once, a bit for each
//! document, and kept for the next search with the same filter. Rows that are not flushed yet are asked one by one.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use plimsoll_base::FileNumber;
use plimsoll_shard::{PostingFile, SealedView};
use rayon::prelude::*;

use super::interrupt::Interrupt;
use crate::error::{Error, Result};
use crate::filter::{Field, Filter, FilterError};
use crate::memtable::MemtableEntry;
use crate::state::CollectionState;
use crate::tree::{StoredPlace, Tree};

/// Answers that are kept before all are forgotten: one takes a bit for each document of a file.
const KEPT: usize = 256;
/// Documents asked by one thread at a time.
const BLOCK: usize = 4096;

/// What filters said of posting files; shared by all trees of a collection. Looking into it takes no lock.
#[derive(Default)]
pub(crate) struct FilterCache(ArcSwap<Answers>);

type Answers = HashMap<(FileNumber, String), Arc<Selected>>;

/// The documents of one posting file that a filter lets through.
pub(crate) struct Selected {
    bits: Box<[u64]>,
    pub documents: u64,
}

impl Selected {
    fn find(filter: &Filter, file: &PostingFile, interrupt: &Interrupt) -> Result<Self> {
        let words = |first: usize| {
            interrupt.check()?;
            let last = (first + BLOCK).min(file.documents());
            let word = |start: usize| {
                let mut word = 0;
                for document in start..(start + 64).min(last) {
                    let matches = filter.matches(file.metadata(document)?, file.sealed().path())?;
                    word |= u64::from(matches) << (document - start);
                }
                Ok(word)
            };
            (first..last).step_by(64).map(word).collect::<Result<Vec<u64>>>()
        };
        let firsts: Vec<usize> = (0..file.documents()).step_by(BLOCK).collect();
        let words = firsts.into_par_iter().map(words).collect::<Result<Vec<_>>>()?;
        let bits = words.concat().into_boxed_slice();
        let documents = bits.iter().map(|word| u64::from(word.count_ones())).sum();
        Ok(Self { bits, documents })
    }

    fn contains(&self, document: usize) -> bool {
        self.bits.get(document / 64).is_some_and(|word| word >> (document % 64) & 1 == 1)
    }

    /// The documents, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.bits.iter().enumerate().flat_map(|(index, word)| {
            let some = |word: u64| (word != 0).then_some(word);
            let bits = std::iter::successors(some(*word), move |word| some(word & (word - 1)));
            bits.map(move |word| index * 64 + word.trailing_zeros() as usize)
        })
    }
}

impl FilterCache {
    fn get(
        &self,
        filter: &Filter,
        text: &str,
        file: &PostingFile,
        interrupt: &Interrupt,
    ) -> Result<Arc<Selected>> {
        let key = (file.sealed().file_meta().number, text.to_owned());
        if let Some(selected) = self.0.load().get(&key) {
            return Ok(Arc::clone(selected));
        }
        let selected = Arc::new(Selected::find(filter, file, interrupt)?);
        self.0.rcu(|kept| {
            let mut kept = if kept.len() < KEPT { Answers::clone(kept) } else { Answers::new() };
            kept.insert(key.clone(), Arc::clone(&selected));
            kept
        });
        Ok(selected)
    }
}

/// A filter as one search needs it.
pub(crate) struct Selection {
    filter: Filter,
    /// By posting file of the tree.
    pub files: Vec<Arc<Selected>>,
    /// The stored documents that match, killed ones too, and all of them.
    pub matching: u64,
    documents: u64,
}

impl Selection {
    /// Asks a collection's files.
    ///
    /// # Errors
    /// What is wrong with the filter; a field that no document has, unless there are no documents; damage.
    pub(crate) fn new(filter: &Filter, state: &CollectionState, interrupt: &Interrupt) -> Result<Self> {
        filter.check()?;
        let tree = &*state.tree;
        for field in filter.fields() {
            if !is_known(field, state, interrupt)? {
                return Err(Error::Filter(FilterError::UnknownField { field: field.to_owned() }));
            }
        }
        let files = of_files(filter, tree, interrupt)?;
        let matching = files.iter().map(|selected| selected.documents).sum();
        let documents = tree.entry.postings.iter().map(|posting| posting.documents).sum();
        Ok(Self { filter: filter.clone(), files, matching, documents })
    }

    /// The share of the stored documents that match.
    pub(crate) fn share(&self) -> f64 {
        self.matching as f64 / self.documents.max(1) as f64
    }

    pub(crate) fn contains(&self, place: StoredPlace) -> bool {
        self.files.get(place.file).is_some_and(|selected| selected.contains(place.document))
    }

    /// Whether a document that is not flushed yet matches.
    pub(crate) fn matches(&self, entry: &MemtableEntry<'_>) -> Result<bool> {
        self.filter.matches(entry.encoded_metadata(), std::path::Path::new("memtable"))
    }
}

fn of_files(filter: &Filter, tree: &Tree, interrupt: &Interrupt) -> Result<Vec<Arc<Selected>>> {
    let text = filter.to_string();
    tree.posting_files()?.into_iter().map(|file| tree.filters.get(filter, &text, file, interrupt)).collect()
}

/// Whether any document has a field of that name, or there is none at all.
fn is_known(field: &str, state: &CollectionState, interrupt: &Interrupt) -> Result<bool> {
    let exists = Filter::exists(Field::named(field));
    let text = exists.to_string();
    let mut any = false;
    for file in state.tree.posting_files()? {
        any |= file.documents() > 0;
        if state.tree.filters.get(&exists, &text, file, interrupt)?.documents > 0 {
            return Ok(true);
        }
    }
    for memtable in state.memtables() {
        for (_, entry) in memtable.newest(plimsoll_base::Lsn(u64::MAX)) {
            any = true;
            if exists.matches(entry.encoded_metadata(), std::path::Path::new("memtable"))? {
                return Ok(true);
            }
        }
    }
    Ok(!any)
}
