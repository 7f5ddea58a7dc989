//! What the guest does by itself, at the word of a client: computes, compiles, and works on files.

use std::time::Instant;

use serde_json::Value;
use testbed::Result;

use super::agent;
use super::driver::{Driver, Rates, senseless};

/// What fio's random offsets come from.
pub(crate) const FIO_SEED: u32 = 1;

/// Bytes that `openssl speed` hashes at a time.
const BLOCK: u32 = 16384;

/// Programs that a shell starts.
const PROGRAMS: u32 = 300;

/// Functions of the program that is compiled, of eleven lines each.
pub(super) const FUNCTIONS: u32 = 300;

/// Megabytes hashed in a second, as `openssl speed` finds by the guest's own clock.
pub(super) fn compute(driver: &Driver<'_>) -> Result<Rates> {
    let seconds = driver.seconds();
    let command =
        format!("openssl speed -elapsed -mr -seconds {seconds} -bytes {BLOCK} sha256 2> /dev/null");
    let text = agent::run(driver, &command)?;
    let rate = hashed(&text).ok_or_else(|| senseless("openssl speed", &text))?;
    Ok((rate / 1e6, None))
}

/// The line `+F:number:sha256:BYTES-A-SECOND`.
fn hashed(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("+F:"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

/// What compiles the program.
pub(super) const COMPILER: &str = "gcc -O2 -c -o /var/tmp/bench.o /var/tmp/bench.c";

/// Writes the program, of so many functions.
pub(super) fn prepare_compilation(driver: &Driver<'_>, functions: u32) -> Result<u64> {
    let script = "n=0; while [ $n -lt COUNT ]; do \
         printf 'static int f%d(int *a, int n)\\n{\\n    int sum = %d;\\n    \
         for (int i = 0; i < n; i++) {\\n        if (a[i] %% 3)\\n            sum += a[i] * i;\\n        \
         else\\n            sum ^= a[n - i - 1];\\n    }\\n    return sum;\\n}\\n' $n $n; \
         n=$((n + 1)); done > /var/tmp/bench.c; \
         { echo 'int all(int *a, int n) { int s = 0;'; n=0; while [ $n -lt COUNT ]; do \
         echo \"s += f$n(a, n);\"; n=$((n + 1)); done; echo 'return s; }'; } >> /var/tmp/bench.c";
    let script = script.replace("COUNT", &functions.to_string());
    agent::run(driver, &script).map(|_| 0)
}

/// Compilations in a minute: of one.
pub(super) fn compile(driver: &Driver<'_>) -> Result<Rates> {
    let began = Instant::now();
    agent::run(driver, COMPILER)?;
    Ok((60.0 / began.elapsed().as_secs_f64(), None))
}

/// Makes the file, if it is not there.
pub(super) fn prepare_fio(driver: &Driver<'_>) -> Result<u64> {
    let command = "[ -e /var/tmp/fio.scratch ] || \
         dd if=/dev/zero of=/var/tmp/fio.scratch bs=1M count=64 oflag=direct conv=fsync status=none";
    agent::run(driver, command).map(|_| 0)
}

/// Four patterns, past the guest's cache, eight requests at a time: requests in a second for those
/// of 4 KiB, megabytes in a second for the others.
pub(super) fn fio(driver: &Driver<'_>, pattern: &str, block: &str) -> Result<Rates> {
    let seconds = driver.seconds();
    let command = format!(
        "fio --name=bench --filename=/var/tmp/fio.scratch --filesize=64M --direct=1 \
         --ioengine=libaio --iodepth=8 --time_based --runtime={seconds} --randseed={FIO_SEED} \
         --output-format=json --rw={pattern} --bs={block}"
    );
    let text = agent::run(driver, &command)?;
    let side = if pattern.ends_with("read") {
        "read"
    } else {
        "write"
    };
    report(&text, side, block).ok_or_else(|| senseless("fio", &text))
}

fn report(text: &str, side: &str, block: &str) -> Option<Rates> {
    // Warnings come before the report.
    let report: Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    let job = &report["jobs"][0][side];
    let rate = match block {
        "4k" => job["iops"].as_f64()?,
        _ => job["bw_bytes"].as_f64()? / 1e6,
    };
    let nanos = &job["clat_ns"]["percentile"];
    let millis = |percentile: &str| Some(nanos[percentile].as_f64()? / 1e6);
    let latency = [millis("50.000000")?, millis("99.000000")?];
    Some((rate, Some(latency)))
}

/// Makes the archive, if it is not there, and says how many files it has.
pub(super) fn prepare_untar(driver: &Driver<'_>) -> Result<u64> {
    let command = "cd /var/tmp && rm -rf untar && mkdir untar && \
         { [ -e bench.tar ] || tar cf bench.tar -C /usr include; } && sync && \
         tar tf bench.tar | wc -l";
    let text = agent::run(driver, command)?;
    text.trim().parse().map_err(|_| senseless("tar", &text))
}

/// Files in a second, until they are on the disk.
pub(super) fn untar(driver: &Driver<'_>, files: u64) -> Result<Rates> {
    let began = Instant::now();
    let command = "tar xf /var/tmp/bench.tar -C /var/tmp/untar && sync";
    agent::run(driver, command)?;
    Ok((files as f64 / began.elapsed().as_secs_f64(), None))
}

/// Programs started in a second, by a shell that forks for each.
pub(super) fn fork(driver: &Driver<'_>) -> Result<Rates> {
    let script = format!("n=0; while [ $n -lt {PROGRAMS} ]; do /bin/true; n=$((n + 1)); done");
    let began = Instant::now();
    agent::run(driver, &script)?;
    Ok((f64::from(PROGRAMS) / began.elapsed().as_secs_f64(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_openssl_says_is_bytes_in_a_second() {
        let text =
            "+DT:sha256:5:16384\n+R:1000:sha256:5.000000\n+H:16384\n+F:0:sha256:3276800.00\n";
        assert_eq!(hashed(text), Some(3_276_800.0));
        assert_eq!(hashed("speed: error\n"), None);
    }

    #[test]
    fn a_report_of_fio_is_read() {
        let text = r#"fio: a warning
            {"jobs": [{"read": {"bw_bytes": 2000000, "iops": 488.25, "clat_ns": {"percentile":
            {"50.000000": 15007744, "99.000000": 26083328, "99.900000": 33816576}}},
            "write": {"bw_bytes": 0, "iops": 0.0, "clat_ns": {}}}]}"#;
        let latency = Some([15.007744, 26.083328]);
        assert_eq!(report(text, "read", "4k"), Some((488.25, latency)));
        assert_eq!(report(text, "read", "1M"), Some((2.0, latency)));
        assert_eq!(report(text, "write", "1M"), None);
    }
}
