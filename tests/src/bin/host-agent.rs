//! The agent that runs in every host of the testbed; see `testbed::agent`.

fn main() -> std::io::Result<()> {
    testbed::agent::serve()
}
