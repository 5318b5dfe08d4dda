// Shares and quantiles, and what is known of them.
//
// Histograms count in buckets: `{edges, counts, sum}`, each count of its own bucket alone. `edges`
// are upper limits, ascending, and the last is Infinity.

const Z = 1.959964; // of 95 %

/** How many values were counted. */
export const countOf = (buckets) => buckets?.counts.reduce((a, b) => a + b, 0) ?? 0;

/** What `later` counted after `earlier`, which may be missing. */
export function since(later, earlier) {
  if (!later || !earlier) return later;
  const before = new Map(earlier.edges.map((edge, i) => [edge, earlier.counts[i]]));
  return {
    edges: later.edges,
    counts: later.counts.map((count, i) => count - (before.get(later.edges[i]) ?? 0)),
    sum: later.sum - earlier.sum,
  };
}

/** All of these in one, or null; they have the same edges. */
export function together(all) {
  return all.reduce(
    (sum, each) =>
      sum
        ? { ...sum, counts: sum.counts.map((c, i) => c + each.counts[i]), sum: sum.sum + each.sum }
        : each,
    null,
  );
}

/**
 * The value below which a share of the values lies, as far as buckets tell: `{value, low, high}`.
 * It lies between `low` and `high`; `value` supposes that a bucket's values are spread evenly, as
 * Prometheus's `histogram_quantile` does. Null if there are no values.
 */
export function quantile(buckets, share) {
  const count = countOf(buckets);
  if (!count) return null;
  const rank = share * count;
  let below = 0;
  for (const [i, own] of buckets.counts.entries()) {
    if (own > 0 && below + own >= rank) {
      const low = i ? buckets.edges[i - 1] : 0;
      const high = buckets.edges[i];
      const value = high === Infinity ? low : low + ((high - low) * (rank - below)) / own;
      return { value, low, high };
    }
    below += own;
  }
  return null;
}

/**
 * The 95 % interval of a share of which `hits` of `n` were seen. Source: Wilson 1927, "Probable
 * inference, the law of succession, and statistical inference".
 */
export function wilson(hits, n) {
  if (n === 0) return { low: 0, high: 1 };
  const share = hits / n;
  const spread = Z * Math.sqrt((share * (1 - share)) / n + (Z / (2 * n)) ** 2);
  const middle = share + Z ** 2 / (2 * n);
  const whole = 1 + Z ** 2 / n;
  return {
    low: hits === 0 ? 0 : (middle - spread) / whole,
    high: hits === n ? 1 : (middle + spread) / whole,
  };
}

/**
 * Where a share lies beside what is expected: "above" or "below", or "within" its interval. A single
 * hit is "unclear" where it would be above: Wilson's lower limit is too high there.
 */
export function compared(hits, n, expected) {
  const { low, high } = wilson(hits, n);
  if (low > expected) return hits > 1 ? "above" : "unclear";
  return high < expected ? "below" : "within";
}

/**
 * The share of clean images with a p-value in (low, high]. p-values are multiples of 1/(n + 1), `n`
 * being the size of the calibration, so that small bins hold more or less than their width.
 */
export function expectedShare(low, high, n) {
  const upTo = (edge) => Math.floor(Math.min(1, edge) * (n + 1) + 1e-9);
  return n ? (upTo(high) - upTo(low)) / (n + 1) : Math.min(1, high) - low;
}
