//! Which files a folder has, and which of them are to be looked at.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, WalkBuilder};

use super::{Root, Seen, SeenFiles, key_of, unnamed};
use crate::input::InputError;
use crate::{Failure, FailureClass};

/// Which files of a folder are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalkOptions {
    /// If there are any: only files that match one of these patterns, which are those of `.gitignore` (`*.md`, `docs/`,
    /// `/src/**/*.rs`).
    pub include: Vec<String>,
    /// No files that match one of these, and nothing in directories that do.
    pub exclude: Vec<String>,
    /// Hidden files, too: those with a dot at the beginning of their name or a directory's. `.git` never.
    pub hidden: bool,
    /// Also what `.gitignore`, `.ignore` and `.git/info/exclude` say to ignore.
    pub no_ignore: bool,
    /// Follow symbolic links, out of the folder, too; otherwise they count as not there. A link to a directory above
    /// itself is a failure.
    pub follow_links: bool,
    /// A folder without any files is just that, and what was seen in it is deleted. Otherwise it is an error, because
    /// it is more often a disk that is not mounted, or a pattern that fits nothing.
    pub allow_empty: bool,
}

/// What is to be done about a path.
#[derive(Debug)]
pub(super) enum Job {
    Look { path: String, seen: Option<Seen> },
    Gone { path: String },
    Failed { path: String, payload: Vec<u8>, failure: Failure },
}

impl Job {
    fn path(&self) -> &str {
        match self {
            Self::Look { path, .. } | Self::Gone { path } | Self::Failed { path, .. } => path,
        }
    }
}

/// What the listing came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub jobs: Vec<Job>,
    pub files: u64,
    pub unchanged: u64,
}

/// The listing while it is made.
struct Listing<'a, S> {
    root: &'a Root,
    seen: &'a S,
    include: Option<Gitignore>,
    found: Found,
    /// Hashes of seen paths that are still there: 16 bytes each, where there may be millions of long paths.
    there: HashSet<[u8; 16]>,
    /// Directories that could not be read: what is below them is not known.
    unread: Vec<String>,
    /// Something could not be read, and it was not said what.
    blind: bool,
}

pub(super) fn list<S: SeenFiles>(root: &Root, options: &WalkOptions, seen: &S) -> Result<Found, InputError> {
    let include = (!options.include.is_empty()).then(|| patterns(root, &options.include)).transpose()?;
    let mut listing = Listing {
        root,
        seen,
        include,
        found: Found::default(),
        there: HashSet::new(),
        unread: Vec::new(),
        blind: false,
    };
    for entry in walker(root, options)?.build() {
        match entry {
            Ok(entry) => listing.entry(&entry),
            Err(error) => listing.error(&error)?,
        }
    }
    listing.gone();
    let Listing { mut found, unread, blind, .. } = listing;
    let knows_all = unread.is_empty() && !blind;
    let is_gone = found.jobs.iter().any(|job| matches!(job, Job::Gone { .. }));
    if found.files == 0 && is_gone && knows_all && !options.allow_empty {
        return Err(root.wrong("none of the files that were seen in it is there, nor any other one"));
    }
    found.jobs.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(found)
}

