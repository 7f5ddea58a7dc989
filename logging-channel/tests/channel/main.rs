//! The log as its users meet it: as bytes, in a file, and between two ends over real sockets.

mod backup;
mod codec;
mod cold;
mod flow;
mod getting_on;
mod handshake;
mod keys;
mod listener;
mod logs;
mod loss;
mod memory;
mod peers;
mod primary;
mod record;
