// Anomalies against alpha, and whether the p-values are spread evenly, as those of clean images are.

import { Bars, Track } from "./charts.js";
import { number, share } from "./figures.js";
import { compared, countOf, expectedShare, wilson } from "./statistics.js";
import { texts } from "../shared/texts.js";
import { html } from "../shared/ui.js";

const LONGEST = 5; // of the bars, in times what is expected

/** How many of `n` images were anomalies, beside `alpha`, which may be unknown. */
export function AnomalyShare({ label, hits, n, alpha }) {
  const words = texts.watch.anomalies;
  const interval = wilson(hits, n);
  const state = n === 0 || alpha === undefined ? "unknown" : compared(hits, n, alpha);
  const end = Math.min(1, 1.2 * Math.max(interval.high, 2 * (alpha ?? 0)));
  return html`<div class="share" data-state=${state}>
    <h3>${label}</h3>
    ${n === 0
      ? html`<p class="quiet">${words.none}</p>`
      : html`<p>${words.share(hits, n, interval)}</p>
        <${Track} end=${end} dot=${hits / n} low=${interval.low} high=${interval.high} line=${alpha}
          isMarked=${state === "above"} />
        <p class=${state === "above" ? "anomaly" : "quiet"}>${words[state]}</p>`}
  </div>`;
}

/**
 * What is read from p-values in buckets: the bins with what is expected of clean images, and of the
 * smallest of them, those up to `edge`, how they compare. `n` is the size of the calibration.
 */
export function readPValues({ edges, counts }, alpha, n) {
  const total = countOf({ counts });
  const bins = edges
    .map((high, i) => ({ low: i ? edges[i - 1] : 0, high, count: counts[i] }))
    .filter(({ low }) => low < 1)
    .map((bin) => {
      const expected = expectedShare(bin.low, bin.high, n);
      const interval = wilson(bin.count, total);
      return { ...bin, expected, interval, state: compared(bin.count, total, expected) };
    });
  const edge = edges.findLast((value) => value <= alpha) ?? edges[0];
  const small = bins.filter(({ high }) => high <= edge);
  const hits = small.reduce((sum, { count }) => sum + count, 0);
  const expected = expectedShare(0, edge, n);
  const interval = wilson(hits, total);
  return { total, bins, edge, hits, expected, interval, state: compared(hits, total, expected) };
}

/** The histogram. `reading` is what `readPValues` returns. */
export function PValues({ reading }) {
  const words = texts.watch.pValues;
  const { total, bins, edge, state } = reading;
  if (total === 0) return html`<p class="quiet">${words.none}</p>`;
  const times = (part, { expected }) => part / expected;
  const possible = bins.filter((bin) => bin.expected > 0);
  const highest = Math.max(...possible.map((bin) => times(bin.count / total, bin)));
  const end = Math.max(2, Math.min(LONGEST, 1.1 * highest));
  return html`<p class=${state === "above" ? "anomaly" : ""} data-state=${state}>
      ${words.sentence(reading)}</p>
    <${Bars} caption=${words.caption} heads=${[words.p, words.images, words.times]}
      rows=${bins.map((bin) => {
        const { low, high, count, expected, interval } = bin;
        const row = {
          label: low ? words.bin(share(low), share(high)) : `≤ ${share(high)}`,
          count: number(count),
        };
        if (!expected) return { ...row, text: "–", track: { end, line: 1 } };
        const bar = times(count / total, bin);
        return {
          ...row,
          text: words.ratio(number(bar)),
          isMarked: high <= edge && bin.state === "above",
          track: { end, bar, low: times(interval.low, bin), high: times(interval.high, bin), line: 1 },
        };
      })} />`;
}
