//! What requests do, on a real file.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use disk_server::nbd::client;
use disk_server::nbd::protocol::{
    BASE_ALLOCATION, Command, CommandFlags, ErrorCode, ExportRequest, ExtentFlags, Info, InfoType,
    ListedExport, MetaContextRequest, OptionType, ReplyType, TransmissionFlags,
};
use tempfile::TempDir;
use transport::Endpoint;

use crate::client::{Client, Negotiation};
use crate::disks::{FAST, Gated, Local};
use crate::support::{Process, command};

const SIZE: u64 = 8 << 20;
const NONE: CommandFlags = CommandFlags::empty();

struct Fixture {
    server: Process,
    image: PathBuf,
    _directory: TempDir,
}

impl Fixture {
    /// Exports an image of `size` bytes twice: as `disk`, and another one read-only as `ro`.
    fn new(size: u64) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let other = directory.path().join("ro.img");
        for path in [&image, &other] {
            File::create(path).unwrap().set_len(size).unwrap();
        }
        let server = Process::start_with(
            command("127.0.0.1:0", &directory.path().join("state"))
                .args(["--nbd-listen", "127.0.0.1:0"])
                .args(["--export", &format!("disk={}", image.display())])
                .args(["--export", &format!("ro={},read-only", other.display())]),
        );
        Fixture {
            server,
            image,
            _directory: directory,
        }
    }

    fn open(&self) -> Client {
        Client::open(self.server.nbd.unwrap(), "disk")
    }

    fn allocated(&self) -> u64 {
        self.image.metadata().unwrap().blocks() * 512
    }
}

#[test]
fn data_comes_back_and_holes_stay_holes() {
    let fixture = Fixture::new(SIZE);
    let mut client = fixture.open();
    assert_eq!(client.info.size, SIZE);
    client.write(1 << 20, &vec![7; 1 << 20]).unwrap();
    let read = client.plain(Command::Read, 0, 4 << 20).unwrap();
    let mut expected = vec![0; 4 << 20];
    expected[1 << 20..2 << 20].fill(7);
    assert!(read.bytes == expected);
    assert_eq!(read.holes, 3 << 20, "holes travel as holes");
    let whole = client
        .call((Command::Read, CommandFlags::DF), 0, 4 << 20, &[])
        .unwrap()
        .unwrap();
    assert!(
        whole.bytes == expected && whole.holes == 0,
        "not fragmented"
    );
    assert_eq!(fixture.allocated(), 1 << 20);

    let status = |client: &mut Client, flags| {
        let request = (Command::BlockStatus, flags);
        let data = client.call(request, 0, SIZE as u32, &[]).unwrap().unwrap();
        data.extents
            .iter()
            .map(|extent| (extent.length, extent.flags.contains(ExtentFlags::HOLE)))
            .collect::<Vec<_>>()
    };
    let all = [(1 << 20, true), (1 << 20, false), (6 << 20, true)];
    assert_eq!(status(&mut client, NONE), all);
    assert_eq!(status(&mut client, CommandFlags::REQ_ONE), all[..1]);

    client.plain(Command::Trim, 1 << 20, 512 << 10).unwrap();
    assert_eq!(fixture.allocated(), 512 << 10);
    client
        .plain(Command::WriteZeroes, 1536 << 10, 512 << 10)
        .unwrap();
    assert_eq!(fixture.allocated(), 0, "zeroes are a hole");
    assert_eq!(client.read(0, 4 << 20).unwrap(), vec![0; 4 << 20]);
    let keep = (Command::WriteZeroes, CommandFlags::NO_HOLE);
    client.call(keep, 0, 1 << 20, &[]).unwrap().unwrap();
    assert!(fixture.allocated() >= 1 << 20, "NO_HOLE allocates");
    assert_eq!(fixture.image.metadata().unwrap().len(), SIZE);
}

#[test]
fn nobody_looks_for_holes_in_the_reads_of_a_guest() {
    let disk = Gated::new(2 << 20);
    let server = Local::start(disk.clone(), false);
    let (address, patience) = (server.nbd.into(), Duration::from_secs(60));
    let mut guest = client::connect(&address, "disk", &Endpoint::plain(), patience).unwrap();
    for (cookie, length) in [(1, 64 << 10), (2, 1 << 20), (3, 2 << 20)] {
        guest.requests.read(cookie, 0, length).unwrap();
        guest.requests.flush_buffer().unwrap();
        let reply = guest.replies.next_reply().unwrap();
        assert_eq!(reply.result, Ok(vec![0; length as usize]));
    }
    assert_eq!(disk.looks(), 0);
    Client::open(server.nbd, "disk").read(0, 64 << 10).unwrap();
    assert_eq!(disk.looks(), 1);
}

