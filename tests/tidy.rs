//! The rules of the house that the compiler does not know: who may import whom, which files may be `unsafe`,
//! where time enters, how long a line may be, which words are not used, and that every document can be found.
//!
//! The import table is read from docs/ARCHITECTURE.md, so that the document and the check cannot differ. An
//! offence is printed with file, line and rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The only files with `unsafe` code: system calls, and what they read and write.
const UNSAFE: [&str; 11] = [
    "src/io/cmsg.rs",
    "src/io/mmsg/receive.rs",
    "src/io/mmsg/send.rs",
    "src/io/sender.rs",
    "src/io/sockaddr.rs",
    "src/io/sys.rs",
    "src/io/uring/engine.rs",
    "src/io/uring/mod.rs",
    "src/io/uring/ring.rs",
    "src/io/uring/send.rs",
    "src/io/uring/slots.rs",
];

/// Where the operating system's clock is read: the clock of the loops, and what waits for people, processes
/// or HTTP.
const TIME_ENTERS: [&str; 18] = [
    "src/admin/live.rs",
    "src/admin/metrics/process.rs",
    "src/admin/status/board.rs",
    "src/admin/status/events.rs",
    "src/admin/status/window.rs",
    "src/base/time.rs",
    "src/bin/lbd/controller.rs",
    "src/bin/lbd/operate.rs",
    "src/bin/lbd/ping/mod.rs",
    "src/bin/lbd/ping/probe.rs",
    "src/bin/lbd/top/mod.rs",
    "src/bin/lbd/up.rs",
    "src/bin/loadgen/progress.rs",
    "src/bin/loadgen/trials.rs",
    "src/daemon/controller/upstream.rs",
    "src/daemon/supervised_balancer.rs",
    "src/load/measure.rs",
    "src/server.rs",
];

/// Folders of which no part may import another part.
const SEPARATE: [&str; 1] = ["role"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// All files below a folder with one of these endings, relative to the project, in order.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = vec![];
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        let entries = dir.read_dir().unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for path in entries.map(|entry| entry.expect("the folder can be listed").path()) {
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                let path = path.strip_prefix(root()).expect("it is below the project");
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no file in {folder}: the check would prove nothing");
    found
}

fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

/// Fails with all offences, if there are any.
fn no_offence(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}: {} offences\n{}", offences.len(), offences.join("\n"));
}

/// What one source file names, without its tests.
#[derive(Default)]
struct Source {
    /// Paths that begin with `crate`, `super`, `self` or `lbd`, with their lines.
    paths: Vec<(Vec<String>, usize)>,
    /// Lines with the keyword `unsafe`.
    unsafe_lines: Vec<usize>,
    /// Lines that read the operating system's clock.
    clock_lines: Vec<usize>,
    /// Lines with `use super::*`.
    glob_lines: Vec<usize>,
    /// Attributes of the whole file.
    has_allow_unsafe: bool,
    /// Inline modules that surround what is being read.
    inside: usize,
}

impl Source {
    fn of(file: &str) -> Source {
        let text = read(file);
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut source = Source::default();
        source.visit_file(&parsed);
        source
    }

    fn note_path(&mut self, segments: Vec<String>, line: usize) {
        let ends_with = |end: [&str; 2]| segments.ends_with(&end.map(str::to_owned));
        let reads_clock = segments.last().is_some_and(|last| last == "clock_gettime");
        if reads_clock || ends_with(["Instant", "now"]) || ends_with(["SystemTime", "now"]) {
            self.clock_lines.push(line);
        }
        if matches!(segments.first().map(String::as_str), Some("crate" | "super" | "self" | "lbd")) {
            // A `super` inside of an inline module leads to the module around it.
            let supers = segments.iter().take_while(|segment| *segment == "super").count();
            if supers > 0 && supers <= self.inside {
                return;
            }
            self.paths.push((segments[supers.min(self.inside)..].to_vec(), line));
        }
    }

    fn note_use(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.note_use(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_use(tree, before)),
            syn::UseTree::Glob(glob) => {
                if before.iter().all(|segment| segment == "super") {
                    self.glob_lines.push(glob.span().start().line);
                }
                self.note_path(before.clone(), glob.span().start().line);
            }
            syn::UseTree::Name(name) => self.note_leaf(&name.ident, before),
            syn::UseTree::Rename(rename) => self.note_leaf(&rename.ident, before),
        }
    }

    fn note_leaf(&mut self, name: &proc_macro2::Ident, before: &[String]) {
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        self.note_path(path, name.span().start().line);
    }

    /// The arguments of a macro are tokens: what looks like a path is one.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = vec![];
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) if colons == 2 || path.is_empty() => {
                    if path.is_empty() {
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    self.note_path(std::mem::replace(&mut path, vec![ident.to_string()]), line);
                    line = ident.span().start().line;
                    colons = 0;
                    continue;
                }
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                _ => {}
            }
            self.note_path(std::mem::take(&mut path), line);
            colons = 0;
        }
        self.note_path(path, line);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg")
            && list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
            && !list.tokens.to_string().contains("not (test")
    })
}

