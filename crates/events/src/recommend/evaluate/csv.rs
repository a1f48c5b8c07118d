//! Interactions of any origin: lines of `user,item,time[,weight]`.
//!
//! A time is a number (seconds) or RFC 3339. Fields may stand in double quotes, but hold no comma. A first line that is no
//! row is taken for a head. Anything else that cannot be read is a fault with its line: figures over half a file mislead.

use std::collections::HashMap;
use std::io::BufRead;

use chrono::DateTime;

use super::{DataSet, DatasetEvent, Visit};

/// Most rows.
const MAX_ROWS: usize = 20_000_000;

/// Longest line, in bytes.
const MAX_LINE: usize = 4_096;

/// Why a file is invalid.
#[derive(Debug, thiserror::Error)]
pub enum CsvFault {
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: &'static str },
    #[error("there is no interaction in it; expected lines of user,item,time[,weight]")]
    Empty,
    #[error("it has more than {MAX_ROWS} rows")]
    TooLong,
    #[error("it cannot be read")]
    Unreadable(#[from] std::io::Error),
}

/// Reads all of it. Weights are 1 where there are none.
pub fn read_csv(mut from: impl BufRead) -> Result<DataSet, CsvFault> {
    let (mut users, mut items) = (Names::default(), Names::default());
    let mut visits: Vec<Vec<Visit>> = Vec::new();
    let mut line = String::new();
    let mut number = 0;
    while read_line(&mut from, &mut line, number + 1)? {
        number += 1;
        if number > MAX_ROWS {
            return Err(CsvFault::TooLong);
        }
        if line.trim().is_empty() {
            continue;
        }
        match row(&line) {
            Ok((user, item, at, weight)) => {
                let user = users.number(user) as usize;
                visits.resize_with(visits.len().max(user + 1), Vec::new);
                let event = items.number(item);
                visits[user].push(Visit { event, at, weight });
            }
            Err(_) if number == 1 => {}
            Err(reason) => return Err(CsvFault::Line { line: number, reason }),
        }
    }
    if visits.is_empty() {
        return Err(CsvFault::Empty);
    }
    for visits in &mut visits {
        visits.sort_by_key(|visit| visit.at);
    }
    Ok(DataSet {
        events: vec![DatasetEvent::default(); items.0.len()],
        users: visits,
    })
}

fn read_line(from: &mut impl BufRead, line: &mut String, number: usize) -> Result<bool, CsvFault> {
    use std::io::Read;
    line.clear();
    let read = from.take(MAX_LINE as u64 + 1).read_line(line);
    let fault = |reason| CsvFault::Line { line: number, reason };
    match read {
        Ok(length) if length > MAX_LINE => Err(fault("is too long")),
        Ok(length) => Ok(length > 0),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(fault("is not UTF-8")),
        Err(error) => Err(error.into()),
    }
}

type Row<'a> = (&'a str, &'a str, i64, f32);

fn row(line: &str) -> Result<Row<'_>, &'static str> {
    let fields: Vec<_> = line
        .split(',')
        .map(|field| {
            let field = field.trim();
            field
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                .unwrap_or(field)
        })
        .collect();
    let (user, item, at, weight) = match fields.as_slice() {
        [user, item, at] => (*user, *item, *at, 1.0),
        [user, item, at, weight] => {
            let weight = weight.parse::<f32>().ok();
            let weight = weight.filter(|weight| weight.is_finite());
            (*user, *item, *at, weight.ok_or("the weight is not a number")?)
        }
        _ => return Err("expected user,item,time[,weight]"),
    };
    if user.is_empty() || item.is_empty() {
        return Err("the user or the item is missing");
    }
    let seconds = at.parse::<f64>().ok().filter(|at| at.abs() < 1e15);
    let at = seconds
        .map(|at| at as i64)
        .or_else(|| DateTime::parse_from_rfc3339(at).ok().map(|at| at.timestamp()));
    Ok((
        user,
        item,
        at.ok_or("the time is neither seconds nor RFC 3339")?,
        weight,
    ))
}

#[derive(Default)]
struct Names(HashMap<Box<str>, u32>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(known) = self.0.get(name) {
            return *known;
        }
        let next = self.0.len() as u32;
        self.0.insert(name.into(), next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_with_or_without_a_head_quotes_and_weights() {
        let text = "user,item,time,weight\n\"u1\",a,100,2.5\nu2, b ,1970-01-01T00:00:50Z\r\n\nu1,b,50\n";
        let data = read_csv(text.as_bytes()).unwrap();
        assert_eq!((data.events.len(), data.users.len()), (2, 2));
        let visit = |event, at, weight| Visit { event, at, weight };
        assert_eq!(data.users[0], [visit(1, 50, 1.0), visit(0, 100, 2.5)], "by time");
        assert_eq!(data.users[1], [visit(1, 50, 1.0)]);
    }

    #[test]
    fn a_fault_is_told_with_its_line() {
        let long = format!("u,i,1\nu,{},1\n", "x".repeat(MAX_LINE));
        for (text, fault) in [
            ("u,i,1\nu,i\n", "line 2: expected user,item,time[,weight]"),
            ("u,i,1\nu,i,1,2,3\n", "line 2: expected user,item,time[,weight]"),
            (
                "u,i,1\nu,i,soon\n",
                "line 2: the time is neither seconds nor RFC 3339",
            ),
            ("u,i,1\nu,i,1,NaN\n", "line 2: the weight is not a number"),
            ("u,i,1\n,i,1\n", "line 2: the user or the item is missing"),
            (long.as_str(), "line 2: is too long"),
        ] {
            assert_eq!(read_csv(text.as_bytes()).unwrap_err().to_string(), fault);
        }
        assert!(matches!(read_csv(&b""[..]), Err(CsvFault::Empty)));
        assert!(matches!(read_csv(&b"user,item,time\n"[..]), Err(CsvFault::Empty)));
        let fault = read_csv(&b"u,i,1\n\xff\xfe,i,1\n"[..]).unwrap_err();
        assert_eq!(fault.to_string(), "line 2: is not UTF-8");
    }
}
