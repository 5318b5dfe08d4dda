// The view of the latent space: its state, which its address has, and its parts.

import { Dimensions } from "./dimensions.js";
import { latentSpace, pointText, readPoint, rounded } from "./latent_space.js";
import { Samples, SAMPLES } from "./samples.js";
import { Scatter } from "./scatter.js";
import { json } from "../shared/service.js";
import { rememberState, useStore } from "../shared/state.js";
import { texts } from "../shared/texts.js";
import { Failure, html, useEffect, useMemo, useState } from "../shared/ui.js";
import { LookedImages, MAX_STEPS, STEPS, Walk, walkPoints } from "./walk.js";

const PICTURE = 256; // pixels of files, about

/** A number of the address, within limits, or what it is otherwise. */
function within(text, low, high, otherwise) {
  const value = Number(text);
  return text && value >= low && value <= high ? value : otherwise;
}

function stateOf(params, size) {
  return {
    z: readPoint(params.z, size) ?? Array(size).fill(0),
    chosen: within(params.class, 0, Infinity, null),
    asImages: size === 2 && params.map === "images",
    walk: {
      from: readPoint(params.from, size),
      to: readPoint(params.to, size),
      steps: Math.round(within(params.steps, 3, MAX_STEPS, STEPS)),
      onArc: params.route === "arc",
    },
    sampling: {
      n: Math.round(within(params.n, 1, 64, SAMPLES.n)),
      seed: Math.round(within(params.seed, 0, 2 ** 31, SAMPLES.seed)),
      temperature: within(params.temperature, 0.1, 2, SAMPLES.temperature),
    },
  };
}

function paramsOf({ z, chosen, asImages, walk, sampling }) {
  const unless = (usual, value) => (value === usual ? null : value);
  return {
    z: z.some((value) => value !== 0) ? pointText(z) : null,
    class: chosen,
    map: asImages ? "images" : null,
    from: pointText(walk.from),
    to: pointText(walk.to),
    steps: unless(STEPS, walk.steps),
    route: walk.onArc ? "arc" : null,
    n: unless(SAMPLES.n, sampling.n),
    seed: unless(SAMPLES.seed, sampling.seed),
    temperature: unless(SAMPLES.temperature, sampling.temperature),
  };
}

export function Latent({ model, params }) {
  const size = model.latent_size;
  const [state, setState] = useState(() => stateOf(params, size));
  const [sample, setSample] = useState(null);
  const [missing, setMissing] = useState(null);
  const [said, setSaid] = useState("");
  const { looked } = useStore();
  const space = useMemo(() => latentSpace(size, sample), [sample]);
  const points = useMemo(() => walkPoints(state.walk), [state.walk]);
  const change = (changes) => setState((old) => ({ ...old, ...changes }));
  const onWalk = (changes) => setState((old) => ({ ...old, walk: { ...old.walk, ...changes } }));

  useEffect(() => {
    json("/model/latents").then(setSample, setMissing);
  }, []);
  useEffect(() => setState(stateOf(params, size)), [params]);
  useEffect(() => rememberState("latent", paramsOf(state)), [state]);

  const move = (z, words = "") => {
    change({ z });
    setSaid(words);
  };
  const take = (z, words) => move(z, texts.latent.taken(words));
  const seen = useMemo(() => looked.filter(({ mu }) => mu?.length === size), [looked, size]);
  const [, height, width] = model.image_shape;
  const scale = Math.max(1, Math.round(PICTURE / Math.max(height, width)));

  return html`
    <p class="lead">${texts.latent.lead(size)}</p>
    <p class="visually-hidden latent-status" role="status">${said}</p>
    <div class="columns latent">
      <${Dimensions} space=${space} z=${state.z} scale=${scale} onMove=${move}
        onWalk=${(end) => onWalk({ [end]: state.z })} />
      <div class="stack">
        ${space.project
          ? html`<${Scatter} space=${space} sample=${sample} z=${state.z} looked=${seen} path=${points}
              shape=${model.image_shape} chosen=${state.chosen} onChosen=${(chosen) => change({ chosen })}
              asImages=${state.asImages} onAsImages=${(asImages) => change({ asImages })} onTake=${take} />`
          : null}
        ${missing && html`<${Missing} error=${missing} />`}
        ${seen.length > 0 && html`<section class="card" aria-label=${texts.latent.lookedAt}>
          <h2>${texts.latent.lookedAt}</h2>
          <${LookedImages} looked=${seen}
            onTake=${(one) => take(rounded(one.mu), texts.latent.lookedName(one))} />
        </section>`}
        <div class="columns even">
          <${Walk} space=${space} walk=${state.walk} points=${points} z=${state.z} looked=${seen}
            scale=${scale} onWalk=${onWalk} onTake=${take} />
          <${Samples} sampling=${state.sampling} onTake=${take} onSampling=${(changes) =>
            setState((old) => ({ ...old, sampling: { ...old.sampling, ...changes } }))} />
        </div>
      </div>
    </div>`;
}

/** Why there are no points: most often, as the bundle keeps none, which is no failure. */
function Missing({ error }) {
  if (error.status !== 404) return html`<${Failure} error=${error} />`;
  return html`<section class="card" aria-label=${texts.latent.noMap}>
    <h2>${texts.latent.noMap}</h2><p>${error.message}</p></section>`;
}
