// Points as arrays of numbers, and principal components of many.

export const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const norm = (a) => Math.hypot(...a);
const scaled = (a, factor) => a.map((value) => value * factor);

/** The mean and the variance of each column. */
export function columnMoments(rows) {
  const meanOf = (value) => rows.reduce((sum, row) => sum + value(row), 0) / rows.length;
  const mean = rows[0].map((_, d) => meanOf((row) => row[d]));
  const variance = mean.map((centre, d) => meanOf((row) => (row[d] - centre) ** 2));
  return { mean, variance };
}

const ITERATIONS = 400;

/**
 * The first two principal components of `rows`, by power iteration, and the share of the variance
 * that lies along them. The largest entry of each is positive, so that they are always the same.
 */
export function principalComponents(rows, { mean, variance }) {
  const covariance = mean.map(() => new Float64Array(mean.length));
  for (const row of rows) {
    const own = row.map((value, d) => value - mean[d]);
    covariance.forEach((line, i) => {
      const factor = own[i] / rows.length;
      for (let j = 0; j < own.length; j++) line[j] += factor * own[j]; // the loop that takes long
    });
  }
  let along = 0;
  const components = [0, 1].map(() => {
    let vector = mean.map((_, d) => 1 + d / mean.length); // not orthogonal to any likely component
    let value = 0;
    for (let i = 0; i < ITERATIONS; i++) {
      const next = mean.map((_, d) => dot(vector, covariance[d]));
      value = norm(next);
      vector = scaled(next, 1 / (value || 1));
    }
    along += value;
    covariance.forEach((line, i) => line.forEach((_, j) => (line[j] -= value * vector[i] * vector[j])));
    return scaled(vector, Math.max(...vector) < -Math.min(...vector) ? -1 : 1);
  });
  return { components, share: along / variance.reduce((sum, value) => sum + value) || 0 };
}

/** The point at `share` of the straight line from `a` to `b`. */
export const onLine = (a, b, share) => a.map((value, d) => value + (b[d] - value) * share);

/**
 * The point at `share` of the arc from `a` to `b` around 0. Its distance from 0 goes evenly from
 * that of `a` to that of `b`. Where there is no one arc, the straight line.
 */
export function onSphere(a, b, share) {
  const [from, to] = [norm(a), norm(b)];
  const angle = Math.acos(Math.max(-1, Math.min(1, dot(a, b) / from / to)));
  const sine = Math.sin(angle);
  if (!(sine > 1e-3)) return onLine(a, b, share);
  const length = from + (to - from) * share;
  const [first, second] = [Math.sin((1 - share) * angle) / from, Math.sin(share * angle) / to];
  return a.map((value, d) => length / sine * (first * value + second * b[d]));
}

/** A point drawn from N(0, I), by Box and Muller. */
export const normalDraw = (size) =>
  Array.from({ length: size }, () =>
    Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
