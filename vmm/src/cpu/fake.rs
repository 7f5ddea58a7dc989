//! A scripted processor, for tests of the engine without a hypervisor.
