//! The structure of the crates: their files import each other in no circle, and the modules of
//! `vmm` import only from those below them in the table of `docs/architecture.md`.
//!
//! An import is a `use` declaration, or a path that begins with `crate`, `super`, `self` or a
//! child's name, outside of `#[cfg(test)]`. One through a re-export is an import from the file that
//! has the item; the re-export of a descendant by its parent is none, unless the parent has a use for
//! the item itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemFn, ItemMod, ItemUse, UseTree, Visibility};

/// Segments of the path of a module or an item, from the crate's root.
type ModulePath = Vec<String>;

/// What a file of a crate says of others.
#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    /// What names from `use` declarations stand for.
    names: BTreeMap<String, ModulePath>,
    imports: Vec<ModulePath>,
    /// What its paths begin with.
    mentioned: BTreeSet<String>,
}

/// The files of a crate, by the modules that they are.
struct Crate(BTreeMap<ModulePath, Module>);

impl Crate {
    fn read(folder: &str) -> Self {
        let sources = workspace().join(folder).join("src");
        let root = ["lib.rs", "main.rs"].map(|name| sources.join(name));
        let root = root.iter().find(|file| file.exists());
        let mut modules = BTreeMap::new();
        read_module(root.expect("a crate"), &sources, Vec::new(), &mut modules);
        Self(modules)
    }

    /// The module that has an item or is named itself.
    fn module_of(&self, path: &[String]) -> ModulePath {
        let mut path = path.to_vec();
        // A re-export that leads to itself would be an error of the compiler's.
        'renamed: loop {
            let mut module = ModulePath::new();
            for (n, segment) in path.iter().enumerate() {
                let child = [&module[..], std::slice::from_ref(segment)].concat();
                if self.0.contains_key(&child) {
                    module = child;
                } else if let Some(target) = self.0[&module].names.get(segment) {
                    path = [&target[..], &path[n + 1..]].concat();
                    continue 'renamed;
                } else {
                    break;
                }
            }
            return module;
        }
    }

    /// The modules that each module imports from.
    fn imports(&self) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
        let modules = self.0.iter().map(|(path, module)| {
            let mentioned = module.mentioned.iter();
            let through_names = mentioned.filter_map(|name| module.names.get(name));
            let imported = module.imports.iter().chain(through_names);
            let imported = imported.map(|import| self.module_of(import));
            let others = imported.filter(|imported| imported != path);
            (path.clone(), others.collect())
        });
        modules.collect()
    }

    /// A circle of files, if there is one.
    fn circle(&self) -> Option<String> {
        let mut imports = self.imports();
        loop {
            let before = imports.len();
            let left: BTreeSet<ModulePath> = imports.keys().cloned().collect();
            imports.retain(|_, from| from.iter().any(|module| left.contains(module)));
            if imports.len() == before {
                break;
            }
        }
        // Each of those left imports from another one of them.
        let mut way = vec![imports.keys().next()?];
        loop {
            let next = imports[way[way.len() - 1]]
                .iter()
                .find(|module| imports.contains_key(*module))?;
            if let Some(start) = way.iter().position(|module| *module == next) {
                way.push(next);
                let names = way[start..].iter().map(|module| name(module));
                return Some(names.collect::<Vec<_>>().join(" imports from "));
            }
            way.push(next);
        }
    }
}

