//! Answers in words for people. Pure.

use protocol::control::{AtLimit, Count, Event, Latency, Limits, Notice, OverlayStatus, Rate, SaveState, SaveStatus};
use protocol::control::{Stats, Status};
use protocol::size::show as size;
use std::fmt::Write;
use std::time::Duration;

/// A table of two columns, its lines ended.
#[derive(Debug, Default)]
struct Table(String);

impl Table {
    fn line(&mut self, what: &str, text: impl AsRef<str>) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{what:<12}{}", text.as_ref());
        self
    }
}

/// How things are.
pub(super) fn status(status: &Status) -> String {
    let frontend = if status.connected { "connected" } else { "none" };
    let base = &status.base;
    let mut table = Table::default();
    table
        .line("disk", size(status.disk_bytes))
        .line("frontend", frontend)
        .line(
            "base",
            format!("{}, device {}, inode {}", size(base.bytes), base.device, base.inode),
        );
    match &status.overlay {
        None => table.line("overlay", "none: the disk is read-only"),
        Some(overlay) => overlay_lines(&mut table, overlay),
    };
    table.0.push_str(&limits(&status.limits));
    if let Some(save) = &status.save {
        table.line("save", save_line(save));
    }
    let confinement = &status.confinement;
    table.line("confined by", confinement.in_force.join(", "));
    if !confinement.missing.is_empty() {
        table.line("", format!("not permitted here: {}", confinement.missing.join(", ")));
    }
    table.0
}

fn overlay_lines<'t>(table: &'t mut Table, overlay: &OverlayStatus) -> &'t mut Table {
    let how = if overlay.encrypted { "encrypted" } else { "in the clear" };
    table
        .line(
            "overlay",
            format!("{} of {}, {how}", size(overlay.used_bytes), size(overlay.limit_bytes)),
        )
        .line(
            "",
            format!(
                "{} clusters changed, {} zeroed; its file takes {}",
                overlay.dirty_clusters,
                overlay.zero_clusters,
                size(overlay.disk_usage_bytes)
            ),
        )
        .line(
            "map",
            format!("{} of {}", size(overlay.map_bytes), size(overlay.map_limit_bytes)),
        )
}

/// The limits.
pub(super) fn limits(limits: &Limits) -> String {
    let mut table = Table::default();
    let hold = match limits.at_limit {
        AtLimit::Error => "writes without space fail",
        AtLimit::Hold => "writes without space wait",
    };
    let keep_free = match limits.keep_free_bytes {
        0 => "nothing".to_owned(),
        bytes => size(bytes),
    };
    table
        .line("limits", format!("overlay {}; {hold}", size(limits.overlay_bytes)))
        .line(
            "",
            format!("requests: {}", rate(limits.iops, |count| count.to_string())),
        )
        .line("", format!("bytes: {}", rate(limits.bandwidth, size)))
        .line("", format!("kept free on the overlay's file system: {keep_free}"));
    table.0
}

fn rate(rate: Rate, show: impl Fn(u64) -> String) -> String {
    match (rate.is_unlimited(), rate.burst) {
        (true, _) => "as many as come".to_owned(),
        (false, 0) => format!("{} a second", show(rate.per_second)),
        (false, burst) => format!(
            "{} a second, {} at once after a pause",
            show(rate.per_second),
            show(burst)
        ),
    }
}

fn save_line(save: &SaveStatus) -> String {
    match &save.state {
        SaveState::Running => format!(
            "number {} is running: {} of {}",
            save.number,
            size(save.done_bytes),
            size(save.total_bytes)
        ),
        SaveState::Done => format!("number {} is done: {}", save.number, saved(save)),
        SaveState::Cancelled => format!("number {} was called off", save.number),
        SaveState::Failed(why) => format!("number {} failed: {why}", save.number),
    }
}

/// What there is to say of a save that is done.
pub(crate) fn saved(save: &SaveStatus) -> String {
    format!(
        "a disk of {}; the guest waited {} for it",
        size(save.total_bytes),
        microseconds(save.pause_us)
    )
}

fn microseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} µs"),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => duration(us),
    }
}

fn duration(us: u64) -> String {
    match us / 1_000_000 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What was counted.
pub(super) fn stats(stats: &Stats) -> String {
    let mut text = format!(
        "{:<14}{:>12} {:>12} {:>8} {:>10} {:>10}\n",
        "", "requests", "bytes", "errors", "half in", "99 % in"
    );
    for (name, count) in stats.kinds() {
        let latency = match name {
            "read" => Some(&stats.read_latency),
            "write" => Some(&stats.write_latency),
            _ => None,
        };
        let within = |percent| latency.map_or_else(String::new, |latency| quantile(latency, percent));
        let Count {
            requests,
            bytes,
            errors,
        } = count;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<14}{requests:>12} {:>12} {errors:>8} {:>10} {:>10}",
            size(bytes),
            within(50),
            within(99)
        );
    }
    let _ = writeln!(
        text,
        "serving for {}; {} requests made no sense; queues waited {} for the limits and {} for space",
        duration(stats.serving_us),
        stats.malformed,
        microseconds(stats.throttled_us),
        microseconds(stats.held_us)
    );
    text
}

