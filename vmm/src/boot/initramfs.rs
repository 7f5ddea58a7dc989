//! The kernel modules in an initramfs: their counter reads are rewritten too.
//!
//! An initramfs is a row of archives, each a `newc` cpio archive or a compressed one (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). Modules in plain archives are
//! rewritten in the loaded copy, byte for byte in place ([`rewrite_module`]).
//! What is compressed cannot be: [`Modules::unseen`] says so. A module in there that reads the
//! time stamp counter gets the host's, and a backup would diverge.

//!
//! Names are bytes there, of any kind and number, and Linux goes on behind one that it does not like.
//! So whatever Linux reads is looked at, whatever it is called.

use std::fmt;

use crate::rewrite::rewrite_module;

/// Start of a header that Linux reads, without a checksum and with one.
const PLAIN: &[u8] = b"070701";
const WITH_CHECKSUM: &[u8] = b"070702";
/// A header: its magic number, and thirteen fields of eight hexadecimal digits.
const HEADER_BYTES: usize = 110;
const FIELD_BYTES: usize = 8;
/// Where a header has these fields.
const MODE_OFFSET: usize = 14;
const SIZE_OFFSET: usize = 54;
const NAME_SIZE_OFFSET: usize = 94;
const CHECKSUM_OFFSET: usize = 102;
/// Bits of a mode that say what a file is, and their value for a regular one.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// First bytes of what Linux unpacks (`lib/decompress.c`).
const COMPRESSIONS: &[(&[u8], &str)] = &[
    (&[0x1f, 0x8b], "gzip"),
    (&[0x1f, 0x9e], "gzip"),
    (b"BZh", "bzip2"),
    (&[0x5d, 0x00, 0x00], "lzma"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], "xz"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
];

/// What was done about the modules of an initramfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// How many were looked at.
    pub seen: usize,
    /// Paths of those that were changed, for people, with the number of counter reads rewritten.
    pub rewritten: Vec<(String, usize)>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// A part of an initramfs that was not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// A compressed archive, and all that follows it.
    CompressedArchive {
        /// How it is compressed.
        format: &'static str,
        /// Where it starts in the file.
        offset: usize,
    },
    /// Compressed modules in a plain archive.
    CompressedModules {
        /// How many.
        count: usize,
        /// Path of the first.
        first: String,
    },
    /// A module that is cut or damaged.
    DamagedModule {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What follows is not, or not wholly, an archive.
    Unreadable {
        /// Where it starts in the file.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CompressedArchive { format, offset } => write!(
                f,
                "the initramfs is compressed ({format}) from byte {offset} on, so the kernel \
                 modules in it were not looked at. Unpack it once, and give ftvm the plain cpio \
                 archive"
            ),
            Self::CompressedModules { count, first } => write!(
                f,
                "compressed kernel modules in the initramfs were not looked at: {first}, and {} more. \
                 Put them in as plain .ko files",
                count - 1
            ),
            Self::DamagedModule { path, reason } => write!(
                f,
                "the kernel module {path} in the initramfs is damaged ({reason}) and was not \
                 looked at. Put a whole one in"
            ),
            Self::Unreadable { offset, reason } => write!(
                f,
                "from byte {offset} on the initramfs is not a readable newc cpio archive \
                 ({reason}); what follows was not looked at. Make it anew with `cpio -H newc`"
            ),
        }
    }
}

impl Modules {
    /// Says in the log what was done, and what was not.
    pub(super) fn log(&self) {
        if self.seen > 0 {
            log::info!(
                "{} of {} kernel modules in the initramfs read the time stamp counter or make \
                 hypercalls, and were rewritten",
                self.rewritten.len(),
                self.seen
            );
        }
        for (path, reads) in &self.rewritten {
            log::debug!("{path}: {reads} time stamp counter reads rewritten");
        }
        for unseen in &self.unseen {
            log::warn!(
                "{unseen}. A module among them that reads the time stamp counter or makes a hypercall \
                 would get this host's value, which is not logged: a replay or a backup would diverge \
                 there"
            );
        }
    }
}

