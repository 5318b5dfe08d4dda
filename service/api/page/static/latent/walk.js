// A walk between two points of the latent space, as an animation.

import { newSeed } from "./dimensions.js";
import { decode, listText, pointText, rounded, useDecoded } from "./latent_space.js";
import { normalDraw, onLine, onSphere } from "./linear_algebra.js";
import { call, curlLine, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import {
  Commands, Failure, html, Picture, save, Slider, useAttempt, useEffect, useId, useMedia,
  useNewest, useRef, useState,
} from "../shared/ui.js";

export const STEPS = 24;
export const MAX_STEPS = 60;
const FRAME_MS = 80; // as in GIFs of the service

/** The points of a walk, or null if an end is missing. */
export function walkPoints({ from, to, steps, onArc }) {
  if (!from || !to) return null;
  const between = onArc ? onSphere : onLine;
  return Array.from({ length: steps }, (_, i) => rounded(between(from, to, i / (steps - 1))));
}

const thereAndBack = (points) => [...points, ...points.slice(1, -1).reverse()];

/** `walk` is `{from, to, steps, onArc}`, `points` are its points; `onWalk(changes)` changes it. */
export function Walk({ space, walk, points, z, looked, scale, onWalk, onTake }) {
  const [frames, setFrames] = useState(null);
  const [error, attempt] = useAttempt();
  const [position, setPosition] = useState(0);
  const [isPlaying, setPlaying] = useState(false);
  const isReduced = useMedia("(prefers-reduced-motion: reduce)");
  const seed = useRef(0);
  const direction = useRef(1);
  const random = () => rounded(normalDraw(space.size, newSeed(seed)));

  const load = useNewest(attempt(async (wanted) => setFrames(await decode(wanted))));
  useEffect(() => {
    if (points) load(points);
  }, [points]);
  useEffect(() => setPlaying(Boolean(points) && !isReduced), [Boolean(points), isReduced]);

  const last = walk.steps - 1;
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

  const file = (of, accept, name) => attempt(async () => {
    const response = await call("/decode", { query: { scale }, body: { z: of }, accept });
    save(await response.blob(), name);
  });

  const end = (name, point) => html`<${End} key=${name} name=${texts.latent.ends[name]}
    point=${point} z=${z} looked=${looked} random=${random} attempt=${attempt}
    onPoint=${(chosen) => onWalk({ [name]: chosen })} />`;
  const button = (text, onClick, isOff = !points) =>
    html`<button type="button" disabled=${isOff} onClick=${onClick}>${text}</button>`;

  return html`<section class="card" aria-label=${texts.latent.walk}>
    <h2>${texts.latent.walk}</h2>
    <p class="quiet small">${texts.latent.walkIs}</p>
    <div class="walk">
      ${end("from", walk.from)}
      <div class="stack tight">
        <${Picture} image=${points && frames?.[Math.min(at, frames.length - 1)]}
          label=${texts.latent.stepImage(at + 1, walk.steps)} caption=${texts.latent.between} />
        ${isReduced
          ? button(texts.latent.next, step)
          : button(isPlaying ? texts.latent.pause : texts.latent.play, () => setPlaying(!isPlaying))}
        ${button(texts.latent.intoSliders, () =>
          onTake(points[at], texts.latent.stepOf(at + 1, walk.steps)))}
      </div>
      ${end("to", walk.to)}
    </div>
    <${Slider} label=${texts.latent.position} name="position" min="0" max=${last} step="1"
      value=${at} shown=${texts.latent.stepOf(at + 1, walk.steps)}
      onInput=${(value) => { setPlaying(false); setPosition(value); }} />
    <${Slider} label=${texts.latent.steps} name="steps" min="3" max=${MAX_STEPS} step="1"
      value=${walk.steps} shown=${String(walk.steps)} onInput=${(steps) => onWalk({ steps })} />
    <${Route} onArc=${walk.onArc} onWalk=${onWalk} />
    <div class="row">
      ${button(texts.latent.twoRandom, () => onWalk({ from: random(), to: random() }), false)}
      ${button(texts.latent.saveGif, points && file(thereAndBack(points), "image/gif", "walk.gif"))}
      ${button(texts.latent.saveSheet, points && file(points, "image/png", "walk.png"))}
    </div>
    <${Failure} error=${error} />
    ${points && html`<${Commands} ...${walkCommands(walk, points, scale)} />`}
  </section>`;
}

/** One end of a walk, and what it can be set to. */
function End({ name, point, z, looked, random, attempt, onPoint }) {
  const image = useDecoded(point, attempt);
  return html`<div class="stack tight" role="group" aria-label=${name}>
    <${Picture} image=${image} label=${texts.latent.endImage(name)} caption=${name} />
    <button type="button" disabled=${pointText(point) === pointText(z)} onClick=${() => onPoint(z)}>
      ${texts.latent.ofSliders}</button>
    <button type="button" onClick=${() => onPoint(random())}>${texts.latent.ofPrior}</button>
    ${looked.length > 0 && html`<${LookedImages} looked=${looked}
      onTake=${(seen) => onPoint(rounded(seen.mu))} />`}
  </div>`;
}

/** Images that were looked at, as buttons. */
export function LookedImages({ looked, onTake }) {
  return html`<div class="row thumbnails">
    ${looked.slice(-8).map((seen) => html`<button type="button" class="tile" title=${seen.name}
      aria-label=${texts.latent.lookedName(seen)} onClick=${() => onTake(seen)}>
      <${Picture} image=${seen.thumbnail} label="" /></button>`)}
  </div>`;
}

function Route({ onArc, onWalk }) {
  const name = useId();
  return html`<fieldset><legend class="visually-hidden">${texts.latent.route}</legend>
    ${[false, true].map((is) => html`<label class="check"><input type="radio" name=${name}
      checked=${onArc === is} onChange=${() => onWalk({ onArc: is })} />
      ${texts.latent.routes(is)}</label>`)}
    <p class="quiet small">${texts.latent.whyRoute(onArc)}</p>
  </fieldset>`;
}

function walkCommands({ from, to, steps, onArc }, points, scale) {
  return {
    curl: curlLine("/decode", {
      query: { scale }, data: { z: thereAndBack(points) }, accept: "image/gif", out: "walk.gif",
    }),
    python: pythonLines(
      onArc
        ? [`z = np.array([${points.map(listText).join(", ")}])`, "images = client.decode(z)"]
        : [
          `z = np.linspace(${listText(from)}, ${listText(to)}, ${steps})`,
          "images = client.decode(z)",
        ],
      ["import numpy as np"],
    ),
  };
}