#[test]
fn without_structured_replies_reads_are_simple() {
    let fixture = Fixture::new(SIZE);
    fixture.open().write(0, &[5; 4096]).unwrap();
    let negotiation = Negotiation::start(fixture.server.nbd.unwrap()).unwrap();
    let mut client = negotiation.go("disk").unwrap().unwrap();
    assert!(!client.info.flags.contains(TransmissionFlags::SEND_DF));
    assert_eq!(client.read(0, 4096).unwrap(), [5; 4096]);
    let status = client.plain(Command::BlockStatus, 0, 4096);
    assert_eq!(status.unwrap_err(), ErrorCode::Invalid);
    assert_eq!(client.read(SIZE, 1), Err(ErrorCode::Invalid));
    assert_eq!(client.read(0, 4096).unwrap(), [5; 4096]);
}

#[test]
fn requests_that_make_no_sense_get_their_error_and_the_connection_goes_on() {
    use Command as C;
    use ErrorCode as E;
    let fixture = Fixture::new(SIZE);
    let mut client = fixture.open();
    let mut ask = |command, flags, offset, length: u32, sends: usize| {
        let data = vec![1; sends];
        let result = client.call((command, flags), offset, length, &data);
        let error = result.unwrap().err();
        // In step all the same.
        assert_eq!(client.read(0, 512).unwrap(), [0; 512]);
        error
    };
    let bad = CommandFlags::from_bits_retain(1 << 9);
    assert_eq!(ask(C::Read, NONE, SIZE - 1, 2, 0), Some(E::Invalid));
    assert_eq!(ask(C::Read, NONE, u64::MAX, 2, 0), Some(E::Invalid));
    assert_eq!(ask(C::Read, NONE, 0, 33 << 20, 0), Some(E::Overflow));
    assert_eq!(ask(C::Read, NONE, 0, u32::MAX, 0), Some(E::Overflow));
    assert_eq!(ask(C::Read, bad, 0, 512, 0), Some(E::Invalid));
    assert_eq!(
        ask(C::Read, CommandFlags::NO_HOLE, 0, 1, 0),
        Some(E::Invalid)
    );
    assert_eq!(ask(C::Write, NONE, SIZE - 1, 2, 2), Some(E::NoSpace));
    assert_eq!(ask(C::Write, NONE, u64::MAX, 2, 2), Some(E::NoSpace));
    assert_eq!(ask(C::Write, bad, 0, 512, 512), Some(E::Invalid));
    assert_eq!(ask(C::Write, NONE, 0, 33 << 20, 33 << 20), Some(E::Invalid));
    assert_eq!(ask(C::WriteZeroes, NONE, SIZE, 1, 0), Some(E::NoSpace));
    assert_eq!(ask(C::Trim, NONE, SIZE, 1, 0), Some(E::Invalid));
    assert_eq!(ask(C::Cache, NONE, SIZE, 1, 0), Some(E::Invalid));
    assert_eq!(ask(C::BlockStatus, NONE, SIZE, 1, 0), Some(E::Invalid));
    assert_eq!(ask(C::BlockStatus, NONE, 0, 0, 0), Some(E::Invalid));
    assert_eq!(ask(C::Other(99), NONE, 0, 0, 0), Some(E::Invalid));
    // Nothing at all is no error, and FUA is valid everywhere.
    for command in [
        C::Read,
        C::Write,
        C::Trim,
        C::WriteZeroes,
        C::Cache,
        C::Flush,
    ] {
        assert_eq!(
            ask(command, CommandFlags::FUA, 0, 0, 0),
            None,
            "{command:?}"
        );
    }
    assert_eq!(ask(C::Cache, NONE, 0, 1 << 20, 0), None);
    assert_eq!(ask(C::Trim, NONE, 0, SIZE as u32, 0), None);
}

#[test]
fn a_read_only_export_is_not_written() {
    let fixture = Fixture::new(SIZE);
    let mut client = Client::open(fixture.server.nbd.unwrap(), "ro");
    assert!(client.info.flags.contains(TransmissionFlags::READ_ONLY));
    assert_eq!(client.write(0, &[1; 512]), Err(ErrorCode::NotPermitted));
    for command in [Command::Trim, Command::WriteZeroes] {
        let error = client.plain(command, 0, 512).unwrap_err();
        assert_eq!(error, ErrorCode::NotPermitted);
    }
    assert_eq!(client.read(0, 512).unwrap(), [0; 512]);
}

