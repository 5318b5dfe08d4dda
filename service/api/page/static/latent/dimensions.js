// One slider for each dimension of the latent space, and what the network draws at their point.

import { listText, rounded, useDecoded } from "./latent_space.js";
import { normalDraw } from "./linear_algebra.js";
import { paint } from "../shared/pictures.js";
import { curlLine, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import { Commands, Failure, html, Picture, Slider, useAttempt, useRef } from "../shared/ui.js";

/** Paints the image, and leaves a measure for whoever counts frames, and none in memory. */
function paintFrame(canvas, image) {
  paint(canvas, image);
  performance.measure("frame");
  performance.clearMeasures("frame");
}

/** `onMove(z)` is called as sliders move, `onWalk("from" | "to")` for the ends of a walk. */
export function Dimensions({ space, z, scale, onMove, onWalk }) {
  const [error, attempt] = useAttempt();
  const image = useDecoded(z, attempt);
  const seed = useRef(0);
  const slider = (d) => html`<${DimensionSlider} key=${d} d=${d} value=${z[d]}
    limit=${Math.max(space.limits[d], Math.ceil(Math.abs(z[d])))}
    onInput=${(value) => onMove(z.map((old, i) => (i === d ? value : old)))} />`;

  return html`<section class="card dimensions" aria-label=${texts.latent.dimensions}>
    <div class="live">
      <${Picture} image=${image} label=${texts.latent.drawn} draw=${paintFrame} />
      <div class="stack tight">
        <button type="button" onClick=${() => onMove(z.map(() => 0), texts.latent.atOrigin)}>
          ${texts.latent.origin}</button>
        <button type="button" onClick=${() =>
          onMove(rounded(normalDraw(space.size, newSeed(seed))), texts.latent.atRandom)}>
          ${texts.latent.random}</button>
        <button type="button" onClick=${() => onWalk("from")}>${texts.latent.walkFrom}</button>
        <button type="button" onClick=${() => onWalk("to")}>${texts.latent.walkTo}</button>
      </div>
    </div>
    <${Failure} error=${error} />
    <p class="small quiet">${texts.latent.sorted(space)}</p>
    <div class="sliders">${space.active.map(slider)}</div>
    ${space.passive.length > 0 && html`<details><summary class="quiet small">
      ${texts.latent.passive(space.passive.length)}</summary>
      <div class="sliders">${space.passive.map(slider)}</div></details>`}
    <${Commands} ...${pointCommands(z, scale)} />
  </section>`;
}

/** A seed for a random point that was not used yet. */
export const newSeed = (seed) => (seed.current = (seed.current || Date.now()) + 1);

function DimensionSlider({ d, value, limit, onInput }) {
  return html`<${Slider} label=${`z${d + 1}`} name=${`z${d + 1}`} min=${-limit} max=${limit}
    step="0.01" value=${value} shown=${texts.latent.number(value)} onInput=${onInput} />`;
}

const pointCommands = (z, scale) => ({
  curl: curlLine("/decode", {
    query: { scale }, data: { z: [z] }, accept: "image/png", out: "image.png",
  }),
  python: pythonLines([`image = client.decode(np.array([${listText(z)}]))[0]`], ["import numpy as np"]),
});
