//! `ftvm key`: this machine's or person's key, and what an authority says of others'.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use transport::{KEY_FILE, Key, Peer, Role, sign};

#[derive(Args)]
pub(super) struct CommandArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key, and say its fingerprint.
    ///
    /// The private key stays in the file, for its owner alone. The certificate beside it (.crt) is no secret.
    Generate(FileArgs),
    /// Say a key's fingerprint, for others' trust.toml.
    Show(ShowArgs),
    /// Sign that a key is somebody's, with an authority's key.
    ///
    /// Prints the certificate, which goes beside that key: /etc/ftvm/key.crt. In trust.toml the name is "signed" then.
    Sign(SignArgs),
}

#[derive(Args)]
struct FileArgs {
    /// The key.
    #[arg(value_name = "FILE", default_value = KEY_FILE)]
    key: PathBuf,
}

#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Print its certificate instead, for an authority to sign.
    #[arg(long)]
    certificate: bool,
    /// Print the certificate of the authority that has signed it instead, for other programs' ca-cert.pem.
    #[arg(long, conflicts_with = "certificate")]
    authority: bool,
}

#[derive(Args)]
struct SignArgs {
    /// The authority's key.
    #[arg(long, value_name = "FILE")]
    authority: PathBuf,
    /// To whom the key belongs, as trust.toml has it.
    #[arg(long)]
    name: String,
    /// What that is: host, disk-server, operator or monitor.
    #[arg(long)]
    role: Role,
    /// What `ftvm key show --certificate` says of that key.
    #[arg(value_name = "CERTIFICATE")]
    certificate: PathBuf,
}

/// Runs the command.
pub(super) fn key(args: &CommandArgs) -> anyhow::Result<()> {
    match &args.command {
        KeyCommand::Generate(args) => {
            if let Some(folder) = args.key.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
            }
            println!("{}", Key::create(&args.key)?.fingerprint());
        }
        KeyCommand::Show(args) => {
            let key = Key::read(&args.file.key)?;
            match (args.certificate, args.authority) {
                (true, _) => print!("{}", key.certificates()),
                (_, true) => print!("{}", authority_in(&key.certificates())?),
                _ => println!("{}", key.fingerprint()),
            }
        }
        KeyCommand::Sign(args) => {
            let authority = Key::read(&args.authority)?;
            let path = args.certificate.display();
            let certificate = fs::read_to_string(&args.certificate)
                .with_context(|| format!("cannot read {path}"))?;
            let peer = Peer {
                name: args.name.clone(),
                role: args.role,
            };
            let signed = sign(&authority, &peer, &certificate)
                .with_context(|| format!("cannot sign the key of {path}"))?;
            print!("{signed}");
        }
    }
    Ok(())
}

/// The authority's certificate, which is behind the one that it has signed.
fn authority_in(certificates: &str) -> anyhow::Result<&str> {
    let behind = certificates
        .split_inclusive("-----END CERTIFICATE-----\n")
        .nth(1);
    behind.context("no authority has signed it: see `ftvm key sign`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_of_a_signed_key_can_be_shown() {
        let [key, authority] = [(); 2].map(|()| Key::generate().expect("a key"));
        let own = key.certificates();
        assert!(authority_in(&own).is_err());
        let peer = Peer {
            name: "disks.example".into(),
            role: Role::DiskServer,
        };
        let signed = sign(&authority, &peer, &own).expect("it is a certificate");
        let shown = authority_in(&signed).expect("it is signed");
        assert!(signed.ends_with(shown) && !signed.starts_with(shown));
    }
}
