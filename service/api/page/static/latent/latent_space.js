// The latent space of a bundle: its dimensions, its points as text, and what is drawn at a point.

import { columnMoments, dot, principalComponents } from "./linear_algebra.js";
import { array, images } from "../shared/service.js";
import { useNewest, useEffect, useState } from "../shared/ui.js";

const ACTIVE = 0.01; // variance of μ over images (Burda et al., arXiv:1509.00519, section 5)
const RANGE = 4; // standard deviations of the prior

/** Points have two decimals, so that a link, a command and what is shown are the same point. */
export const rounded = (z) => z.map((value) => Math.round(value * 100) / 100 || 0);

export const pointText = (z) => (z ? z.join("_") : null);

/** The point that `pointText` wrote, or null. */
export function readPoint(text, size) {
  const z = (text ?? "").split("_").map(Number);
  return text && z.length === size && z.every(Number.isFinite) ? rounded(z) : null;
}

/**
 * What is known of a latent space of `size` dimensions. `sample` is the answer of /model/latents,
 * or null. `active` and `passive` are dimensions, most active first; `limits` is how far sliders
 * go; `project` gives a point's place on the map, and is null where there is no map.
 */
export function latentSpace(size, sample) {
  const dimensions = Array.from({ length: size }, (_, d) => d);
  const flat = size <= 2 ? { project: (z) => [z[0], z[1] ?? 0], share: 1 } : { project: null };
  if (!sample?.mu.length) {
    return { size, active: dimensions, passive: [], limits: dimensions.map(() => RANGE), ...flat };
  }
  const moments = columnMoments(sample.mu);
  const { variance, mean } = moments;
  dimensions.sort((a, b) => variance[b] - variance[a]);
  const limits = variance.map((_, d) =>
    sample.mu.reduce((limit, mu) => Math.max(limit, Math.ceil(Math.abs(mu[d]))), RANGE));
  if (size > 2) {
    const { components, share } = principalComponents(sample.mu, moments);
    const centre = components.map((component) => dot(mean, component));
    flat.project = (z) => components.map((component, i) => dot(z, component) - centre[i]);
    flat.share = share;
  }
  return {
    size,
    variance,
    active: dimensions.filter((d) => variance[d] > ACTIVE),
    passive: dimensions.filter((d) => variance[d] <= ACTIVE),
    limits,
    ...flat,
  };
}

/** The images that the network draws at points. */
export const decode = async (points) =>
  images(await array("/decode", {
    body: new Float32Array(points.flat()),
    type: "application/octet-stream",
    query: { dtype: "uint8" },
  }));

/** What the network draws at `z`, or null; of values that change quickly, at the newest. */
export function useDecoded(z, attempt) {
  const [image, setImage] = useState(null);
  const ask = useNewest(attempt(async (point) => setImage((await decode([point]))[0])));
  useEffect(() => {
    if (z) ask(z);
  }, [pointText(z)]);
  return z && image;
}

/** A point as Python has it. */
export const listText = (z) => `[${z.join(", ")}]`;
