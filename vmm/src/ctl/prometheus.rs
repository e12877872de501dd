//! Numbers as Prometheus reads them (its text format, version 0.0.4). Pure.
//!
//! Every line has the label `socket`, so that the numbers of many disks can stand in one place.

use protocol::control::{Latency, Limits, OverlayStatus, Stats, Status};
use std::fmt::Write;
use std::path::Path;

/// The text.
#[derive(Debug)]
struct Text {
    out: String,
    socket: String,
}

impl Text {
    /// Begins a metric.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.out, "# HELP mayfly_{name} {help}\n# TYPE mayfly_{name} {kind}");
    }

    /// A number of it; `labels` begin with a comma if there are any.
    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.out, "mayfly_{name}{{socket=\"{}\"{labels}}} {value}", self.socket);
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, kind, help);
        self.value(name, "", value);
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        self.metric(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut below = 0u64;
        for (index, count) in latency.buckets.iter().enumerate() {
            below = below.saturating_add(*count);
            let bound = Latency::bound_us(index).map_or_else(|| "+Inf".to_owned(), seconds);
            self.value(&bucket, &format!(",le=\"{bound}\""), below);
        }
        self.value(&format!("{name}_sum"), "", seconds(latency.sum_us));
        self.value(&format!("{name}_count"), "", below);
    }
}

/// Microseconds as seconds, exactly.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// All there is.
pub(super) fn text(socket: &Path, status: &Status, stats: &Stats) -> String {
    let mut text = Text {
        out: String::new(),
        socket: escaped(&socket.to_string_lossy()),
    };
    state(&mut text, status);
    counts(&mut text, stats);
    text.out
}

/// A label's value between its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

fn confinement(text: &mut Text, status: &Status) {
    let name = "confinement_layer";
    text.metric(name, "gauge", "Whether a layer of the confinement is in force.");
    let layers = &status.confinement;
    let in_force = layers.in_force.iter().map(|layer| (layer, 1));
    for (layer, value) in in_force.chain(layers.missing.iter().map(|layer| (layer, 0))) {
        text.value(name, &format!(",layer=\"{}\"", escaped(layer)), value);
    }
}

fn state(text: &mut Text, status: &Status) {
    confinement(text, status);
    text.single("disk_bytes", "gauge", "Size of the disk.", status.disk_bytes);
    let connected = u8::from(status.connected);
    text.single(
        "frontend_connected",
        "gauge",
        "Whether a frontend is connected.",
        connected,
    );
    if let Some(status) = &status.overlay {
        overlay(text, status);
    }
    limits(text, &status.limits);
}

fn overlay(text: &mut Text, overlay: &OverlayStatus) {
    for (name, help, value) in [
        (
            "overlay_dirty_clusters",
            "Clusters that the guest changed.",
            overlay.dirty_clusters,
        ),
        (
            "overlay_zero_clusters",
            "Clusters that the guest zeroed.",
            overlay.zero_clusters,
        ),
        (
            "overlay_used_bytes",
            "Space that changed clusters take.",
            overlay.used_bytes,
        ),
        (
            "overlay_limit_bytes",
            "What that cannot grow beyond.",
            overlay.limit_bytes,
        ),
        (
            "overlay_file_bytes",
            "Space that the overlay's file takes.",
            overlay.disk_usage_bytes,
        ),
        ("map_bytes", "Memory that the map of clusters takes.", overlay.map_bytes),
        ("map_limit_bytes", "What that cannot exceed.", overlay.map_limit_bytes),
    ] {
        text.single(name, "gauge", help, value);
    }
}

fn limits(text: &mut Text, limits: &Limits) {
    for (name, help, value) in [
        (
            "limit_requests_per_second",
            "Most requests a second; 0: no limit.",
            limits.iops.per_second,
        ),
        (
            "limit_bytes_per_second",
            "Most bytes a second; 0: no limit.",
            limits.bandwidth.per_second,
        ),
        (
            "keep_free_bytes",
            "What the overlay's file system keeps free.",
            limits.keep_free_bytes,
        ),
    ] {
        text.single(name, "gauge", help, value);
    }
}

fn counts(text: &mut Text, stats: &Stats) {
    let serving = seconds(stats.serving_us);
    text.single(
        "serving_seconds",
        "counter",
        "How long the helper has been serving.",
        serving,
    );
    text.metric("requests_total", "counter", "Requests that were answered.");
    for (kind, count) in stats.kinds() {
        text.value("requests_total", &format!(",kind=\"{kind}\""), count.requests);
    }
    text.metric("request_bytes_total", "counter", "Bytes that those were about.");
    for (kind, count) in stats.kinds() {
        text.value("request_bytes_total", &format!(",kind=\"{kind}\""), count.bytes);
    }
    text.metric(
        "request_errors_total",
        "counter",
        "Requests that were answered with an error.",
    );
    for (kind, count) in stats.kinds() {
        text.value("request_errors_total", &format!(",kind=\"{kind}\""), count.errors);
    }
    let malformed = stats.malformed;
    text.single("malformed_total", "counter", "Requests that made no sense.", malformed);
    let dropped = stats.events_dropped;
    text.single(
        "events_dropped_total",
        "counter",
        "Events that a client had no room for.",
        dropped,
    );
    let (throttled, held) = (seconds(stats.throttled_us), seconds(stats.held_us));
    text.single(
        "throttled_seconds_total",
        "counter",
        "How long queues waited for the limits.",
        throttled,
    );
    text.single(
        "held_seconds_total",
        "counter",
        "How long queues waited for space.",
        held,
    );
    text.latency("read_seconds", "How long reads took.", &stats.read_latency);
    text.latency("write_seconds", "How long writes took.", &stats.write_latency);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_add_up_and_times_are_exact() {
        let mut text = Text {
            out: String::new(),
            socket: "s".into(),
        };
        let mut latency = Latency {
            sum_us: 1_000_001,
            ..Latency::default()
        };
        for us in [0, 1, 3, 5_000_000] {
            latency.buckets[Latency::bucket(us)] += 1;
        }

        text.latency("read_seconds", "x", &latency);

        for line in [
            "mayfly_read_seconds_bucket{socket=\"s\",le=\"0.000001\"} 1\n",
            "mayfly_read_seconds_bucket{socket=\"s\",le=\"0.000004\"} 3\n",
            "mayfly_read_seconds_bucket{socket=\"s\",le=\"+Inf\"} 4\n",
            "mayfly_read_seconds_sum{socket=\"s\"} 1.000001\n",
            "mayfly_read_seconds_count{socket=\"s\"} 4\n",
        ] {
            assert!(text.out.contains(line), "{line}{}", text.out);
        }
    }
}
