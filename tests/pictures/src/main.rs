//! Writes the pictures into the documentation: `cargo xtask pictures`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fleet");
    for (name, picture) in pictures::pictures() {
        let path = folder.join(name);
        if let Err(error) = fs::write(&path, picture) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("docs/fleet/{name}");
    }
    ExitCode::SUCCESS
}