fn name(module: &[String]) -> String {
    if module.is_empty() {
        return "the root".into();
    }
    module.join("::")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads a file and those of its children, which are in `folder`.
fn read_module(
    file: &Path,
    folder: &Path,
    path: ModulePath,
    modules: &mut BTreeMap<ModulePath, Module>,
) {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut reader = Reader {
        path: path.clone(),
        module: Module::default(),
    };
    reader.module.children = children(&syntax.items).collect();
    reader.visit_file(&syntax);
    for child in &reader.module.children {
        let inside = folder.join(child);
        let files = [folder.join(format!("{child}.rs")), inside.join("mod.rs")];
        let file = files.iter().find(|file| file.exists());
        let file = file.unwrap_or_else(|| panic!("no file of {}::{child}", name(&path)));
        let child = [&path[..], std::slice::from_ref(child)].concat();
        read_module(file, &inside, child, modules);
    }
    modules.insert(path, reader.module);
}

/// The modules that have files of their own.
fn children(items: &[Item]) -> impl Iterator<Item = String> {
    items.iter().filter_map(|item| match item {
        Item::Mod(item) if item.content.is_none() && !is_test(&item.attrs) => {
            Some(item.ident.to_string())
        }
        _ => None,
    })
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.meta.require_list();
        attribute.path().is_ident("cfg")
            && condition.is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// Collects what a file imports.
struct Reader {
    /// Of the module that is read, which may be an inline one.
    path: ModulePath,
    module: Module,
}

impl Reader {
    /// The path from the crate's root, if it is one within the crate.
    fn absolute(&self, path: &[String]) -> Option<ModulePath> {
        let first = path.first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.path.clone(),
            child if self.module.children.contains(child) => {
                return Some([&self.path[..], path].concat());
            }
            _ => return None,
        };
        let supers = path.iter().skip_while(|segment| *segment == "self");
        let supers = supers.take_while(|segment| *segment == "super").count();
        base.truncate(base.len().checked_sub(supers)?);
        let rest = path.iter();
        let rest =
            rest.skip_while(|segment| ["crate", "self", "super"].contains(&segment.as_str()));
        base.extend(rest.cloned());
        Some(base)
    }

    fn declare(&mut self, tree: &UseTree, before: &[String], is_public: bool) {
        let with = |name: String| [before, &[name]].concat();
        let (name, path) = match tree {
            UseTree::Path(tree) => {
                return self.declare(&tree.tree, &with(tree.ident.to_string()), is_public);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.declare(tree, before, is_public);
                }
                return;
            }
            UseTree::Glob(_) => (None, before.to_vec()),
            UseTree::Name(tree) if tree.ident == "self" => {
                (before.last().cloned(), before.to_vec())
            }
            UseTree::Name(tree) => (Some(tree.ident.to_string()), with(tree.ident.to_string())),
            UseTree::Rename(tree) => (Some(tree.rename.to_string()), with(tree.ident.to_string())),
        };
        let Some(path) = self.absolute(&path) else {
            return;
        };
        if let Some(name) = name {
            self.module.names.insert(name, path.clone());
        }
        if !(is_public && path.starts_with(&self.path)) {
            self.module.imports.push(path);
        }
    }
}

impl Visit<'_> for Reader {
    fn visit_item_use(&mut self, item: &ItemUse) {
        if !is_test(&item.attrs) {
            let is_public = !matches!(item.vis, Visibility::Inherited);
            self.declare(&item.tree, &[], is_public);
        }
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        if !is_test(&item.attrs) {
            self.path.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.path.pop();
        }
    }

    fn visit_item_fn(&mut self, item: &ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let segments = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        let segments: Vec<String> = segments.collect();
        self.module.mentioned.insert(segments[0].clone());
        if segments.len() > 1
            && let Some(path) = self.absolute(&segments)
        {
            self.module.imports.push(path);
        }
        visit::visit_path(self, path);
    }

    /// Has paths, and imports nothing.
    fn visit_visibility(&mut self, _: &Visibility) {}
}

/// The modules in the first column of the table of `vmm`, from above.
fn table() -> Vec<String> {
    let page = workspace().join("docs/architecture.md");
    let page = fs::read_to_string(page).expect("the page");
    let (_, table) = page.split_once("Inside `vmm`").expect("the chapter");
    let rows = table.lines().skip_while(|line| !line.starts_with("| ---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let modules = rows.flat_map(|row| {
        let column = row.split('|').nth(1).expect("a first column");
        column.split('`').skip(1).step_by(2)
    });
    modules.map(str::to_owned).collect()
}

#[test]
fn modules_of_the_vmm_import_from_those_below_them() {
    let vmm = Crate::read("vmm");
    let table = table();
    let rank = |module: &str| table.iter().position(|row| row == module);
    let mut faults = Vec::new();
    let unknown = table
        .iter()
        .filter(|row| !vmm.0.contains_key(&vec![(*row).clone()]));
    faults.extend(unknown.map(|row| format!("the table has {row}, and vmm has not")));
    let modules = vmm.0.keys().filter(|path| path.len() == 1);
    let missing = modules.filter(|path| rank(&path[0]).is_none());
    faults.extend(missing.map(|path| format!("the table lacks {}", path[0])));
    for (path, imported) in vmm.imports() {
        for other in imported {
            let (Some(from), Some(to)) = (path.first(), other.first()) else {
                continue;
            };
            if rank(from) > rank(to) {
                faults.push(format!("{} imports from {}", name(&path), name(&other)));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "not in the order of the table in docs/architecture.md:\n{}",
        faults.join("\n")
    );
}

#[test]
fn files_import_each_other_in_no_circle() {
    for folder in [
        "vmm",
        "logging-channel",
        "disk-server",
        "transport",
        "confinement",
        "guest-images",
        "tests",
        "tests/benchmark",
        "tests/simulation",
        "tests/pictures",
        "xtask",
    ] {
        assert_eq!(Crate::read(folder).circle(), None, "{folder}");
    }
}
