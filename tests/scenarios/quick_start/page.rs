//! What a page has for somebody to type in.

use testbed::Layout;

/// A fenced block that is to be typed in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The machines.
    pub(super) places: Vec<String>,
    pub(super) commands: String,
}

/// A page of the documentation.
pub(super) fn read(name: &str) -> String {
    let path = Layout::find().root().join("docs").join(name);
    std::fs::read_to_string(path).expect("the page")
}

/// The blocks of a page, in its order.
pub(super) fn blocks(page: &str) -> Vec<Block> {
    let mut lines = page.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let places = language.strip_prefix("sh ");
        let places = places.unwrap_or_else(|| panic!("{line}: a block says where it is typed in"));
        let commands = lines.by_ref().take_while(|line| *line != "```");
        blocks.push(Block {
            places: places.split(' ').map(str::to_owned).collect(),
            commands: commands.map(|line| format!("{line}\n")).collect(),
        });
    }
    blocks
}

/// A file that a page shows indented, which begins with these words.
pub(super) fn file(page: &str, begin: &str) -> String {
    const INDENT: &str = "    ";
    let mut lines = page
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{INDENT}{begin}")))
        .map_while(|line| line.strip_prefix(INDENT))
        .map(|line| format!("{line}\n"))
        .peekable();
    assert!(lines.peek().is_some(), "no page shows `{begin}`");
    lines.collect()
}

#[test]
fn blocks_name_their_places() {
    let page = "a\n```sh a b\none\n  two\n```\nand\n```sh c\nthree\n```\n";
    let block = |places: &[&str], commands: &str| Block {
        places: places.iter().map(|place| (*place).to_owned()).collect(),
        commands: commands.to_owned(),
    };
    let expected = [block(&["a", "b"], "one\n  two\n"), block(&["c"], "three\n")];
    assert_eq!(blocks(page), expected);
}

#[test]
fn a_file_of_a_page_ends_where_its_indentation_does() {
    let page = "so:\n\n    auto br0\n    iface br0\n        up\n\nand\n\n    auto br1\n";
    assert_eq!(file(page, "auto br0"), "auto br0\niface br0\n    up\n");
}