/// What so many of a hundred requests took less than.
fn quantile(latency: &Latency, percent: u64) -> String {
    let total = latency
        .buckets
        .iter()
        .fold(0u64, |sum, count| sum.saturating_add(*count));
    if total == 0 {
        return "-".to_owned();
    }
    // Rounded up, so that of one request the first is meant.
    let wanted = total.saturating_mul(percent).div_ceil(100);
    let mut seen = 0u64;
    let mut buckets = latency.buckets.iter().enumerate();
    let found = buckets.find(|(_, count)| {
        seen = seen.saturating_add(**count);
        seen >= wanted
    });
    match found.and_then(|(bucket, _)| Latency::bound_us(bucket)) {
        Some(bound) => format!("< {}", microseconds(bound)),
        None => "long".to_owned(),
    }
}

/// What stands above the lines of [`second`].
pub(super) const HEADING: &str =
    "   reads/s      bytes/s   writes/s      bytes/s   others/s   errors   waited   read half in  write half in\n";

/// What was done between two counts, as if it had been a second.
pub(super) fn second(before: &Stats, now: &Stats) -> String {
    let elapsed = Duration::from_micros(now.serving_us.saturating_sub(before.serving_us));
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let a_second = |before: u64, now: u64| now.saturating_sub(before).saturating_mul(1000) / millis;
    let sum = |stats: &Stats, of: fn(&Count) -> u64| {
        let kinds = stats.kinds();
        kinds.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(of(count)))
    };
    let requests = |stats: &Stats| sum(stats, |count| count.requests);
    let others = |stats: &Stats| {
        requests(stats)
            .saturating_sub(stats.read.requests)
            .saturating_sub(stats.write.requests)
    };
    let errors = |stats: &Stats| sum(stats, |count| count.errors);
    let waited = |stats: &Stats| stats.throttled_us.saturating_add(stats.held_us);
    format!(
        "{:>10} {:>12} {:>10} {:>12} {:>10} {:>8} {:>8} {:>14} {:>14}\n",
        a_second(before.read.requests, now.read.requests),
        size(a_second(before.read.bytes, now.read.bytes)),
        a_second(before.write.requests, now.write.requests),
        size(a_second(before.write.bytes, now.write.bytes)),
        a_second(others(before), others(now)),
        errors(now).saturating_sub(errors(before)),
        microseconds(waited(now).saturating_sub(waited(before))),
        quantile(&between(&before.read_latency, &now.read_latency), 50),
        quantile(&between(&before.write_latency, &now.write_latency), 50),
    )
}

/// What was added.
fn between(before: &Latency, now: &Latency) -> Latency {
    let mut added = *now;
    added.sum_us = now.sum_us.saturating_sub(before.sum_us);
    for (added, before) in added.buckets.iter_mut().zip(before.buckets) {
        *added = added.saturating_sub(before);
    }
    added
}

/// Something that happened.
pub(super) fn event(notice: &Notice, missed_before: u64) -> String {
    let mut text = in_words(&notice.event);
    let missed = notice.missed.saturating_sub(missed_before);
    if missed > 0 {
        let _ = write!(text, " ({missed} events before this one are lost)");
    }
    text.push('\n');
    text
}

/// What happened, in words.
pub(crate) fn in_words(event: &Event) -> String {
    match event {
        Event::Connected => "a frontend connected".into(),
        Event::Disconnected => "the frontend left".into(),
        Event::QuotaReached { limit_bytes } => format!("the overlay is full: its limit is {}", size(*limit_bytes)),
        Event::SpaceLow {
            free_bytes,
            keep_free_bytes,
        } => format!(
            "the overlay's file system has {} left, and {} are to be kept free",
            size(*free_bytes),
            size(*keep_free_bytes)
        ),
        Event::BaseChanged => "somebody changed the base underfoot: the guest may read neither old nor new data".into(),
        Event::Reset => "the disk is as the base again".into(),
        Event::Saved { number } => format!("save {number} is done"),
        Event::SaveCancelled { number } => format!("save {number} was called off"),
        Event::SaveFailed { number, reason } => format!("save {number} failed: {reason}"),
        Event::Resized { disk_bytes } => format!("the disk has {} now", size(*disk_bytes)),
        Event::LimitsChanged { .. } => "limits were changed".into(),
        Event::Unknown => "something that this version of mayfly does not know".into(),
    }
}

#[cfg(test)]
mod tests;
