//! The pictures in the documentation are what the product draws.

use std::fs;
use std::path::Path;

#[test]
fn the_pictures_in_the_documentation_are_what_the_product_draws() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fleet");
    for (name, picture) in pictures::pictures() {
        let there = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            there == picture,
            "{name} is another one: cargo xtask pictures"
        );
    }
}
