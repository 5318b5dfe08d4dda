// Points as arrays of numbers, and principal components of many.

export const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
export const norm = (a) => Math.sqrt(dot(a, a));
export const scaled = (a, factor) => a.map((value) => value * factor);

/** The mean and the variance of each column. */
export function columnMoments(rows) {
  const mean = rows[0].map((_, d) => rows.reduce((sum, row) => sum + row[d], 0) / rows.length);
  const variance = mean.map(
    (centre, d) => rows.reduce((sum, row) => sum + (row[d] - centre) ** 2, 0) / rows.length,
  );
  return { mean, variance };
}

const ITERATIONS = 400;

/**
 * The first two principal components of `rows`, by power iteration, and the share of the variance
 * that lies along them. The largest entry of each is positive, so that they are always the same.
 */
export function principalComponents(rows, { mean, variance }) {
  const size = mean.length;
  const matrix = mean.map(() => new Float64Array(size));
  for (const row of rows) {
    for (let i = 0; i < size; i++) {
      const own = (row[i] - mean[i]) / rows.length;
      for (let j = 0; j <= i; j++) matrix[i][j] += own * (row[j] - mean[j]);
    }
  }
  for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) matrix[j][i] = matrix[i][j];
  const total = variance.reduce((sum, value) => sum + value, 0);
  let along = 0;
  const components = [0, 1].map(() => {
    let vector = mean.map((_, d) => 1 + d / size); // not at a right angle to any likely component
    for (let i = 0; i < ITERATIONS; i++) {
      const next = mean.map((_, d) => dot(vector, matrix[d]));
      vector = scaled(next, 1 / (norm(next) || 1));
    }
    const value = dot(vector, vector.map((_, d) => dot(vector, matrix[d])));
    along += value;
    matrix.forEach((line, i) => line.forEach((_, j) => (line[j] -= value * vector[i] * vector[j])));
    const largest = vector.reduce((best, x) => (Math.abs(x) > Math.abs(best) ? x : best), 0);
    return largest < 0 ? scaled(vector, -1) : vector;
  });
  return { components, share: total ? along / total : 0 };
}

const mixed = (a, b, share) => a.map((value, d) => value + (b[d] - value) * share);

/** The point at `share` of the straight line from `a` to `b`. */
export const onLine = mixed;

/**
 * The point at `share` of the arc from `a` to `b` around the origin. Its distance from the origin
 * goes evenly from that of `a` to that of `b`. Where there is no one arc, the straight line.
 */
export function onSphere(a, b, share) {
  const lengths = norm(a) * norm(b);
  const angle = lengths && Math.acos(Math.max(-1, Math.min(1, dot(a, b) / lengths)));
  if (angle < 1e-3 || angle > Math.PI - 1e-3) return mixed(a, b, share);
  const from = Math.sin((1 - share) * angle) / Math.sin(angle) / norm(a);
  const to = Math.sin(share * angle) / Math.sin(angle) / norm(b);
  const length = norm(a) + (norm(b) - norm(a)) * share;
  return a.map((value, d) => length * (from * value + to * b[d]));
}

/** A draw from N(0, I), by Box and Muller, that `seed` determines (mulberry32). */
export function normalDraw(size, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Array.from({ length: size }, () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}
