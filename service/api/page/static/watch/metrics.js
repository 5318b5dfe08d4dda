// What /metrics said, every few seconds, for as long as a window of time needs it.

import { countOf, since } from "./statistics.js";

const KEPT_S = 600;
const RATE_S = 10; // that a rate is averaged over
const GAP_S = 15; // without a snapshot, and a line is broken

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n", '"': '"', "\\": "\\" };

const number = (text) => Number(text.replace("Inf", "Infinity"));

/** Routes that watching itself asks for, and probes. */
const QUIET = /^\/(metrics|recent|settings|livez|readyz|v2\/health\/.*)$/;

const isCounted = ({ route, status = "200" }) =>
  route === "none" ? status >= "400" : !QUIET.test(route);

/** All samples: a `Map` of names to `[{labels, value}]`. Comments and broken lines are left out. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const sample = SAMPLE.exec(line);
    if (!sample) continue;
    const [, name, inner, value] = sample;
    const labels = {};
    for (const [, key, quoted] of (inner ?? "").matchAll(LABEL)) {
      labels[key] = quoted.replace(/\\(.)/g, (whole, character) => ESCAPED[character] ?? whole);
    }
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels, value: number(value) });
  }
  return samples;
}

/** A histogram of parsed samples, over all of its series that `isWanted` by their labels. */
export function bucketsOf(samples, name, isWanted = () => true) {
  const upTo = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    if (!isWanted(labels)) continue;
    const edge = number(labels.le);
    upTo.set(edge, (upTo.get(edge) ?? 0) + value);
  }
  if (upTo.size === 0) return null;
  const edges = [...upTo.keys()].sort((a, b) => a - b);
  const counts = edges.map((edge, i) => upTo.get(edge) - (i ? upTo.get(edges[i - 1]) : 0));
  const sums = (samples.get(`${name}_sum`) ?? []).filter(({ labels }) => isWanted(labels));
  return { edges, counts, sum: sums.reduce((total, { value }) => total + value, 0) };
}

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
  const all = [];
  let first = 0;
  for (const [i, later] of history.entries()) {
    const before = history[i - 1];
    if (before && later.time - before.time > GAP_S) {
      all.push({ time: before.time + 1 });
      first = i - 1;
    }
    while (first + 1 < i && history[first + 1].time <= later.time - RATE_S) first += 1;
    all.push({ time: later.time, later, earlier: before && history[first] });
  }
  return all.filter(({ time }) => time >= start);
}

/** A count for each second between two snapshots, or null. `pick` takes the count of one. */
export const rate = ({ later, earlier }, pick) =>
  earlier ? ((pick(later) ?? 0) - (pick(earlier) ?? 0)) / (later.time - earlier.time) : null;

/** The durations of each route between two snapshots, for routes that were asked for. */
export function durationsSince(later, earlier) {
  const all = Object.entries(later.durations).map(([route, buckets]) => [
    route,
    since(buckets, earlier?.durations[route]),
  ]);
  return Object.fromEntries(all.filter(([, buckets]) => countOf(buckets) > 0));
}
