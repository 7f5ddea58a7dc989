//! Scenarios on the testbed, one a file.
//!
//! They need root, and what `cargo xtask setup` makes. Each boots its own
//! hosts on its own networks; the logs of a run stay when it fails.

mod backup_lost;
mod busy_failover;
mod clock;
mod cold;
mod commands;
mod counter;
mod database;
mod debian;
mod debian_13;
mod disk;
mod disk_server;
mod divergence;
mod failover;
mod faults;
mod fleet;
mod frozen_host;
mod guest_images;
mod hand_over;
mod hosts;
mod joining;
mod leftovers;
mod links;
mod load;
mod loss_of_a_host;
mod micro_guests;
mod namespaces;
mod nbd_client;
mod nested_paging;
mod orderly_end;
mod orders;
mod output_rule;
mod page_reclaim;
mod paging;
mod partition;
mod pinned_memory;
mod processors;
mod quick_start;
mod record_replay;
mod recording;
mod refusals;
mod replay_tool;
mod rounds;
mod selftest;
mod shadow_pages;
mod states;
mod stressors;
mod table;
mod upgrade;
mod views;