impl<'ast> Visit<'ast> for Source {
    fn visit_file(&mut self, file: &'ast syn::File) {
        let allows = |attribute: &syn::Attribute| {
            attribute.path().is_ident("allow")
                && attribute
                    .parse_args_with(Punctuated::<syn::Path, syn::Token![,]>::parse_terminated)
                    .is_ok_and(|lints| lints.iter().any(|lint| lint.is_ident("unsafe_code")))
        };
        self.has_allow_unsafe = file.attrs.iter().any(allows);
        visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.inside += 1;
        visit::visit_item_mod(self, item);
        self.inside -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_use(&item.tree, &mut vec![]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note_path(segments, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {} // `pub(crate)` imports nothing

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.note_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafe_lines.push(block.span().start().line);
        visit::visit_expr_unsafe(self, block);
    }
}

/// The modules of one crate: path of the module to its file.
struct Tree {
    files: BTreeMap<Vec<String>, String>,
}

impl Tree {
    /// The modules below a folder whose root is this file.
    fn new(folder: &str, root_file: &str) -> Tree {
        let mut modules = BTreeMap::new();
        for file in files(folder, &[".rs"]) {
            let inside = file.strip_prefix(folder).expect("below").trim_start_matches('/');
            if is_test(&file) || inside.starts_with("bin/") {
                continue;
            }
            let mut path: Vec<String> =
                inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if file == root_file {
                path.clear();
            } else if path.last().is_some_and(|last| last == "mod") {
                path.pop();
            }
            modules.insert(path, file);
        }
        Tree { files: modules }
    }

    /// The file that a path leads to, seen from a module; `None` if it leads out of the crate.
    fn resolve(&self, from: &[String], path: &[String]) -> Option<&String> {
        let mut at: Vec<String> = match path[0].as_str() {
            "crate" => vec![],
            "self" | "super" => from.to_vec(),
            _ => return None,
        };
        for segment in path.iter().skip(usize::from(path[0] != "super")) {
            match segment.as_str() {
                "super" => _ = at.pop(),
                name => {
                    at.push(name.to_owned());
                    if !self.files.contains_key(&at) {
                        at.pop();
                        break;
                    }
                }
            }
        }
        self.files.get(&at)
    }

    /// Each import from one file to another, with its line.
    fn imports(&self) -> BTreeMap<&String, BTreeMap<&String, usize>> {
        let mut all = BTreeMap::new();
        for (module, file) in &self.files {
            let imports: &mut BTreeMap<_, _> = all.entry(file).or_default();
            for (path, line) in Source::of(file).paths {
                if let Some(to) = self.resolve(module, &path)
                    && to != file
                {
                    imports.entry(to).or_insert(line);
                }
            }
        }
        all
    }
}

fn library() -> Tree {
    Tree::new("src", "src/lib.rs")
}

/// The row of the import table that a file belongs to.
fn folder_of(file: &str) -> String {
    file.trim_start_matches("src/").split('/').next().expect("a path has a first part").to_owned()
}

/// The import table of docs/ARCHITECTURE.md: who may import whom.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let document = read("docs/ARCHITECTURE.md");
    let section =
        document.split("\n## Import order\n").nth(1).expect("ARCHITECTURE has a section Import order");
    let names = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('/').to_owned()).collect()
    };
    let mut table = BTreeMap::new();
    for row in section.lines().skip_while(|line| !line.starts_with("|---")).skip(1) {
        let Some(row) = row.strip_prefix('|') else { break };
        let (folders, may) = row.split_once('|').expect("a row has two cells");
        for folder in names(folders) {
            let before = table.insert(folder.clone(), names(may).into_iter().collect());
            assert!(before.is_none(), "{folder} has two rows");
        }
    }
    assert!(table.len() > 10, "the table was not found: {table:?}");
    table
}

#[test]
fn every_import_is_in_the_table_of_the_architecture() {
    let (table, tree) = (table(), library());
    let mut offences = vec![];
    for (file, imports) in tree.imports() {
        let from = folder_of(file);
        if file == "src/lib.rs" {
            continue;
        }
        let Some(may) = table.get(&from) else {
            offences.push(format!("{file}: the table has no row for {from}"));
            continue;
        };
        for (to, line) in imports {
            let folder = folder_of(to);
            let parts =
                |file: &str| file.split('/').nth(2).unwrap_or_default().trim_end_matches(".rs").to_owned();
            let are_separate = from == folder
                && SEPARATE.contains(&&*from)
                && parts(file) != parts(to)
                && !file.ends_with("/mod.rs")
                && parts(to) != "mod";
            if from != folder && !may.contains(&folder) {
                offences.push(format!("{file}:{line}: {from} may not import {folder} ({to})"));
            } else if are_separate {
                offences.push(format!("{file}:{line}: parts of {from} may not import each other ({to})"));
            }
        }
    }
    no_offence("imports that the table of docs/ARCHITECTURE.md does not have", &offences);
}