fn patterns(root: &Root, patterns: &[String]) -> Result<Gitignore, InputError> {
    let mut builder = GitignoreBuilder::new(&root.real);
    for pattern in patterns {
        let wrong = |error: ignore::Error| root.wrong(format!("{pattern:?} is no pattern: {error}"));
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    builder.build().map_err(|error| root.wrong(error.to_string()))
}

fn walker(root: &Root, options: &WalkOptions) -> Result<WalkBuilder, InputError> {
    let exclude = patterns(root, &options.exclude)?;
    let mut walker = WalkBuilder::new(&root.real);
    let ignores = !options.no_ignore;
    walker.hidden(!options.hidden).follow_links(options.follow_links);
    walker.ignore(ignores).git_ignore(ignores).git_exclude(ignores).parents(ignores);
    // The same for everybody who looks at the folder, and whether it is in a repository or not.
    walker.git_global(false).require_git(false);
    walker.filter_entry(move |entry| {
        let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
        entry.file_name() != OsStr::new(".git") && !exclude.matched(entry.path(), is_dir).is_ignore()
    });
    Ok(walker)
}

impl<S: SeenFiles> Listing<'_, S> {
    fn entry(&mut self, entry: &DirEntry) {
        let relative = entry.path().strip_prefix(&self.root.real).unwrap_or(entry.path());
        if let Some(error) = entry.error() {
            let what = format!("the rules of what to ignore there: {error}");
            self.failed(relative, Failure::new(FailureClass::FileSystem, what));
        }
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
        let is_included = || {
            let included =
                |include: &Gitignore| include.matched_path_or_any_parents(relative, false).is_ignore();
            self.include.as_ref().is_none_or(included)
        };
        if !is_file || !is_included() {
            return;
        }
        self.found.files += 1;
        let path = match text_of(relative) {
            Ok(path) => path,
            Err(escaped) => return self.failed(relative, unnamed(&escaped)),
        };
        if let Err(failure) = key_of(&path) {
            return self.failed(relative, failure);
        }
        let seen = self.seen.get(&path);
        if seen.is_some() {
            self.there.insert(short_hash(&path));
        }
        let metadata = entry.metadata().ok();
        if let (Some(seen), Some(metadata)) = (seen, metadata)
            && seen.is_clean(&metadata)
        {
            self.found.unchanged += 1;
        } else {
            // Also if it could not be looked at: opening it will say why.
            self.found.jobs.push(Job::Look { path, seen });
        }
    }

    fn error(&mut self, error: &ignore::Error) -> Result<(), InputError> {
        let Some(path) = path_of(error) else {
            self.blind = true;
            self.failed(Path::new(""), Failure::new(FailureClass::FileSystem, error.to_string()));
            return Ok(());
        };
        let relative = path.strip_prefix(&self.root.real).unwrap_or(&path).to_owned();
        if relative.as_os_str().is_empty() {
            return Err(self.root.wrong(error.to_string()));
        }
        // A name that is not UTF-8 was never seen, nor was anything below it.
        self.unread.extend(text_of(&relative).ok());
        self.failed(&relative, Failure::new(FailureClass::FileSystem, error.to_string()));
        Ok(())
    }

    fn failed(&mut self, relative: &Path, failure: Failure) {
        let path = text_of(relative).unwrap_or_else(|escaped| escaped);
        let payload = bytes_of(relative.as_os_str());
        self.found.jobs.push(Job::Failed { path, payload, failure });
    }

    /// Finds what was seen and is no longer there, as far as that can be known.
    fn gone(&mut self) {
        if self.blind {
            return;
        }
        let (there, unread, jobs) = (&self.there, &self.unread, &mut self.found.jobs);
        self.seen.for_each_path(&mut |path| {
            let is_below = |dir: &String| {
                path.strip_prefix(dir.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if !there.contains(&short_hash(path)) && !unread.iter().any(is_below) {
                jobs.push(Job::Gone { path: path.to_owned() });
            }
        });
    }
}

/// Long enough that no two paths have the same.
fn short_hash(path: &str) -> [u8; 16] {
    let hash = blake3::hash(path.as_bytes());
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// The path with `/` between its parts; if it is not UTF-8, what can be shown of it.
fn text_of(relative: &Path) -> Result<String, String> {
    let parts = || relative.components().filter(|part| matches!(part, Component::Normal(_)));
    let text: Option<Vec<&str>> = parts().map(|part| part.as_os_str().to_str()).collect();
    match text {
        Some(parts) => Ok(parts.join("/")),
        None => Err(bytes_of(relative.as_os_str()).escape_ascii().to_string()),
    }
}

#[cfg(unix)]
fn bytes_of(name: &OsStr) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec()
}

#[cfg(not(unix))]
fn bytes_of(name: &OsStr) -> Vec<u8> {
    name.as_encoded_bytes().to_vec()
}

/// What an error is about.
fn path_of(error: &ignore::Error) -> Option<PathBuf> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path.clone()),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        ignore::Error::Loop { child, .. } => Some(child.clone()),
        ignore::Error::Partial(errors) => errors.iter().find_map(path_of),
        _ => None,
    }
}
