//! `cargo xtask package`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use testbed::{Layout, file_stamp};

use crate::steps::{Steps, succeed};

/// What makes Debian packages of what Cargo.toml says of them.
const CARGO_DEB: &str = "3.8.0";

/// The packages by their crates, and the programs in them.
const PACKAGES: [(&str, &str); 2] = [("ftvm-vmm", "ftvm"), ("disk-server", "disk-server")];

/// Arguments of `cargo xtask package`.
#[derive(Debug, Args)]
pub(crate) struct Package {
    /// Where the packages go.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

impl Package {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let steps = Steps::new();
        let layout = Layout::find();
        let tools = layout.root().join(".ftvm/tools");
        provide_cargo_deb(&steps, &tools)?;
        let build = Build::of(&layout)?;
        steps.step("programs", || build.programs())?;
        steps.step("manual pages and completions", || build.pages())?;
        let out = std::path::absolute(&self.out)?;
        make_place(&out).with_context(|| format!("cannot make {}", out.display()))?;
        for (krate, _) in PACKAGES {
            steps.step(&format!("package of {krate}"), || {
                build.package(&tools, krate, &out, &[])
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the directory for packages, without those that were made before: `apt install *.deb` takes one of each.
fn make_place(out: &Path) -> std::io::Result<()> {
    fs::create_dir_all(out)?;
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = name.starts_with("ftvm_") || name.starts_with("ftvm-disk-server_");
        if is_ours && name.ends_with(".deb") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Packages of the programs that scenarios run, for hosts that are Debian. They are the programs' and nothing else's:
/// of no commit, and not the same everywhere. Quick when they are there.
pub(super) fn make_for_tests(steps: &Steps, layout: &Layout) -> Result<()> {
    let tools = layout.root().join(".ftvm/tools");
    provide_cargo_deb(steps, &tools)?;
    let out = layout.debs();
    let stamp_path = out.join("stamp");
    let stamp = stamp(layout)?;
    if fs::read(&stamp_path).is_ok_and(|made| made == stamp.as_bytes()) {
        return Ok(());
    }
    steps.step("packages for hosts", || {
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        fs::create_dir_all(&out)?;
        let build = Build::for_tests(layout);
        build.take_programs(layout)?;
        build.pages()?;
        for (krate, _) in PACKAGES {
            build.package(&tools, krate, &out, &["--fast"])?;
        }
        Ok(fs::write(stamp_path, &stamp)?)
    })
}

/// Sizes and times of what goes into the packages.
fn stamp(layout: &Layout) -> Result<String> {
    let mut files = Vec::new();
    for (krate, program) in [("vmm", "ftvm"), ("disk-server", "disk-server")] {
        files.push(layout.program(program)?);
        let krate = layout.root().join(krate);
        files.push(krate.join("Cargo.toml"));
        for entry in fs::read_dir(krate.join("package"))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    files.iter().map(|path| Ok(file_stamp(path)?)).collect()
}

fn provide_cargo_deb(steps: &Steps, tools: &Path) -> Result<()> {
    let told = Command::new(tools.join("bin/cargo-deb"))
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let is_there = told.is_ok_and(|told| String::from_utf8_lossy(&told.stdout).contains(CARGO_DEB));
    if is_there {
        return Ok(());
    }
    steps.step("cargo-deb", || {
        let mut install = Command::new(env!("CARGO"));
        install.args(["install", "--quiet", "--locked", "--force", "cargo-deb"]);
        install.args(["--version", CARGO_DEB, "--root"]).arg(tools);
        // It runs for seconds, and takes minutes to build as it would be by itself.
        for (name, value) in [("OPT_LEVEL", "1"), ("LTO", "off"), ("CODEGEN_UNITS", "16")] {
            install.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
        }
        succeed(&mut install)
    })
}

/// A build of a commit, whose results are the same wherever it is made with the same tools and libraries.
struct Build {
    root: PathBuf,
    target: PathBuf,
    flags: String,
    /// Seconds since 1970 of the last commit: the time of all files.
    epoch: String,
    /// Its time and its name. A later build of a version is a later one to apt, too.
    revision: String,
}

impl Build {
    fn of(layout: &Layout) -> Result<Self> {
        let root = layout.root().to_owned();
        let cargo_home = match std::env::var_os("CARGO_HOME") {
            Some(path) => PathBuf::from(path),
            None => {
                PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo")
            }
        };
        let changed = git(&root, &["status", "--porcelain"])?;
        ensure!(
            changed.is_empty(),
            "a package is of a commit, and these are in none:\n{changed}"
        );
        let date = "--date=format-local:%Y%m%d%H%M%S";
        let committed = git(&root, &["log", "-1", date, "--format=%ct %cd.%h"])?;
        let (epoch, revision) = committed.split_once(' ').context("git tells no commit")?;
        Ok(Self {
            // Separators that no path has.
            flags: format!(
                "--remap-path-prefix={}=/ftvm\x1f--remap-path-prefix={}=/cargo",
                root.display(),
                cargo_home.display()
            ),
            target: root.join("target/package"),
            epoch: epoch.to_owned(),
            revision: revision.to_owned(),
            root,
        })
    }

    /// What is not compiled for the packages.
    fn for_tests(layout: &Layout) -> Self {
        Self {
            root: layout.root().to_owned(),
            target: layout.root().join("target/package"),
            flags: String::new(),
            epoch: "0".to_owned(),
            revision: "tests".to_owned(),
        }
    }

    /// Takes the programs that scenarios run in place of those that were built for packages, without what debuggers
    /// need: it would be most of a package.
    fn take_programs(&self, layout: &Layout) -> Result<()> {
        let release = self.target.join("release");
        fs::create_dir_all(&release)?;
        for (_, program) in PACKAGES {
            let taken = release.join(program);
            // It may have a second name, in cargo's own directory.
            if taken.exists() {
                fs::remove_file(&taken)?;
            }
            let mut strip = Command::new("objcopy");
            strip.arg("--strip-debug").arg(layout.program(program)?);
            succeed(strip.arg(taken))?;
        }
        Ok(())
    }

    fn cargo(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_ENCODED_RUSTFLAGS", &self.flags)
            .env("CARGO_INCREMENTAL", "0")
            // Names stay, for backtraces.
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .env("SOURCE_DATE_EPOCH", &self.epoch);
        command
    }

    fn programs(&self) -> Result<()> {
        let mut build = self.cargo(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--release"]);
        for (krate, program) in PACKAGES {
            build.args(["--package", krate, "--bin", program]);
        }
        succeed(&mut build)
    }

    fn pages(&self) -> Result<()> {
        let program = |name: &str| Command::new(self.target.join("release").join(name));
        for (_, name) in PACKAGES {
            let pages = self.target.join("pages").join(name);
            if pages.exists() {
                fs::remove_dir_all(&pages)?;
            }
            succeed(program(name).arg("man-pages").arg(pages))?;
        }
        let completions = self.target.join("completions");
        fs::create_dir_all(&completions)?;
        for shell in ["bash", "zsh", "fish"] {
            let told = program("ftvm").args(["completions", shell]).output()?;
            ensure!(told.status.success(), "no completions for {shell}");
            fs::write(completions.join(format!("ftvm.{shell}")), told.stdout)?;
        }
        Ok(())
    }

    fn package(&self, tools: &Path, krate: &str, out: &Path, options: &[&str]) -> Result<()> {
        let mut deb = self.cargo(tools.join("bin/cargo-deb"));
        deb.args(["--no-build", "--quiet", "--package", krate])
            .args(["--deb-revision", &self.revision, "--output"])
            .arg(out)
            .args(options);
        succeed(&mut deb)
    }
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let told = Command::new("git")
        .current_dir(root)
        .env("TZ", "UTC")
        .args(arguments)
        .output()
        .context("cannot start git")?;
    ensure!(
        told.status.success(),
        "git says of no commit here: this is no clone"
    );
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}