/// Rewrites the modules in `initramfs`, in place. What cannot be read is left alone: the kernel
/// has its own say about it.
pub(super) fn rewrite_modules(initramfs: &mut [u8]) -> Modules {
    let mut modules = Modules::default();
    let mut compressed: Option<(usize, String)> = None;
    let mut at = 0;
    while let Some(next) = next_header(initramfs, at) {
        let file = match next {
            Ok(offset) => match File::read(initramfs, offset) {
                Ok(file) => file,
                Err(reason) => {
                    modules.unseen.push(Unseen::Unreadable { offset, reason });
                    break;
                }
            },
            Err(unseen) => {
                modules.unseen.push(unseen);
                break;
            }
        };
        at = file.next;
        if !file.is_regular {
            continue;
        }
        if is_compressed_module(&file.path) {
            compressed.get_or_insert((0, shown(&file.path))).0 += 1;
            continue;
        }
        let content = &mut initramfs[file.start..file.end];
        match rewrite_module(content) {
            Ok(Some(sites)) => {
                modules.seen += 1;
                if !sites.is_empty() {
                    file.correct_checksum(initramfs);
                    modules.rewritten.push((shown(&file.path), sites.tsc.len()));
                }
            }
            Ok(None) if file.path.ends_with(b".ko") && file.start != file.end => {
                modules.unseen.push(Unseen::DamagedModule {
                    path: shown(&file.path),
                    reason: "not an x86-64 kernel module".into(),
                });
            }
            Ok(None) => {}
            Err(error) => modules.unseen.push(Unseen::DamagedModule {
                path: shown(&file.path),
                reason: error.to_string(),
            }),
        }
    }
    if let Some((count, first)) = compressed {
        modules
            .unseen
            .push(Unseen::CompressedModules { count, first });
    }
    modules
}

fn is_compressed_module(path: &[u8]) -> bool {
    [".ko.gz", ".ko.xz", ".ko.zst"]
        .iter()
        .any(|end| path.ends_with(end.as_bytes()))
}

/// A path for people, without what would play tricks with their terminal.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

/// Where the next file's header is, behind the zeros that may stand between archives.
fn next_header(initramfs: &[u8], at: usize) -> Option<Result<usize, Unseen>> {
    let offset = at + initramfs.get(at..)?.iter().position(|byte| *byte != 0)?;
    let rest = &initramfs[offset..];
    if rest.starts_with(PLAIN) || rest.starts_with(WITH_CHECKSUM) {
        return Some(Ok(offset));
    }
    let format = COMPRESSIONS
        .iter()
        .find(|(magic, _)| rest.starts_with(magic));
    Some(Err(match format {
        Some((_, format)) => Unseen::CompressedArchive { format, offset },
        None => Unseen::Unreadable {
            offset,
            reason: format!("it starts with {:02x?}", &rest[..rest.len().min(6)]),
        },
    }))
}

/// A file in an archive.
struct File {
    path: Vec<u8>,
    header: usize,
    start: usize,
    end: usize,
    /// Where the next header is.
    next: usize,
    /// Neither a directory nor a symbolic link, whose content is its target.
    is_regular: bool,
    has_checksum: bool,
}

impl File {
    /// The file whose header is at `header` and has a magic number.
    ///
    /// ```text
    ///   magic  ino  mode  uid  gid  nlink  mtime  size  4 × device  name's size  checksum
    ///   0      6    14    22   30   38     46     54    62          94           102
    ///   name and its NULs | up to a multiple of 4 | content | up to a multiple of 4
    /// ```
    fn read(initramfs: &[u8], header: usize) -> Result<Self, String> {
        let rest = &initramfs[header..];
        let cut = || "it is cut".to_owned();
        let fields = rest.get(..HEADER_BYTES).ok_or_else(cut)?;
        let field = |at| number(&fields[at..at + FIELD_BYTES]);
        let (mode, size) = (field(MODE_OFFSET)?, field(SIZE_OFFSET)? as usize);
        let name_end = HEADER_BYTES + field(NAME_SIZE_OFFSET)? as usize;
        let start = name_end.next_multiple_of(4);
        let end = start + size;
        if end > rest.len() {
            return Err(cut());
        }
        let name = &rest[HEADER_BYTES..name_end];
        let len = name.iter().position(|byte| *byte == 0);
        Ok(Self {
            path: name[..len.unwrap_or(name.len())].to_vec(),
            header,
            start: header + start,
            end: header + end,
            next: header + end.next_multiple_of(4),
            is_regular: mode & TYPE_MASK == REGULAR,
            has_checksum: rest.starts_with(WITH_CHECKSUM),
        })
    }

