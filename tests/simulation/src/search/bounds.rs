//! Bounds of a search.

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// What they are called.
    pub name: &'static str,
    /// Hosts: so many processes at a time.
    pub hosts: usize,
    /// Requests of the client, each after the reply to the one before.
    pub requests: usize,
    /// How often a backup is started.
    pub backups: u8,
    /// How often a process is killed.
    pub kills: u8,
    /// How often the two hosts of a session stop hearing each other.
    pub cuts: u8,
    /// A thread may let out replies later than it has decided on it.
    pub late_threads: bool,
    /// The disk server's answers are late, and are heard when others were given since.
    pub late_answers: bool,
    /// A backup executes later than it acknowledges.
    pub lag: bool,
    /// How often a backup differs, or cannot use the state that it got.
    pub differences: u8,
    /// Backups are cold, and ask for the state anew so often.
    pub cold: Option<u8>,
    /// How often an operator hands the guest over to its backup.
    pub hand_overs: u8,
    /// The guest may end in order.
    pub ends: bool,
    /// How often a host gives up.
    pub abandons: u8,
    /// Somebody may start the guest with `--force`.
    pub force: bool,
    /// How often the disk server dies, and starts again with what is on its disk.
    pub crashes: u8,
    /// Backups are idle hosts, to which the view service proposes the primary; so often all pings stay
    /// away until their hosts count as dead.
    pub silences: Option<u8>,
    /// How often a backup is sent away for now whose admission takes long. Two of them that were sent away in
    /// turns, each before its answer, would move the view on for ever; one that comes again is in it already.
    pub sent_away: Option<u8>,
    /// How often who runs the guest writes its disk; 0: there is none.
    pub writes: u8,
    /// How often it loses the connection to that.
    pub reconnects: u8,
}

impl Bounds {
    const NONE: Self = Self {
        name: "",
        hosts: 2,
        requests: 1,
        backups: 1,
        kills: 1,
        cuts: 1,
        late_threads: false,
        late_answers: false,
        lag: false,
        differences: 0,
        cold: None,
        hand_overs: 0,
        ends: false,
        abandons: 0,
        force: false,
        crashes: 0,
        silences: None,
        sent_away: None,
        writes: 0,
        reconnects: 0,
    };

    /// A failover, a join and a second failover of two hosts, with a link that fails.
    pub const FAILOVERS: Self = Self {
        name: "failovers",
        requests: 2,
        backups: 2,
        kills: 2,
        late_threads: true,
        crashes: 1,
        ..Self::NONE
    };

    /// Backups that lag and differ.
    pub const DIFFERENCES: Self = Self {
        name: "differences",
        requests: 2,
        lag: true,
        differences: 2,
        ..Self::NONE
    };

    /// Cold backups.
    pub const COLD: Self = Self {
        name: "cold backups",
        requests: 2,
        backups: 2,
        cold: Some(1),
        ..Self::NONE
    };

    /// A guest that is handed over there and back, and hosts that die meanwhile.
    pub const HAND_OVERS: Self = Self {
        name: "hand-overs",
        requests: 2,
        backups: 2,
        hand_overs: 2,
        late_threads: true,
        ..Self::NONE
    };

    /// A guest that ends, hosts that give up, answers that come late.
    pub const ENDS: Self = Self {
        name: "ends",
        late_answers: true,
        ends: true,
        abandons: 1,
        ..Self::NONE
    };

    /// A guest that is started once more by force.
    pub const FORCE: Self = Self {
        name: "force",
        late_answers: true,
        ends: true,
        force: true,
        ..Self::NONE
    };

    /// A guest that writes its disk, and writes that are late.
    pub const DISK: Self = Self {
        name: "disk",
        requests: 0,
        backups: 2,
        kills: 2,
        writes: 2,
        reconnects: 1,
        ..Self::NONE
    };

    /// Idle hosts, and the view service.
    pub const SERVICE: Self = Self {
        name: "view service",
        requests: 0,
        cuts: 0,
        crashes: 1,
        silences: Some(1),
        ..Self::NONE
    };

    /// Two hosts: some hundred thousand states each.
    pub const TWO_HOSTS: [Self; 9] = [
        Self::FAILOVERS,
        Self::DIFFERENCES,
        Self::COLD,
        Self::HAND_OVERS,
        Self::ENDS,
        Self::FORCE,
        Self::SERVICE,
        Self::DISK,
        Self {
            name: "disk, service",
            backups: 1,
            kills: 1,
            reconnects: 0,
            silences: Some(0),
            ..Self::DISK
        },
    ];

    /// Three hosts, two of them backups: some million states.
    pub const THREE_HOSTS: [Self; 4] = [
        Self {
            hosts: 3,
            sent_away: Some(1),
            ..Self::FAILOVERS
        },
        Self {
            hosts: 3,
            backups: 2,
            crashes: 0,
            silences: Some(0),
            sent_away: Some(0),
            ..Self::SERVICE
        },
        Self {
            hosts: 3,
            kills: 1,
            sent_away: Some(0),
            ..Self::DISK
        },
        Self {
            name: "disk, requests",
            hosts: 3,
            requests: 1,
            kills: 1,
            sent_away: Some(0),
            writes: 1,
            reconnects: 0,
            ..Self::DISK
        },
    ];
}
