// The scores of clean images as a histogram, with an image's own score and the threshold on it.

import { histogram, quantile } from "./significance.js";
import { format, texts } from "../shared/texts.js";
import { html, useMemo } from "../shared/ui.js";

const WIDTH = 600;
const HEIGHT = 150;
const FLOOR = 118; // where the bars stand

/** `calibration` has the scores of clean images, ascending; `threshold` may be null. */
export function ScoreHistogram({ calibration: { scores, n }, score, threshold }) {
  const end = useMemo(() => {
    const highest = Math.max(quantile(scores, 0.998), threshold ?? 0);
    const spread = highest - scores[0];
    if (!spread) return highest + 1;
    return Math.max(
      highest + 0.12 * spread,
      Math.min(score + 0.05 * spread, highest + 0.6 * spread),
    );
  }, [scores, score, threshold]);
  const { start, counts } = useMemo(() => histogram(scores, end), [scores, end]);
  const tallest = Math.max(...counts);
  const place = (value) => {
    const share = (Math.min(value, end) - start) / (end - start);
    return Math.max(0, share) * WIDTH;
  };
  const wide = WIDTH / counts.length;
  const isBeyond = score > end;
  const x = Math.min(WIDTH - 3, Math.max(3, place(score)));
  const words = texts.look.histogram;
  return html`<figure class="histogram">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img"
      aria-label=${words.label(format.number(score), threshold && format.number(threshold))}>
      ${threshold !== null && html`<rect class="beyond" x=${place(threshold)} y="0"
        width=${WIDTH - place(threshold)} height=${FLOOR} />`}
      ${counts.map((count, i) => html`<rect class="bar" x=${i * wide + 0.5}
        y=${FLOOR - (92 * count) / tallest} width=${wide - 1} height=${(92 * count) / tallest} />`)}
      <line class="floor" x1="0" x2=${WIDTH} y1=${FLOOR} y2=${FLOOR} />
      ${threshold !== null && html`
        <line class="threshold" x1=${place(threshold)} x2=${place(threshold)} y1="0" y2=${FLOOR} />
        <text x=${place(threshold)} y=${FLOOR + 24} text-anchor="middle">
          ${words.threshold(format.number(threshold))}</text>`}
      <line class="score" x1=${x} x2=${x} y1="14" y2=${FLOOR + 6} />
      <path class="score" d=${`M${x - 6} 6h12l-6 9z`} />
      <text class="own" y="15" x=${x > WIDTH / 2 ? x - 10 : x + 10}
        text-anchor=${x > WIDTH / 2 ? "end" : "start"}>
        ${(isBeyond ? words.beyond : words.score)(format.number(score))}</text>
    </svg>
    <figcaption>${words.caption(n, threshold !== null)}</figcaption>
  </figure>`;
}