    /// Linux does not unpack a file whose checksum is wrong.
    fn correct_checksum(&self, initramfs: &mut [u8]) {
        if self.has_checksum {
            let content = &initramfs[self.start..self.end];
            let sum = (content.iter()).fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
            let at = self.header + CHECKSUM_OFFSET;
            initramfs[at..at + 8].copy_from_slice(format!("{sum:08x}").as_bytes());
        }
    }
}

/// A header's field.
fn number(digits: &[u8]) -> Result<u32, String> {
    digits
        .iter()
        .try_fold(0, |number, digit| match char::from(*digit).to_digit(16) {
            Some(digit) => Ok(number << 4 | digit),
            None => Err(format!(
                "\"{}\" is no hexadecimal number",
                digits.escape_ascii()
            )),
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use cpio::{NewcBuilder, NewcReader};

    use super::*;
    use crate::rewrite::tests::{CODE, REWRITTEN, module};

    /// An archive with these files.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, content) in files {
            let builder = NewcBuilder::new(path).mode(REGULAR | 0o644);
            let mut writer = builder.write(&mut out, content.len() as u32);
            writer.write_all(content).expect("a vector takes all");
            writer.finish().expect("a vector takes all");
        }
        cpio::newc::trailer(&mut out).expect("a vector takes all");
        out
    }

    fn count(haystack: &[u8], needle: &[u8]) -> usize {
        memchr::memmem::find_iter(haystack, needle).count()
    }

    #[test]
    fn modules_of_every_plain_archive_are_rewritten_in_place() {
        let module = module();
        let mut two = archive(&[("init", b"#!/bin/sh"), ("lib/one.ko", &module)]);
        two.extend_from_slice(&[0; 512]);
        two.extend(archive(&[("lib/two.ko", &module), ("other", &CODE)]));
        let before = two.clone();

        let modules = rewrite_modules(&mut two);
        assert_eq!(modules.seen, 2);
        assert_eq!(
            modules.rewritten,
            [("lib/one.ko".into(), 1), ("lib/two.ko".into(), 1)]
        );
        assert_eq!(modules.unseen, []);
        assert_eq!(two.len(), before.len());
        assert_eq!(count(&two, &REWRITTEN), 2);
        assert_eq!(count(&before, &CODE), 3);
        assert_eq!(count(&two, &CODE), 1, "what is no module stays");
        let again = rewrite_modules(&mut two);
        assert_eq!((again.seen, again.rewritten.len()), (2, 0), "done once");
    }

    /// Replaces the name `from`, which occurs once, by bytes of the same number.
    fn rename(initramfs: &mut [u8], from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let at = memchr::memmem::find(initramfs, from).expect("the name is there");
        initramfs[at..at + to.len()].copy_from_slice(to);
    }

    #[test]
    fn names_are_bytes_and_none_of_them_hides_what_comes_behind() {
        let module = module();
        let names: [(&[u8], &str); 4] = [
            (b"caf\xe9.ko\0\0\0\0", "caf\u{fffd}.ko"), // Latin-1, and padded
            (b"a\0hidden.ko", "a"),
            (b"\x1b[2J.ko\0\0\0\0", "\\u{1b}[2J.ko"),
            (b"no.NUL.ko!!", "no.NUL.ko!!"),
        ];
        for (name, told) in names {
            let mut initramfs = archive(&[("NAME_OF_ONE", &module), ("two.ko", &module)]);
            // With its NUL the name has one byte more: leave that out where none is wanted.
            rename(&mut initramfs, b"NAME_OF_ONE", name);
            if told.ends_with("!!") {
                initramfs[NAME_SIZE_OFFSET..][..FIELD_BYTES].copy_from_slice(b"0000000b");
            }
            let modules = rewrite_modules(&mut initramfs);
            assert_eq!(
                modules.rewritten,
                [(told.to_owned(), 1), ("two.ko".into(), 1)]
            );
            assert_eq!(modules.unseen, []);
            assert_eq!(count(&initramfs, &REWRITTEN), 2);
        }
    }

    #[test]
    fn a_number_that_is_none_is_told() {
        for (field, told) in [
            (*b"+0000001", "+0000001"),
            (*b" 0000001", " 0000001"),
            (*b"0x000001", "0x000001"),
            (*b"\xff\x00zzzzzz", r"\xff\x00zzzzzz"),
        ] {
            let mut initramfs = archive(&[("a.ko", &module())]);
            initramfs[SIZE_OFFSET..][..FIELD_BYTES].copy_from_slice(&field);
            let unseen = rewrite_modules(&mut initramfs).unseen;
            assert!(unseen[0].to_string().contains(told), "{unseen:?}");
        }
    }

    #[test]
    fn a_header_with_a_checksum_gets_the_new_one() {
        let mut initramfs = archive(&[("a.ko", &module())]);
        initramfs[..6].copy_from_slice(WITH_CHECKSUM);
        rewrite_modules(&mut initramfs);
        let file = File::read(&initramfs, 0).expect("an archive still");
        let sum: u32 = initramfs[file.start..file.end]
            .iter()
            .map(|b| u32::from(*b))
            .sum();
        let reader = NewcReader::new(&initramfs[..]).expect("an archive still");
        assert_eq!(reader.entry().checksum(), Some(sum));
    }

    #[test]
    fn what_is_compressed_is_named() {
        let mut initramfs = archive(&[
            ("a/one.ko.xz", b"1"),
            ("two.ko.zst", b"2"),
            ("three.ko.gz", b"3"),
        ]);
        initramfs.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3]);
        let offset = initramfs.len() - 7;
        let before = initramfs.clone();
        let modules = rewrite_modules(&mut initramfs);
        assert_eq!(initramfs, before);
        assert_eq!(
            modules.unseen,
            [
                Unseen::CompressedArchive {
                    format: "zstd",
                    offset
                },
                Unseen::CompressedModules {
                    count: 3,
                    first: "a/one.ko.xz".into()
                },
            ]
        );
        for (magic, format) in COMPRESSIONS {
            let unseen = rewrite_modules(&mut magic.to_vec()).unseen;
            let offset = 0;
            assert_eq!(unseen, [Unseen::CompressedArchive { format, offset }]);
        }
    }

    #[test]
    fn a_module_that_is_none_is_named() {
        let cut = &module()[..200];
        let mut initramfs = archive(&[("cut.ko", cut), ("empty.ko", b""), ("text.ko", b"text")]);
        let link = NewcBuilder::new("link.ko").mode(0o120_777);
        let mut writer = link.write(&mut initramfs, 6);
        writer.write_all(b"cut.ko").expect("a vector takes all");
        writer.finish().expect("a vector takes all");
        let modules = rewrite_modules(&mut initramfs);
        let named: Vec<String> = modules.unseen.iter().map(ToString::to_string).collect();
        assert_eq!(named.len(), 2, "{named:?}");
        assert!(
            named[0].contains("cut.ko") && named[1].contains("text.ko"),
            "{named:?}"
        );
    }

    #[test]
    fn an_archive_cut_anywhere_is_rewritten_so_far_or_left_alone() {
        let whole = archive(&[("a.ko", &module()), ("b", b"12345")]);
        let first_file_ends = File::read(&whole, 0).expect("an archive").end;
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            let modules = rewrite_modules(&mut cut);
            let rewritten = usize::from(len >= first_file_ends);
            assert_eq!(modules.rewritten.len(), rewritten, "{len} bytes");
            assert_eq!(count(&cut, &REWRITTEN), rewritten, "{len} bytes");
        }
        let unseen = rewrite_modules(&mut whole[..first_file_ends - 1].to_vec()).unseen;
        assert_eq!(
            unseen,
            [Unseen::Unreadable {
                offset: 0,
                reason: "it is cut".into()
            }]
        );
        let text = rewrite_modules(&mut b"no archive".to_vec()).unseen;
        assert!(text[0].to_string().contains("cpio -H newc"), "{text:?}");
    }

    proptest::proptest! {
        #[test]
        fn damage_does_no_harm(at in 0usize..4096, byte: u8) {
            let mut initramfs = archive(&[("a.ko", &module()), ("b", b"12345")]);
            let len = initramfs.len();
            initramfs[at % len] = byte;
            rewrite_modules(&mut initramfs);
            proptest::prop_assert_eq!(initramfs.len(), len);
        }
    }
}
