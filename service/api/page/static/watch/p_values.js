// Anomalies against alpha, and whether the p-values are spread evenly, as those of clean images are.

import { Axis, Bars, Track, roundedUp } from "./charts.js";
import { countOf, judge } from "./statistics.js";
import { format, texts } from "../shared/texts.js";
import { html } from "../shared/ui.js";

const LONGEST = 5; // of the bars, in times what is expected

/**
 * How many images were anomalies in some spans of time, beside `alpha`, which may be unknown.
 * `spans` are `[[label, judged]]`, as `judge` judges.
 */
export function AnomalyShares({ spans, alpha }) {
  const words = texts.watch.anomalies;
  const values = spans.flatMap(([, { share, high }]) => [share || 0, high ?? 0]);
  const end = Math.min(1, roundedUp(Math.max(0.01, 2 * (alpha ?? 0), ...values)));
  return html`${spans.map(([label, judged]) => html`<div class="share" data-state=${judged.state}>
      <h3>${label}</h3>
      ${judged.total === 0
        ? html`<p class="quiet">${words.none}</p>`
        : html`<p>${words.share(judged)}</p>
          <p class=${judged.state === "above" ? "anomaly" : "quiet"}>${words[judged.state]}</p>
          <${Track} ...${judged} end=${end} dot=${judged.share} line=${alpha}
            isMarked=${judged.state === "above"} />`}
    </div>`)}
    <${Axis} values=${[0, end / 2, end]} shown=${format.percent} />`;
}

/**
 * What the p-values in buckets say: how many are small, up to `edge`, as `judge` judges. `n` is the
 * size of the calibration.
 */
export function readPValues(buckets, alpha, n) {
  const { edges, counts } = buckets;
  const edge = edges.findLast((value) => value <= alpha) ?? edges[0];
  const hits = counts.reduce((sum, count, i) => sum + (edges[i] <= edge ? count : 0), 0);
  return { ...judge(hits, countOf(buckets), 0, edge, n), edge, n, buckets };
}

/** The histogram. `reading` is what `readPValues` returns. */
export function PValues({ reading }) {
  const words = texts.watch.pValues;
  const { total, edge, n, state, buckets } = reading;
  if (total === 0) return html`<p class="quiet">${words.none}</p>`;
  const bins = buckets.counts
    .map((count, i) => [count, buckets.edges[i - 1] ?? 0, buckets.edges[i]])
    .filter(([, from]) => from < 1)
    .map(([count, from, to]) => ({ from, to, ...judge(count, total, from, to, n) }));
  const ratios = bins.map(({ share, expected }) => (expected ? share / expected : 0));
  const end = Math.max(2, Math.min(LONGEST, 1.1 * Math.max(...ratios)));
  return html`<p class=${state === "above" ? "anomaly" : ""} data-state=${state}>
      ${words[state]} ${words.sentence(reading)}</p>
    <${Bars} caption=${words.caption} heads=${[words.p, words.images, words.times]}
      rows=${bins.map(({ from, to, hits, expected, low, high, state: own }, i) => ({
        label: from ? words.bin(from, to) : `≤ ${to}`,
        count: format.count(hits),
        text: expected ? words.ratio(format.short(Math.round(100 * ratios[i]) / 100)) : "–",
        isMarked: to <= edge && own === "above",
        track: { end, bar: ratios[i], low: low / expected, high: high / expected, line: 1 },
      }))} />`;
}
