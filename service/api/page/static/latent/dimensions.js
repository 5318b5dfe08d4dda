// One slider for each dimension of the latent space, and what the network draws at their point.

import { listText, rounded, useDecoded } from "./latent_space.js";
import { normalDraw } from "./linear_algebra.js";
import { paint } from "../shared/pictures.js";
import { curlLine, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import { Commands, Failure, html, Picture, Slider, useAttempt } from "../shared/ui.js";

/** Paints the image, and leaves a measure for whoever counts frames, and none in memory. */
function paintFrame(canvas, image) {
  paint(canvas, image);
  performance.measure("frame");
  performance.clearMeasures("frame");
}

/** `onMove(z)` is called as sliders move. */
export function Dimensions({ space, z, scale, onMove }) {
  const words = texts.latent;
  const [error, attempt] = useAttempt();
  const image = useDecoded(z, attempt);
  const sliders = (dimensions) => html`<div class="sliders">${dimensions.map((d) => {
    const limit = Math.max(space.limits[d], Math.ceil(Math.abs(z[d])));
    return html`<${Slider} key=${d} label=${`z${d + 1}`} name=${`z${d + 1}`} min=${-limit} max=${limit}
      step="0.01" value=${z[d]} shown=${words.number(z[d])} onInput=${(value) => onMove(z.with(d, value))} />`;
  })}</div>`;

  return html`<section class="card dimensions" aria-label=${words.dimensions}>
    <div class="live">
      <${Picture} image=${image} label=${words.drawn} draw=${paintFrame} />
      <div class="stack tight">
        <button type="button" onClick=${() => onMove(z.map(() => 0))}>${words.zero}</button>
        <button type="button" onClick=${() => onMove(rounded(normalDraw(space.size)))}>
          ${words.random}</button>
      </div>
    </div>
    <${Failure} error=${error} />
    <p class="small quiet">${words.sorted(space)}</p>
    ${sliders(space.active)}
    ${space.passive.length > 0 && html`<details><summary class="quiet small">
      ${words.passive(space.passive.length)}</summary>${sliders(space.passive)}</details>`}
    <${Commands} ...${pointCommands(z, scale)} />
  </section>`;
}

const pointCommands = (z, scale) => ({
  curl: curlLine("/decode", {
    query: { scale }, data: { z: [z] }, accept: "image/png", out: "image.png",
  }),
  python: pythonLines([`image = client.decode(np.array([${listText(z)}]))[0]`], ["import numpy as np"]),
});