#[test]
fn the_table_has_no_row_too_many_and_only_points_down() {
    let table = table();
    let folders: BTreeSet<String> = library().files.values().map(|file| folder_of(file)).collect();
    for folder in table.keys().filter(|folder| *folder != "bin") {
        assert!(folders.contains(folder), "the table has a row for {folder}, which does not exist");
    }
    for (folder, may) in &table {
        for other in may {
            let back =
                table.get(other).unwrap_or_else(|| panic!("{folder} may import {other}, which has no row"));
            assert!(!back.contains(folder), "{folder} and {other} may import each other");
        }
    }
    let entries = root().join("src").read_dir().expect("src can be listed").count();
    assert!(entries <= 20, "src has {entries} entries; 20 are the most that a reader can overlook");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut circles = vec![];
    let bins = ["lbd", "loadgen"].map(|bin| format!("src/bin/{bin}"));
    let roots = bins.iter().map(|folder| (folder.clone(), format!("{folder}/main.rs")));
    for (folder, root_file) in std::iter::once(("src".to_owned(), "src/lib.rs".to_owned())).chain(roots) {
        let tree = Tree::new(&folder, &root_file);
        let imports = tree.imports();
        // A `mod.rs` may name what is in its own folder.
        let is_own = |from: &str, to: &str| {
            let folder = from.strip_suffix("/mod.rs").or(from.strip_suffix(".rs")).unwrap_or(from);
            from == root_file || to.starts_with(&format!("{folder}/"))
        };
        let next: BTreeMap<&String, Vec<&String>> = imports
            .iter()
            .map(|(from, to)| (*from, to.keys().copied().filter(|to| !is_own(from, to)).collect()))
            .collect();
        circles.extend(circles_of(&next).into_iter().map(|circle| {
            let mut text = String::new();
            for (index, file) in circle.iter().enumerate() {
                let to = circle[(index + 1) % circle.len()];
                let line = imports[file].get(to).expect("it is an import");
                let _ = write!(text, "{file}:{line} -> ");
            }
            text + circle[0]
        }));
    }
    no_offence("circles of imports between files", &circles);
}

/// One circle for each group of files that all reach each other.
fn circles_of<'a>(next: &BTreeMap<&'a String, Vec<&'a String>>) -> Vec<Vec<&'a String>> {
    let reach = |start: &'a String| {
        // The shortest way back to the start, if there is one.
        let mut came_from: BTreeMap<&String, &String> = BTreeMap::new();
        let mut open = std::collections::VecDeque::from([start]);
        while let Some(at) = open.pop_front() {
            for &to in next.get(at).into_iter().flatten() {
                if to == start {
                    let mut way = vec![at];
                    while let Some(&before) = came_from.get(way.last().expect("it is not empty")) {
                        way.push(before);
                    }
                    way.reverse();
                    return Some(way);
                }
                if to != start && !came_from.contains_key(to) {
                    came_from.insert(to, at);
                    open.push_back(to);
                }
            }
        }
        None
    };
    let mut seen = BTreeSet::new();
    let mut circles = vec![];
    for &file in next.keys() {
        if !seen.contains(file)
            && let Some(circle) = reach(file)
        {
            seen.extend(circle.iter().copied());
            circles.push(circle);
        }
    }
    circles
}

#[test]
fn the_search_for_circles_finds_one() {
    let names = ["a", "b", "c", "d"].map(str::to_owned);
    let [a, b, c, d] = &names;
    let with = |last: Vec<_>| BTreeMap::from([(a, vec![b]), (b, vec![c, d]), (c, last), (d, vec![])]);
    assert_eq!(circles_of(&with(vec![d])), Vec::<Vec<&String>>::new());
    assert_eq!(circles_of(&with(vec![a])), [[a, b, c]]);
}

fn sources() -> Vec<String> {
    files("src", &[".rs"]).into_iter().filter(|file| !is_test(file)).collect()
}

#[test]
fn unsafe_code_is_in_the_files_of_the_system_calls_only() {
    let mut offences = vec![];
    for file in sources() {
        let (source, is_named) = (Source::of(&file), UNSAFE.contains(&&*file));
        if source.has_allow_unsafe != is_named {
            let what = if is_named { "is named and has no" } else { "has an" };
            offences.push(format!("{file}: {what} allow(unsafe_code)"));
        }
        if !is_named {
            offences.extend(source.unsafe_lines.iter().map(|line| format!("{file}:{line}: unsafe")));
        }
    }
    let lints = read("Cargo.toml");
    assert!(lints.contains("\nunsafe_code = \"deny\"\n"), "Cargo.toml denies unsafe_code");
    no_offence("unsafe outside of src/io's files of system calls", &offences);
}

