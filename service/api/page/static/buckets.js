// Histograms that count in buckets: `{edges, counts, sum}`, each count of its own bucket alone.
// `edges` are upper limits, ascending, and the last is Infinity.

/** A histogram of parsed samples, over all of its series that `isWanted` by their labels. */
export function bucketsOf(samples, name, isWanted = () => true) {
  const upTo = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    if (!isWanted(labels)) continue;
    const edge = Number(labels.le.replace("+Inf", "Infinity"));
    upTo.set(edge, (upTo.get(edge) ?? 0) + value);
  }
  if (upTo.size === 0) return null;
  const edges = [...upTo.keys()].sort((a, b) => a - b);
  const counts = edges.map((edge, i) => upTo.get(edge) - (i ? upTo.get(edges[i - 1]) : 0));
  const sums = (samples.get(`${name}_sum`) ?? []).filter(({ labels }) => isWanted(labels));
  return { edges, counts, sum: sums.reduce((total, { value }) => total + value, 0) };
}

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
