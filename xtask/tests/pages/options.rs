//! The options of the programs, as their sources declare them for clap.

use std::collections::BTreeMap;

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Field, Fields, Item, Lit, Meta, Token};

use crate::sources::{files, kebab, parse, workspace};

/// An option.
#[derive(Clone)]
pub(crate) struct Opt {
    /// With its dashes.
    pub(crate) name: String,
    /// If its declaration has it as a number.
    pub(crate) default: Option<u64>,
    /// Smallest and largest value, likewise.
    pub(crate) range: Option<(u64, u64)>,
    /// What help has for its value, such as `MS`.
    pub(crate) value: String,
}

/// A program, with the options of each of its commands, such as `host list`; without a command it has those
/// of `""`.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) commands: BTreeMap<String, Vec<Opt>>,
}

/// All programs that users and developers start.
pub(crate) fn programs() -> Vec<Program> {
    let read = |name, folder: &str| Program {
        name,
        commands: Declared::read(folder).commands(),
    };
    vec![
        read("ftvm", "vmm/src/cli"),
        read("disk-server", "disk-server/src"),
        read("cargo xtask", "xtask/src"),
    ]
}

impl Program {
    /// The options of a name, of all commands.
    pub(crate) fn options(&self, name: &str) -> Vec<&Opt> {
        let all = self.commands.values().flatten();
        all.filter(|option| option.name == name).collect()
    }
}

/// What the sources of a program declare.
struct Declared {
    structs: BTreeMap<String, Fields>,
    /// The variants of each enum.
    enums: BTreeMap<String, Vec<syn::Variant>>,
    constants: BTreeMap<String, Expr>,
}

impl Declared {
    fn read(folder: &str) -> Self {
        let mut declared = Self {
            structs: BTreeMap::new(),
            enums: BTreeMap::new(),
            constants: BTreeMap::new(),
        };
        let sources = files(folder, &["rs"]);
        // Those that options name are elsewhere.
        let others =
            ["vmm/src/config.rs", "vmm/src/disk/serving.rs"].map(|file| workspace().join(file));
        for file in sources.iter().chain(&others) {
            for item in parse(file).items {
                declared.take(item);
            }
        }
        declared
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Struct(item) => {
                self.structs.insert(item.ident.to_string(), item.fields);
            }
            Item::Enum(item) => {
                let variants = item.variants.into_iter().collect();
                self.enums.insert(item.ident.to_string(), variants);
            }
            Item::Const(item) => {
                self.constants.insert(item.ident.to_string(), *item.expr);
            }
            Item::Impl(item) => {
                for inner in item.items {
                    if let syn::ImplItem::Const(inner) = inner {
                        self.constants.insert(inner.ident.to_string(), inner.expr);
                    }
                }
            }
            _ => {}
        }
    }

    fn commands(&self) -> BTreeMap<String, Vec<Opt>> {
        let mut commands = BTreeMap::new();
        let fields = self.structs.get("Cli").expect("a command line");
        self.take_command(String::new(), fields, &mut commands);
        commands
    }

    /// Takes a command, and those below it.
    fn take_command(
        &self,
        name: String,
        fields: &Fields,
        commands: &mut BTreeMap<String, Vec<Opt>>,
    ) {
        let mut options = Vec::new();
        for (field, settings) in self.flat(fields) {
            if settings.contains_key("subcommand") {
                self.take_commands(&name, &last_name(&field.ty), commands);
            } else if let Some(long) = settings.get("long") {
                options.push(self.option(field, long.as_ref(), &settings));
            }
        }
        commands.insert(name, options);
    }

    /// Takes the commands that an enum has.
    fn take_commands(&self, above: &str, of: &str, commands: &mut BTreeMap<String, Vec<Opt>>) {
        for variant in &self.enums[of] {
            let inner = variant
                .fields
                .iter()
                .next()
                .map(|field| last_name(&field.ty));
            if settings(&variant.attrs).contains_key("flatten") {
                self.take_commands(above, &inner.expect("an enum"), commands);
            } else {
                let name = kebab(&variant.ident.to_string());
                let name = format!("{above} {name}").trim().to_owned();
                self.take_command(name, &variant.fields, commands);
            }
        }
    }

    /// The fields, and those of structs among them that are as good as there.
    fn flat<'a>(&'a self, fields: &'a Fields) -> Vec<(&'a Field, Settings)> {
        let mut flat = Vec::new();
        for field in fields {
            let settings = settings(&field.attrs);
            let is_flat = field.ident.is_none() || settings.contains_key("flatten");
            match self.structs.get(&last_name(&field.ty)) {
                Some(fields) if is_flat => flat.extend(self.flat(fields)),
                _ => flat.push((field, settings)),
            }
        }
        flat
    }

    fn option(&self, field: &Field, long: Option<&Expr>, settings: &Settings) -> Opt {
        let text = |key: &str| settings.get(key).and_then(|value| string(value.as_ref()?));
        let name = long.and_then(string);
        let own = field.ident.as_ref().map(ToString::to_string);
        let name = name.unwrap_or_else(|| kebab(&own.expect("an option has a name")));
        let default = settings.get("default_value_t").and_then(Option::as_ref);
        let parser = settings.get("value_parser").and_then(Option::as_ref);
        Opt {
            name: format!("--{name}"),
            default: default.and_then(|default| self.number(default)),
            range: parser.and_then(|parser| self.range(parser)),
            value: text("value_name").unwrap_or_default(),
        }
    }

    /// The number that an expression is, where that is to be seen.
    fn number(&self, expression: &Expr) -> Option<u64> {
        match expression {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse().ok(),
                _ => None,
            },
            Expr::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                self.number(self.constants.get(&name)?)
            }
            // `Duration::from_secs(300)`, and `.as_secs()` of it.
            Expr::Call(call) => self.number(call.args.first()?),
            Expr::MethodCall(call) => self.number(&call.receiver),
            _ => None,
        }
    }

    /// The range in `number(10..=600)`, or in `value_parser!(u64).range(10..=600)`.
    fn range(&self, parser: &Expr) -> Option<(u64, u64)> {
        match parser {
            Expr::Range(range) => {
                let [first, last] =
                    [&range.start, &range.end].map(|end| self.number(end.as_ref()?));
                first.zip(last)
            }
            Expr::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                self.range(self.constants.get(&name)?)
            }
            Expr::Call(call) => self.range(call.args.first()?),
            Expr::MethodCall(call) => self.range(call.args.first()?),
            _ => None,
        }
    }
}

/// What `#[arg(…)]` and `#[command(…)]` have, with their values.
type Settings = BTreeMap<String, Option<Expr>>;

fn settings(attributes: &[Attribute]) -> Settings {
    let mut settings = Settings::new();
    let ours = attributes.iter().filter(|attribute| {
        attribute.path().is_ident("arg") || attribute.path().is_ident("command")
    });
    for attribute in ours {
        let parsed = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        for meta in parsed.expect("settings of clap") {
            let name = meta.path().get_ident().map(ToString::to_string);
            let value = match meta {
                Meta::NameValue(pair) => Some(pair.value),
                _ => None,
            };
            settings.insert(name.unwrap_or_default(), value);
        }
    }
    settings
}

fn string(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// `Serve` of `Option<server::Serve>`.
fn last_name(of: &syn::Type) -> String {
    let syn::Type::Path(path) = of else {
        return String::new();
    };
    let last = path.path.segments.last().expect("a type has a name");
    match &last.arguments {
        syn::PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(syn::GenericArgument::Type(inner)) => last_name(inner),
            _ => String::new(),
        },
        _ => last.ident.to_string(),
    }
}