#[test]
fn time_enters_in_named_files_only() {
    let (mut offences, mut unused) = (vec![], BTreeSet::from(TIME_ENTERS));
    for file in sources() {
        let lines = Source::of(&file).clock_lines;
        if !lines.is_empty() && !unused.remove(&*file) {
            offences.extend(
                lines
                    .iter()
                    .map(|line| format!("{file}:{line}: reads the clock; take a time as an argument")),
            );
        }
    }
    no_offence("the operating system's clock", &offences);
    assert!(unused.is_empty(), "no clock is read in {unused:?}: take it off the list");
}

#[test]
fn names_are_imported_one_by_one() {
    let mut offences = vec![];
    for file in sources() {
        let lines = Source::of(&file).glob_lines;
        offences.extend(lines.iter().map(|line| format!("{file}:{line}: use super::*")));
    }
    no_offence("use super::* outside of tests", &offences);
}

#[test]
fn no_line_is_longer_than_the_formatter_allows() {
    let rules = read("rustfmt.toml");
    let width: usize = rules
        .lines()
        .find_map(|line| line.strip_prefix("max_width = ")?.parse().ok())
        .expect("rustfmt.toml has a max_width");
    let mut offences = vec![];
    for folder in ["src", "tests", "benches", "examples", "tools", "fuzz/src", "fuzz/targets"] {
        for file in files(folder, &[".rs"]) {
            for (index, line) in read(&file).lines().enumerate() {
                let len = line.chars().count();
                if len > width {
                    offences.push(format!("{file}:{}: {len} characters", index + 1));
                }
            }
        }
    }
    no_offence(&format!("lines of more than {width} characters"), &offences);
}

/// A document of the project: a Markdown file that a person is meant to read.
fn documents() -> Vec<String> {
    let mut all = files("docs", &[".md"]);
    all.extend(files("tools", &[".md"]));
    let top = root().read_dir().expect("the project can be listed");
    all.extend(top.filter_map(|entry| {
        let name = entry.expect("it can be listed").file_name().into_string().ok()?;
        name.ends_with(".md").then_some(name)
    }));
    all
}

#[test]
fn every_document_is_linked() {
    let indexes: Vec<_> = ["README.md", "docs/README.md"]
        .into_iter()
        .filter(|index| root().join(index).exists())
        .map(|index| (PathBuf::from(index).parent().expect("a file has a folder").to_owned(), read(index)))
        .collect();
    let mut linked = BTreeSet::new();
    for (folder, text) in &indexes {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            linked.insert(normal(&folder.join(target)));
        }
    }
    let is_index = |file: &str| matches!(file, "README.md" | "docs/README.md");
    let missing: Vec<_> = documents()
        .into_iter()
        .filter(|file| !is_index(file) && !linked.contains(Path::new(file)))
        .map(|file| format!("{file}: neither README.md nor docs/README.md links to it"))
        .collect();
    no_offence("documents that no reader finds", &missing);
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = out.pop(),
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// Words that a reader stumbles over: not in src, docs and README. CONTRIBUTING.md says what to write
/// instead.
const WORDS: [&str; 22] = [
    "shall",
    "anew",
    "whoever",
    "nobody",
    "somebody",
    "so many",
    "see the module's text",
    "is told",
    "under way",
    "goes on",
    "once more",
    "but for",
    "lately",
    "in vain",
    "for good",
    "for ever",
    "comes back",
    "be it",
    "who waits",
    "by way of",
    "by chance",
    "no news is good news",
];

#[test]
fn words_that_readers_stumble_over_do_not_come_back() {
    let mut texts: Vec<_> = files("src", &[".rs", ".html"]);
    texts.extend(files("docs", &[".md"]));
    texts.push("README.md".to_owned());
    let texts: Vec<_> = texts.into_iter().map(|file| (read(&file).to_lowercase(), file)).collect();
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut offences = vec![];
    for word in WORDS {
        let mut found = vec![];
        for (text, file) in &texts {
            for (at, _) in text.match_indices(word) {
                let is_whole = !is_letter(text[..at].chars().next_back())
                    && !is_letter(text[at + word.len()..].chars().next());
                if is_whole {
                    found.push(format!("  {file}:{}", 1 + text[..at].matches('\n').count()));
                }
            }
        }
        if !found.is_empty() {
            offences.push(format!("\"{word}\"\n{}", found.join("\n")));
        }
    }
    no_offence("words to avoid", &offences);
}
