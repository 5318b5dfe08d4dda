// p-values of many images, and what a person reads of them.

/** Which of these p-values are anomalies: those ≤ `alpha`. */
export const flagged = (pValues, alpha) => pValues.map((p) => p <= alpha);

/**
 * The same, so that at most a share `rate` of all that are flagged is expected to be clean. Source:
 * Benjamini and Hochberg 1995, "Controlling the false discovery rate".
 */
export function flaggedByRate(pValues, rate) {
  const sorted = [...pValues].sort((a, b) => a - b);
  let cut = -1;
  sorted.forEach((p, i) => {
    if (p <= (rate * (i + 1)) / sorted.length) cut = p;
  });
  return pValues.map((p) => p <= cut);
}

/**
 * A histogram of `sorted`, ascending, for a chart that ends at `end`: `{start, end, counts}`. What
 * lies beyond is counted in the last bin.
 */
export function histogram(sorted, end, bins = 60) {
  const start = sorted[0];
  const counts = new Array(bins).fill(0);
  for (const value of sorted) {
    const bin = Math.floor(((value - start) / (end - start)) * bins);
    counts[Math.max(0, Math.min(bins - 1, bin))] += 1;
  }
  return { start, end, counts };
}

/** The value below which a share of `sorted` lies. */
export const quantile = (sorted, share) =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
