// What /metrics said, every few seconds, for as long as a window of time needs it.

import { bucketsOf, countOf, since } from "./buckets.js";
import { parse } from "./prometheus_text.js";

const KEPT_S = 600;
const RATE_S = 10; // that a rate is averaged over
const GAP_S = 15; // without a snapshot, and a line is broken

/** Routes that watching itself asks for, and probes. */
const QUIET = /^\/(metrics|recent|settings|drift|livez|readyz|v2\/health\/.*)$/;

const isCounted = ({ route, status = "200" }) =>
  route === "none" ? status >= "400" : !QUIET.test(route);

/** One answer of /metrics at a time in seconds. Counts are since the service started. */
export function snapshot(text, time) {
  const samples = parse(text);
  const all = (name) => samples.get(name) ?? [];
  const total = (name) => all(name).reduce((sum, { value }) => sum + value, 0);
  const requests = {};
  for (const { labels, value } of all("vae_requests_total")) {
    if (!isCounted(labels)) continue;
    const status = labels.status === "499" ? "499" : `${labels.status[0]}xx`;
    requests[status] = (requests[status] ?? 0) + value;
  }
  const duration = "vae_request_duration_seconds";
  const routes = new Set(all(`${duration}_count`).map(({ labels }) => labels.route));
  const refusals = all("vae_refusals_total").map(({ labels, value }) => [labels.reason, value]);
  return {
    time,
    answered: total("vae_requests_total"),
    requests,
    durations: Object.fromEntries(
      [...routes]
        .filter((route) => route !== "none" && !QUIET.test(route))
        .map((route) => [route, bucketsOf(samples, duration, (labels) => labels.route === route)]),
    ),
    batches: bucketsOf(samples, "vae_batch_images"),
    passes: bucketsOf(samples, "vae_batch_duration_seconds"),
    waits: bucketsOf(samples, "vae_queue_wait_seconds"),
    queue: { images: total("vae_queue_images"), bytes: total("vae_queue_bytes") },
    refusals: {
      ...Object.fromEntries(refusals),
      disconnects: total("vae_disconnects_total"),
      deadlines: total("vae_deadline_misses_total"),
    },
    scored: total("vae_scored_images_total"),
    anomalies: total("vae_anomalies_total"),
    pValues: bucketsOf(samples, "vae_p_value"),
    memory: total("vae_memory_bytes"),
    connections: total("vae_connections"),
  };
}

/** Snapshots, oldest first, with one more. A service that has started anew starts them anew. */
export function withSnapshot(history, next) {
  const last = history.at(-1);
  if (last && next.answered < last.answered) return [next];
  return [...history, next].filter(({ time }) => time >= next.time - KEPT_S - RATE_S);
}

/** The last snapshot at or before the start of the window, or else the first. */
export function windowStart(history, seconds) {
  const start = history.at(-1).time - seconds;
  return history.findLast(({ time }) => time <= start) ?? history[0];
}

/**
 * The points of a chart: `[{time, later, earlier}]`. What changed between the two snapshots over
 * their time is the rate at that point. Where snapshots are missing, a point without them.
 */
export function points(history, seconds) {
  const start = history.at(-1).time - seconds;
  const found = [];
  let first = 0;
  for (const [i, later] of history.entries()) {
    const before = history[i - 1];
    if (before && later.time - before.time > GAP_S) {
      found.push({ time: before.time + 1 });
      first = i - 1;
    }
    while (first + 1 < i && history[first + 1].time <= later.time - RATE_S) first += 1;
    if (later.time >= start) found.push({ time: later.time, later, earlier: before && history[first] });
  }
  return found.filter(({ time }) => time >= start);
}

/** A count for each second between two snapshots, or null. `pick` takes the count of one. */
export const rate = ({ later, earlier }, pick) =>
  earlier ? ((pick(later) ?? 0) - (pick(earlier) ?? 0)) / (later.time - earlier.time) : null;

/** The durations of each route between two snapshots, for routes that were asked for. */
export function durationsSince(later, earlier) {
  const found = Object.entries(later.durations).map(([route, buckets]) => [
    route,
    earlier ? since(buckets, earlier.durations[route]) : buckets,
  ]);
  return Object.fromEntries(found.filter(([, buckets]) => countOf(buckets) > 0));
}
