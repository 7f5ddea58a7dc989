//! The matrix of cuts and crashes keeps all promises, and is the one in the documentation.

use std::fs;
use std::path::Path;

use simulation::Matrix;

#[test]
fn every_cut_and_crash_keeps_all_promises_and_is_documented() {
    let matrix = Matrix::run();
    assert_eq!(matrix.failures(), Vec::<String>::new());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let read = |name: &str| fs::read_to_string(docs.join(name)).expect("a file of the docs");
    let page = read("matrix.md");
    let made = matrix.fill(&page, &read("matrix/hosts.tsv"));
    let again = "cargo xtask simulate --matrix --write docs";
    assert!(made.as_ref() == Ok(&page), "{again}: {made:?}");
    assert!(matrix.picture() == read("matrix/cuts.svg"), "{again}");
}