#[test]
fn options_are_answered_one_by_one() {
    let fixture = Fixture::new(SIZE);
    let address = fixture.server.nbd.unwrap();
    let mut client = Negotiation::start(address).unwrap();
    let list = client.option(OptionType::List, &[]).unwrap().unwrap();
    let names: Vec<_> = list
        .iter()
        .map(|(_, data)| ListedExport::decode(data).unwrap().name)
        .collect();
    assert_eq!(names, ["disk", "ro"]);
    let mut refused = |option, data: &[u8]| {
        let Err(refused) = client.option(option, data).unwrap() else {
            panic!("{option:?} was accepted");
        };
        refused.reply
    };
    let contexts = |queries: &[&str]| {
        let queries = queries.iter().map(|q| (*q).to_owned()).collect();
        let export = "disk".to_owned();
        MetaContextRequest { export, queries }.encode()
    };
    assert_eq!(refused(OptionType::List, b"x"), ReplyType::ErrInvalid);
    assert_eq!(
        refused(OptionType::StartTls, &[]),
        ReplyType::ErrUnsupported
    );
    let unknown = OptionType::Other(77);
    assert_eq!(refused(unknown, &[1; 1000]), ReplyType::ErrUnsupported);
    assert_eq!(refused(unknown, &[1; 100_000]), ReplyType::ErrTooBig);
    assert_eq!(refused(OptionType::Go, &[]), ReplyType::ErrInvalid);
    assert_eq!(refused(OptionType::Go, &[0xff; 6]), ReplyType::ErrInvalid);
    let nobody = [0, 0, 0, 1, b'x', 0, 0];
    assert_eq!(refused(OptionType::Go, &nobody), ReplyType::ErrUnknown);
    let nameless = [0; 6];
    assert_eq!(refused(OptionType::Info, &nameless), ReplyType::ErrUnknown);
    let set = OptionType::SetMetaContext;
    let early = contexts(&[BASE_ALLOCATION]);
    assert_eq!(refused(set, &early), ReplyType::ErrInvalid);
    assert_eq!(
        refused(OptionType::StructuredReply, b"x"),
        ReplyType::ErrInvalid
    );

    let mut count = |option, data: &[u8]| client.option(option, data).unwrap().unwrap().len();
    assert_eq!(count(OptionType::StructuredReply, &[]), 0);
    let list = OptionType::ListMetaContext;
    assert_eq!(count(list, &contexts(&[])), 1);
    assert_eq!(count(list, &contexts(&["base:"])), 1);
    assert_eq!(count(list, &contexts(&["qemu:", "base:x"])), 0);
    assert_eq!(count(set, &contexts(&["base:"])), 0);
    assert_eq!(count(set, &contexts(&["x-y:z", BASE_ALLOCATION])), 1);
    // The last word counts: no context.
    assert_eq!(count(set, &contexts(&[])), 0);
    let mut client = client.go("disk").unwrap().unwrap();
    let status = client.plain(Command::BlockStatus, 0, 4096);
    assert_eq!(status.unwrap_err(), ErrorCode::Invalid);
}

#[test]
fn an_export_is_described_and_the_only_one_needs_no_name() {
    let described = |address, name: &str| {
        let mut client = Negotiation::start(address).unwrap();
        let request = ExportRequest {
            name: name.to_owned(),
            infos: vec![InfoType::Name, InfoType::Description],
        };
        let infos = client.option(OptionType::Info, &request.encode()).unwrap();
        infos.map(|infos| {
            let info = |(_, data): &(_, Vec<u8>)| Info::decode(data).unwrap();
            infos.iter().map(info).collect::<Vec<_>>()
        })
    };
    let fixture = Fixture::new(SIZE);
    let address = fixture.server.nbd.unwrap();
    let infos = described(address, "ro").unwrap();
    assert!(infos.contains(&Info::Name("ro".to_owned())), "{infos:?}");
    let description = Info::Description("read-only".to_owned());
    assert!(infos.contains(&description), "{infos:?}");
    let refused = described(address, "").unwrap_err();
    assert_eq!(refused.reply, ReplyType::ErrUnknown);
    assert!(refused.message.contains("list"), "{}", refused.message);

    let server = Local::start(Gated::new(1 << 20), false);
    let infos = described(server.nbd, "").unwrap();
    assert!(infos.contains(&Info::Name("disk".to_owned())), "{infos:?}");
    let mut client = Client::open(server.nbd, "");
    client.write(0, &[1; 512]).unwrap();
    let status = client.plain(Command::BlockStatus, 0, 512).unwrap();
    assert_eq!(status.extents.len(), 1);
}

#[test]
fn zeroes_that_cannot_be_fast_change_nothing() {
    let length = FAST + 4096;
    let server = Local::start(Gated::new(length as usize), false);
    let mut client = Client::open(server.nbd, "disk");
    client.write(0, &[7; 4096]).unwrap();
    let fast = (Command::WriteZeroes, CommandFlags::FAST_ZERO);
    let slow = client.call(fast, 0, length as u32, &[]).unwrap();
    assert_eq!(slow.unwrap_err(), ErrorCode::NotSupported);
    assert_eq!(client.read(0, 4096).unwrap(), [7; 4096]);
    client.call(fast, 0, FAST as u32, &[]).unwrap().unwrap();
    assert_eq!(client.read(0, 4096).unwrap(), [0; 4096]);
}

#[test]
fn an_image_of_odd_size_is_served_to_its_last_byte() {
    let fixture = Fixture::new(1_000_003);
    let mut client = fixture.open();
    assert_eq!(client.info.size, 1_000_003);
    client.write(1_000_000, b"abc").unwrap();
    assert_eq!(client.read(999_999, 4).unwrap(), b"\0abc");
    assert_eq!(client.write(1_000_000, b"abcd"), Err(ErrorCode::NoSpace));
}
