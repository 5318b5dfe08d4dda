// A walk between two points of the latent space, as an animation.

import { decode, listText, rounded } from "./latent_space.js";
import { normalDraw, onLine, onSphere } from "./linear_algebra.js";
import { Tile } from "./tile.js";
import { call, curlLine, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import {
  Commands, Failure, html, Picture, save, Slider, useAttempt, useEffect, useMedia, useNewest, useRef,
  useState,
} from "../shared/ui.js";

export const MAX_STEPS = 60;
const FRAME_MS = 80; // as in GIFs of the service

/** The points of a walk, of a state as `view.js` has it. */
export function walkPoints({ from, to, steps, route }) {
  const between = route === "arc" ? onSphere : onLine;
  return Array.from({ length: steps }, (_, i) => rounded(between(from, to, i / (steps - 1))));
}

const thereAndBack = (points) => [...points, ...points.slice(1, -1).reverse()];

/** `points` are those of the walk, `onChange(changes)` changes the state. */
export function Walk({ space, state, points, looked, scale, onChange, onTake }) {
  const words = texts.latent;
  const { z, steps, route } = state;
  const [frames, setFrames] = useState(null);
  const [error, attempt] = useAttempt();
  const [position, setPosition] = useState(0);
  const [isPlaying, setPlaying] = useState(false);
  const isReduced = useMedia("(prefers-reduced-motion: reduce)");
  const direction = useRef(1);

  const load = useNewest(attempt(async (wanted) => setFrames(await decode(wanted))));
  useEffect(() => {
    load(points);
  }, [points]);
  useEffect(() => setPlaying(!isReduced), [isReduced]);

  const last = steps - 1;
  const at = Math.min(position, last);
  const step = () => setPosition((now) => {
    if (now >= last) direction.current = -1;
    if (now <= 0) direction.current = 1;
    return Math.min(now, last) + direction.current;
  });
  useEffect(() => {
    if (!isPlaying || !frames) return undefined;
    const timer = setInterval(step, FRAME_MS);
    return () => clearInterval(timer);
  }, [isPlaying, frames, last]);

  const file = (z, accept, name) => attempt(async () => {
    const response = await call("/decode", { query: { scale }, body: { z }, accept });
    save(await response.blob(), name);
  });
  const button = (text, onClick, disabled) =>
    html`<button type="button" disabled=${disabled} onClick=${onClick}>${text}</button>`;
  const end = (name, index) => html`<div class="stack tight" role="group" aria-label=${words.ends[name]}>
    <${Picture} image=${frames?.at(index)} caption=${words.ends[name]} />
    ${button(words.ofSliders, () => onChange({ [name]: z }), `${state[name]}` === `${z}`)}
    ${button(words.random, () => onChange({ [name]: rounded(normalDraw(space.size)) }))}
    <div class="row">${looked.slice(-8).map((seen) => html`<${Tile} image=${seen.thumbnail}
      label=${words.lookedName(seen)} onClick=${() => onChange({ [name]: rounded(seen.mu) })} />`)}</div>
  </div>`;

  return html`<section class="card" aria-label=${words.walk}>
    <h2>${words.walk}</h2>
    <div class="walk">
      ${end("from", 0)}
      <div class="stack tight">
        <${Picture} image=${frames?.[Math.min(at, frames.length - 1)]}
          label=${words.stepOf(at + 1, steps)} caption=${words.between} />
        ${isReduced
          ? button(words.next, step)
          : button(isPlaying ? words.pause : words.play, () => setPlaying(!isPlaying))}
        ${button(words.intoSliders, () => onTake(points[at], words.stepOf(at + 1, steps)))}
      </div>
      ${end("to", -1)}
    </div>
    <${Slider} label=${words.position} name="position" min="0" max=${last} step="1" value=${at}
      shown=${words.stepOf(at + 1, steps)}
      onInput=${(value) => { setPlaying(false); setPosition(value); }} />
    <${Slider} label=${words.steps} name="steps" min="3" max=${MAX_STEPS} step="1" value=${steps}
      shown=${String(steps)} onInput=${(value) => onChange({ steps: value })} />
    <fieldset><legend class="visually-hidden">${words.route}</legend>
      ${["straight", "arc"].map((one) => html`<label class="check"><input type="radio" name="route"
        checked=${route === one} onChange=${() => onChange({ route: one })} /> ${words.routes[one]}</label>`)}
      <p class="quiet small">${words.whyRoute[route]}</p>
    </fieldset>
    <div class="row">
      ${button(words.saveGif, file(thereAndBack(points), "image/gif", "walk.gif"))}
      ${button(words.savePicture, file(points, "image/png", "walk.png"))}
    </div>
    <${Failure} error=${error} />
    <${Commands} ...${walkCommands(state, points, scale)} />
  </section>`;
}

function walkCommands({ from, to, steps, route }, points, scale) {
  const z = route === "arc"
    ? `np.array([${points.map(listText).join(", ")}])`
    : `np.linspace(${listText(from)}, ${listText(to)}, ${steps})`;
  return {
    curl: curlLine("/decode", {
      query: { scale }, data: { z: thereAndBack(points) }, accept: "image/gif", out: "walk.gif",
    }),
    python: pythonLines([`z = ${z}`, "images = client.decode(z)"], ["import numpy as np"]),
  };
}
