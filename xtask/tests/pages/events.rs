//! `docs/events.md` has each event of `vmm`, with each of its fields, and no others.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Fields, Item, Type};

use crate::none;
use crate::page::{page, spans};
use crate::sources::{kebab, parse, workspace};

/// The fields of each struct, and the variants of each enum with theirs.
struct Declared {
    structs: BTreeMap<String, Fields>,
    events: BTreeMap<String, Fields>,
}

impl Declared {
    fn read() -> Self {
        let file = parse(&workspace().join("vmm/src/events.rs"));
        let mut declared = Self {
            structs: BTreeMap::new(),
            events: BTreeMap::new(),
        };
        for item in file.items {
            match item {
                Item::Struct(item) => {
                    declared.structs.insert(item.ident.to_string(), item.fields);
                }
                Item::Enum(item) if item.ident == "Event" => {
                    let variants = item.variants.into_iter();
                    let variants =
                        variants.map(|variant| (kebab(&variant.ident.to_string()), variant.fields));
                    declared.events.extend(variants);
                }
                _ => {}
            }
        }
        declared
    }

    /// The names of fields, as they are in an object: those of a struct that is put into it too.
    fn names(&self, fields: &Fields) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for field in fields {
            let inner = innermost(&field.ty);
            let is_flat = field.ident.is_none() || has_serde(&field.attrs, "flatten");
            match (self.structs.get(&inner), &field.ident) {
                (Some(fields), _) if is_flat => names.extend(self.names(fields)),
                (_, Some(name)) => {
                    names.insert(name.to_string());
                }
                _ => {}
            }
        }
        names
    }
}

fn has_serde(attributes: &[syn::Attribute], word: &str) -> bool {
    attributes.iter().any(|attribute| {
        let mut found = false;
        if attribute.path().is_ident("serde") {
            // What does not parse to its end is of no interest here.
            let _ = attribute.parse_nested_meta(|meta| {
                found |= meta.path.is_ident(word);
                Ok(())
            });
        }
        found
    })
}

/// `Stats` of `Option<Box<Stats>>`.
fn innermost(of: &Type) -> String {
    let Type::Path(path) = of else {
        return String::new();
    };
    let last = path.path.segments.last().expect("a type has a name");
    if let syn::PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(syn::GenericArgument::Type(inner)) = arguments.args.first()
    {
        return innermost(inner);
    }
    last.ident.to_string()
}

/// The names in a cell; `_p99` after `lag_ms_p50` is `lag_ms_p99`, and what is in parentheses is a value.
fn names(cell: &str) -> BTreeSet<String> {
    let mut plain = String::new();
    let mut depth = 0;
    for letter in cell.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    let mut base = String::new();
    for span in spans(&plain) {
        if span.code.starts_with('_') {
            names.insert(format!("{base}{}", span.code));
        } else {
            base = span.code.trim_end_matches("_p50").to_owned();
            names.insert(span.code.to_owned());
        }
    }
    names
}

fn compare(what: &str, told: &BTreeSet<String>, declared: &BTreeSet<String>) -> Vec<String> {
    let missing = declared
        .difference(told)
        .map(|name| format!("{what}: `{name}` is missing"));
    let unknown = told
        .difference(declared)
        .map(|name| format!("{what}: there is no `{name}`"));
    missing.chain(unknown).collect()
}

#[test]
fn events_and_their_fields_are_told() {
    let declared = Declared::read();
    let page = page("docs/events.md");
    let tables = page.tables();
    let mut faults = Vec::new();

    let events = tables
        .iter()
        .find(|table| table[0][0] == "event")
        .expect("the events");
    let mut told = BTreeSet::new();
    for row in &events[2..] {
        let event = row[0].trim_matches('`');
        told.insert(event.to_owned());
        if let Some(fields) = declared.events.get(event)
            && event != "stats"
        {
            faults.extend(compare(event, &names(row[1]), &declared.names(fields)));
        }
    }
    let known = declared.events.keys().cloned().collect();
    faults.extend(compare("the table of events", &told, &known));

    let figures = tables
        .iter()
        .find(|table| table[0][0] == "field")
        .expect("the figures");
    let told = figures[2..].iter().flat_map(|row| names(row[0])).collect();
    let known = declared.names(&declared.events["stats"]);
    faults.extend(compare("the table of `stats`", &told, &known));
    none(&faults);
}
