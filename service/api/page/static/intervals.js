// Shares and what is known of them.

const Z = 1.959964; // 95 %

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
