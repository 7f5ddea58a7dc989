//! ftvm's virtual machine monitor.
