// Shares and quantiles, and what clean images would give.
//
// Histograms count in buckets: `{edges, counts, sum}`, each count of its own bucket alone. `edges`
// are upper limits, ascending, and the last is Infinity.

const LEVEL = 1e-4; // at each end of a range
const TINY = 1e-10; // of the probability at the mean: what is rarer is left out
const MAX_SIZES = 20; // in times the calibration: more images hardly narrow a range

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
export function bucketQuantile(buckets, share) {
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

/** How many of the outermost weights sum up to no more than `allowance`. */
function outermost(weights, allowance) {
  let sum = 0;
  return weights.length - 1 - weights.findLastIndex((weight) => (sum += weight) > allowance);
}

/**
 * The range of the share of clean images with one of `ranks` of the n + 1 possible p-values, if
 * `total` clean images are scored: `{low, high}`. Their number is beta-binomial with the parameters
 * ranks and n + 1 − ranks, as the n images of the calibration were drawn by chance too. It lies
 * beyond either end with a probability of at most `LEVEL`.
 */
export function cleanRange(total, ranks, n) {
  const others = n + 1 - ranks;
  if (!ranks || !others) return { low: ranks && 1, high: ranks && 1 };
  const size = Math.min(total, MAX_SIZES * (n + 1));
  const growth = (count) =>
    ((size - count) * (count + ranks)) / ((count + 1) * (size - count - 1 + others));
  const mean = Math.floor((size * ranks) / (n + 1));
  const above = [];
  const below = [];
  for (let k = mean, weight = 1; k < size && weight > TINY; k++) above.push((weight *= growth(k)));
  for (let k = mean - 1, weight = 1; k >= 0 && weight > TINY; k--) below.push((weight /= growth(k)));
  const allowance = LEVEL * [...above, ...below].reduce((sum, weight) => sum + weight, 1);
  return {
    low: (mean - below.length + outermost(below, allowance)) / size,
    high: (mean + above.length - outermost(above, allowance)) / size,
  };
}

/**
 * `hits` of `total` images with p-values in (from, to], beside clean images: `{hits, total, share,
 * expected, low, high, state}`. The state is "above", "below" or "within" the range that clean
 * images give, or "unknown" without `n`, the size of the calibration. p-values are multiples of
 * 1/(n + 1), so that narrow bins expect more or less than their width.
 */
export function judge(hits, total, from, to, n) {
  const share = hits / total;
  const judged = { hits, total, share, expected: Math.min(1, to) - from, state: "unknown" };
  if (!n || !total) return judged;
  const upTo = (edge) => Math.floor(Math.min(1, edge) * (n + 1) + 1e-9);
  const ranks = upTo(to) - upTo(from);
  const { low, high } = cleanRange(total, ranks, n);
  const state = share > high ? "above" : share < low ? "below" : "within";
  return { ...judged, expected: ranks / (n + 1), low, high, state };
}
