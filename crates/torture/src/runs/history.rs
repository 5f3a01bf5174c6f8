//! What the database has been told, and what of it a crash may take back.

use std::collections::BTreeSet;

use plimsoll::CollectionConfig;

use crate::model::Model;

/// The versions of a database since it was opened, or longer if it was closed in between.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// What it showed, one version for each change. The last is what it shows now.
    versions: Vec<Model>,
    /// The first of them that a crash may leave: everything up to it was acknowledged.
    durable: usize,
    /// What it would show with a write that failed, until a later write is acknowledged.
    failed: Vec<Model>,
    /// Whether anything was written after the last of those.
    written_since: bool,
    /// What an earlier crash may have left, until something is acknowledged.
    unsettled: Vec<Model>,
    /// Collections whose creation failed, each as it was asked for: one may have reached the disk.
    maybe_created: Vec<(String, CollectionConfig)>,
    /// Collections whose removal failed, likewise.
    maybe_dropped: BTreeSet<String>,
}

impl History {
    /// That of an empty database.
    pub(crate) fn new() -> Self {
        Self {
            versions: vec![Model::default()],
            durable: 0,
            failed: Vec::new(),
            written_since: false,
            unsettled: Vec::new(),
            maybe_created: Vec::new(),
            maybe_dropped: BTreeSet::new(),
        }
    }

    /// What the database must show.
    pub(crate) fn shown(&self) -> &Model {
        &self.versions[self.now()]
    }

    /// The number of the version it shows.
    pub(crate) fn now(&self) -> usize {
        self.versions.len() - 1
    }

    /// A write that returned.
    pub(crate) fn wrote(&mut self, after: Model, is_durable: bool) {
        self.versions.push(after);
        self.written_since = true;
        // Before anything is acknowledged, a drop of unknown outcome is settled.
        if !self.maybe_dropped.is_empty() {
            self.maybe_dropped.clear();
            self.maybe_created.clear();
        }
        if is_durable {
            self.acknowledged(self.now());
        }
    }

    /// A write that failed, or of which nobody knows.
    pub(crate) fn failed(&mut self, would_be: Model) {
        self.failed.push(would_be);
        self.written_since = false;
    }

    /// Everything up to a version was acknowledged.
    pub(crate) fn acknowledged(&mut self, version: usize) {
        self.durable = self.durable.max(version);
        self.unsettled.clear();
        if self.written_since {
            self.failed.clear();
        }
    }

    /// A collection was created, which also makes everything before it durable.
    pub(crate) fn created(&mut self, name: &str, config: &CollectionConfig) {
        let mut after = self.shown().clone();
        after.create(name, config);
        self.versions.push(after);
        self.failed.iter_mut().for_each(|model| model.create(name, config));
        self.maybe_created.clear();
        self.maybe_dropped.clear();
        self.acknowledged(self.now());
    }

    /// The creation of a collection failed.
    pub(crate) fn not_created(&mut self, name: &str, config: &CollectionConfig) {
        self.maybe_created.push((name.to_owned(), config.clone()));
    }

    /// A collection was dropped, which makes nothing else durable.
    pub(crate) fn dropped(&mut self, name: &str) {
        for model in self.versions.iter_mut().chain(&mut self.failed).chain(&mut self.unsettled) {
            model.collections.remove(name);
        }
        self.maybe_created.clear();
        self.maybe_dropped.clear();
    }

    /// The removal of a collection failed.
    pub(crate) fn not_dropped(&mut self, name: &str) {
        self.maybe_dropped.insert(name.to_owned());
    }

    /// What may be there after a crash now.
    pub(crate) fn allowed(&self) -> Vec<Model> {
        let models = self.versions[self.durable..].iter().chain(&self.failed).chain(&self.unsettled);
        models.flat_map(|model| self.variants(model)).collect()
    }

    /// Whether this was ever shown.
    pub(crate) fn is_version(&self, found: &Model) -> bool {
        self.version_of(found, 0).is_some()
    }

    /// The first version from `from` on that is `found`, if there is one.
    pub(crate) fn version_of(&self, found: &Model, from: usize) -> Option<usize> {
        (from..self.versions.len()).find(|version| self.variants(&self.versions[*version]).contains(found))
    }

    /// The database was opened again and shows one of what was allowed.
    pub(crate) fn reopened(&mut self, found: Model) {
        let allowed = self.allowed();
        let known = (self.durable..self.versions.len()).rev().find(|at| self.versions[*at] == found);
        // A reader may lag behind with the log, and yet show what the manifest says about collections.
        self.maybe_created.retain(|(name, _)| found.collections.contains_key(name));
        self.maybe_dropped.retain(|name| !found.collections.contains_key(name));
        // A write that failed and is there after all follows what was shown: a reader may yet show that.
        let before = if self.failed.contains(&found) { self.now() } else { self.durable };
        self.versions.truncate(known.unwrap_or(before) + 1);
        if known.is_none() {
            self.versions.push(found);
        }
        self.unsettled = allowed;
        self.failed.clear();
    }

    /// A version, with and without what nobody knows.
    fn variants(&self, model: &Model) -> Vec<Model> {
        let mut variants = vec![model.clone()];
        for (name, config) in &self.maybe_created {
            let mut with = variants.clone();
            with.retain(|model| !model.collections.contains_key(name));
            with.iter_mut().for_each(|model| model.create(name, config));
            variants.append(&mut with);
        }
        for name in &self.maybe_dropped {
            let without = |mut model: Model| {
                model.collections.remove(name);
                model
            };
            variants.extend(variants.clone().into_iter().map(without));
        }
        variants
    }
}
