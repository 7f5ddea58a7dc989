//! The matrix in the documentation: the parts of a page that are made, between marks.

use super::case::{LINKS, Link};
use super::outcome::{Outcome, seconds};
use super::table::Table;
use super::{Matrix, full, picture};

/// What real hosts did in a case.
struct Measured<'a> {
    silence: &'a str,
    unprotected: &'a str,
    finally: &'a str,
    lost: &'a str,
}

impl Matrix {
    /// A page with its made parts made anew. `hosts` is what real hosts did: a line for each case, with
    /// what happens, the longest time without a reply, the time without protection, where the guest runs in
    /// the end, and what the client lost, separated by tabs.
    ///
    /// # Errors
    /// The page has not all marks, or real hosts did what is no case.
    pub fn fill(&self, page: &str, hosts: &str) -> Result<String, String> {
        let parts = [
            ("summary", format!("{}.\n", self.summary())),
            ("hosts", self.beside(hosts)?.markdown()),
            ("cuts", full("cut", &self.cuts).markdown()),
            ("pairs", grid(self).markdown()),
            ("at once", full("crash", &self.crashes[0]).markdown()),
            ("in turn", full("crash", &self.crashes[1]).markdown()),
        ];
        let mut page = page.to_owned();
        for (name, part) in parts {
            page = put(&page, name, &part)?;
        }
        Ok(page)
    }

    /// The picture of all cuts, as SVG.
    #[must_use]
    pub fn picture(&self) -> String {
        picture::draw(&self.cuts, &self.pairs)
    }

    /// What the simulator and real hosts make of the same.
    fn beside(&self, hosts: &str) -> Result<Table, String> {
        let names: Vec<&str> = self.asked.iter().map(|(name, _)| *name).collect();
        let mut measured = Vec::new();
        for line in hosts.lines() {
            let cells: Vec<&str> = line.split('\t').collect();
            let [name, silence, unprotected, finally, lost] = cells[..] else {
                return Err(format!("not five cells of real hosts: {line}"));
            };
            if !names.contains(&name) {
                return Err(format!(
                    "real hosts did what the simulator does not: {name}"
                ));
            }
            let it = Measured {
                silence,
                unprotected,
                finally,
                lost,
            };
            measured.push((name, it));
        }
        let head = [
            "what happens",
            "no reply for: simulated",
            "on hosts",
            "not protected for: simulated",
            "on hosts",
            "in the end: simulated",
            "on hosts",
            "lost on hosts",
        ];
        let row = |(name, outcome): &(&'static str, Outcome)| {
            let found = measured.iter().find(|(measured, _)| measured == name);
            let of = |cell: fn(&Measured<'_>) -> String| {
                found.map_or_else(|| "not measured".to_owned(), |(_, it)| cell(it))
            };
            vec![
                (*name).to_owned(),
                outcome.silence(),
                of(|it| it.silence.to_owned()),
                outcome.unprotected(),
                of(|it| it.unprotected.to_owned()),
                outcome.finally(),
                of(|it| it.finally.to_owned()),
                of(|it| it.lost.to_owned()),
            ]
        };
        Ok(Table {
            head: head.map(str::to_owned).to_vec(),
            rows: self.asked.iter().map(row).collect(),
        })
    }
}

/// Two links, each with the other: the worst of all ways, as the time without a reply and that without
/// protection. Where the two are the same link, it alone is cut.
pub(super) fn grid(matrix: &Matrix) -> Table {
    let mut head = vec!["no reply / not protected".to_owned()];
    head.extend(LINKS.map(|link| link.to_string()));
    let worst = |one: Link, other: Link| {
        let alone = matrix
            .cuts
            .iter()
            .filter(|(cut, _)| one == other && cut.0 == one);
        let both = matrix
            .pairs
            .iter()
            .filter(|([a, b], _)| [(a.0, b.0), (b.0, a.0)].contains(&(one, other)));
        let alone = alone.map(|(_, outcome)| outcome);
        let both = both.map(|(_, outcome)| outcome);
        alone.chain(both).fold(Outcome::default(), Outcome::worst)
    };
    let row = |(number, one): (usize, &Link)| {
        let mut cells = vec![one.to_string()];
        cells.extend(LINKS.iter().enumerate().map(|(column, other)| {
            // Each pair once.
            match column > number {
                true => String::new(),
                false => {
                    let worst = worst(*one, *other);
                    let silence = match worst.cut_off {
                        true => "healed".to_owned(),
                        false => seconds(worst.silence),
                    };
                    format!("{silence} / {}", worst.unprotected())
                }
            }
        }));
        cells
    };
    Table {
        head,
        rows: LINKS.iter().enumerate().map(row).collect(),
    }
}

/// Puts a part between its marks.
fn put(page: &str, name: &str, part: &str) -> Result<String, String> {
    let (begin, end) = (
        format!("<!-- made: {name} -->\n"),
        format!("<!-- end: {name} -->\n"),
    );
    let missing = || format!("the page has no {}", begin.trim());
    let (before, rest) = page.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{part}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_put_in_place_of_the_one_before() {
        let page = "a\n<!-- made: x -->\nold\n<!-- end: x -->\nb\n";
        let new = put(page, "x", "new\n").expect("the marks are there");
        assert_eq!(new, "a\n<!-- made: x -->\n\nnew\n\n<!-- end: x -->\nb\n");
        assert_eq!(put(&new, "x", "new\n").as_ref(), Ok(&new));
        assert!(put(page, "y", "").is_err());
    }
}
