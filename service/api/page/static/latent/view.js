// The view of the latent space: its state, which its address has, and its parts.

import { Dimensions } from "./dimensions.js";
import { latentSpace, readPoint, rounded } from "./latent_space.js";
import { MAX_SAMPLES, Samples } from "./samples.js";
import { Scatter } from "./scatter.js";
import { json } from "../shared/service.js";
import { rememberState, useStore } from "../shared/state.js";
import { texts } from "../shared/texts.js";
import { Failure, html, useEffect, useMemo, useState } from "../shared/ui.js";
import { MAX_STEPS, Walk, walkPoints } from "./walk.js";

const PICTURE = 256; // pixels of files, about

/** Numbers of an address: the smallest and the largest that make sense, and the step. */
const NUMBERS = {
  class: [0, Infinity, 1],
  steps: [3, MAX_STEPS, 1],
  n: [1, MAX_SAMPLES, 1],
  seed: [0, 2 ** 31, 1],
  temperature: [0.1, 2, 0.01],
};
const CHOICES = { map: "images", route: "arc" };

/** The state, by the names of its parameters in an address, where the address has none. */
function usualState(size) {
  // A walk that is the same for everyone. Its ends are about as far from 0 as random points.
  const [from, to] = [1, 3].map((end) =>
    rounded(Array.from({ length: size }, (_, d) => Math.SQRT2 * Math.sin(end * (d + 1)))));
  return {
    z: Array(size).fill(0), class: null, map: "points", from, to, steps: 24, route: "straight",
    n: 12, seed: 1, temperature: 1,
  };
}

function stateOf(params, usual) {
  const state = { ...usual };
  for (const [name, text] of Object.entries(params)) {
    const [min, max, step] = NUMBERS[name] ?? [];
    if (Array.isArray(usual[name])) state[name] = readPoint(text, usual.z.length) ?? usual[name];
    else if (text && text >= min && text <= max) state[name] = +(Math.round(text / step) * step).toFixed(2);
    else if (CHOICES[name] === text) state[name] = text;
  }
  return state;
}

const paramsOf = (state, usual) =>
  Object.fromEntries(Object.entries(state)
    .filter(([name, value]) => String(value) !== String(usual[name]))
    .map(([name, value]) => [name, value?.join?.("_") ?? value]));

export function Latent({ model, params }) {
  const size = model.latent_size;
  const usual = useMemo(() => usualState(size), [size]);
  const [state, setState] = useState(() => stateOf(params, usual));
  const [sample, setSample] = useState(null);
  const [missing, setMissing] = useState(null);
  const [said, setSaid] = useState("");
  const { looked } = useStore();
  const space = useMemo(() => latentSpace(size, sample), [sample]);
  const points = useMemo(() => walkPoints(state), [state.from, state.to, state.steps, state.route]);
  const onChange = (changes) => setState((old) => ({ ...old, ...changes }));

  useEffect(() => {
    json("/model/latents").then(setSample, setMissing);
  }, []);
  useEffect(() => rememberState("latent", paramsOf(state, usual)), [state]);

  const onMove = (z, words = "") => {
    onChange({ z });
    setSaid(words);
  };
  const onTake = (z, words) => onMove(z, texts.latent.taken(words));
  const seen = useMemo(() => looked.filter(({ mu }) => mu?.length === size), [looked, size]);
  const scale = Math.max(1, Math.round(PICTURE / Math.max(...model.image_shape.slice(1))));
  const shared = { space, state, looked: seen, points, scale, onChange, onTake };

  return html`
    <p class="lead">${texts.latent.lead(size)}</p>
    <p class="visually-hidden latent-status" role="status">${said}</p>
    <div class="columns latent">
      <${Dimensions} space=${space} z=${state.z} scale=${scale} onMove=${onMove} />
      <div class="stack">
        ${space.project && html`<${Scatter} ...${shared} sample=${sample} shape=${model.image_shape} />`}
        ${missing && (missing.status === 404 // usually, as the bundle keeps no points: no failure
          ? html`<p class="card">${missing.message}</p>` : html`<${Failure} error=${missing} />`)}
        <div class="columns even"><${Walk} ...${shared} /><${Samples} ...${shared} /></div>
      </div>
    </div>`;
}
