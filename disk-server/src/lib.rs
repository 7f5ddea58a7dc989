//! disk-server
