// The latent space of a bundle: its dimensions, its points as text, and what is drawn at a point.

import { columnMoments, dot, principalComponents } from "./linear_algebra.js";
import { array, images } from "../shared/service.js";
import { useNewest, useEffect, useState } from "../shared/ui.js";

const ACTIVE = 0.01; // variance of μ over images (Burda et al., arXiv:1509.00519, section 5)
const RANGE = 4; // standard deviations of the prior

/** Points have two decimals, so that a link, a command and what is shown are the same point. */
export const rounded = (z) => z.map((value) => Math.round(value * 100) / 100 || 0);

/** The point of an address, or null. */
export function readPoint(text, size) {
  const z = text?.split("_").map(Number);
  return z?.length === size && z.every(Number.isFinite) ? rounded(z) : null;
}

/**
 * What is known of a latent space of `size` dimensions. `sample` is the answer of /model/latents,
 * or null. `active` and `passive` are dimensions, most active first; `limits` is how far sliders
 * go; `project` gives a point's place on the map, and is null where there is no map.
 */
export function latentSpace(size, sample) {
  const active = Array.from({ length: size }, (_, d) => d);
  const space = {
    size,
    active,
    passive: [],
    limits: active.map(() => RANGE),
    project: size <= 2 ? (z) => [z[0], z[1] ?? 0] : null,
  };
  if (!sample?.mu.length) return space;
  const moments = columnMoments(sample.mu);
  const { variance, mean } = moments;
  space.variance = variance;
  active.sort((a, b) => variance[b] - variance[a]);
  const isActive = (d) => variance[d] > ACTIVE;
  space.active = active.filter(isActive);
  space.passive = active.filter((d) => !isActive(d));
  space.limits = space.limits.map((limit, d) =>
    sample.mu.reduce((max, mu) => Math.max(max, Math.ceil(Math.abs(mu[d]))), limit));
  if (size > 2) {
    const { components, share } = principalComponents(sample.mu, moments);
    space.project = (z) =>
      components.map((component) => dot(z, component) - dot(mean, component));
    space.share = share;
  }
  return space;
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
  }, [z?.join()]);
  return z && image;
}

/** A point as Python has it. */
export const listText = (z) => `[${z.join(", ")}]`;
