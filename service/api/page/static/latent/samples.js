// New images that the network draws from random points, by seed and temperature.

import { rounded } from "./latent_space.js";
import { array, curlLine, images, pythonLines } from "../shared/service.js";
import { texts } from "../shared/texts.js";
import {
  Commands, Failure, html, Picture, Slider, useAttempt, useEffect, useId, useNewest, useState,
} from "../shared/ui.js";

export const SAMPLES = { n: 12, seed: 1, temperature: 1 };
const MAX_SAMPLES = 64;
const RAW = "application/octet-stream";

/** `sampling` is `{n, seed, temperature}`; `onSampling(changes)` changes it. */
export function Samples({ sampling, onSampling, onTake }) {
  const [found, setFound] = useState([]);
  const [chosen, setChosen] = useState(null);
  const [error, attempt] = useAttempt();
  const { n, seed, temperature } = sampling;
  const query = { n, seed, temperature: temperature === 1 ? null : temperature };

  const load = useNewest(attempt(async (wanted) => {
    setFound(images(await array("/sample", { query: { ...wanted, dtype: "uint8" } })));
    setChosen(null);
  }));
  useEffect(() => {
    load(query);
  }, [n, seed, temperature]);
  const take = attempt(async (i) => {
    const { data, shape } = await array("/encode", { body: found[i].pixels, type: RAW });
    setChosen(i);
    onTake(rounded([...data.subarray(0, shape.at(-1))]), texts.latent.sampleTaken(i + 1));
  });

  return html`<section class="card" aria-label=${texts.latent.samples}>
    <h2>${texts.latent.samples}</h2>
    <p class="quiet small">${texts.latent.samplesAre}</p>
    <div class="row">
      <${NumberField} label=${texts.latent.count} value=${n} min="1" max=${MAX_SAMPLES}
        onValue=${(value) => onSampling({ n: value })} />
      <${NumberField} label=${texts.latent.seed} value=${seed} min="0" max=${2 ** 31}
        onValue=${(value) => onSampling({ seed: value })} />
      <button type="button" onClick=${() => onSampling({ seed: seed + 1 })}>
        ${texts.latent.nextSeed}</button>
    </div>
    <${Slider} label=${texts.latent.temperature} name="temperature" min="0.1" max="2" step="0.05"
      value=${temperature} shown=${texts.latent.number(temperature)}
      onInput=${(value) => onSampling({ temperature: value })} />
    <p class="quiet small">${texts.latent.whatTemperature}</p>
    <${Failure} error=${error} />
    <div class="tiles" role="group" aria-label=${texts.latent.samples}>
      ${found.map((image, i) => html`<button type="button" class="tile" key=${i}
        aria-pressed=${`${chosen === i}`} aria-label=${texts.latent.sample(i + 1)}
        onClick=${() => take(i)}><${Picture} image=${image} label="" /></button>`)}
    </div>
    <p class="quiet small">${texts.latent.samplesHint}</p>
    <${Commands} ...${sampleCommands(query)} />
  </section>`;
}

function NumberField({ label, value, min, max, onValue }) {
  const id = useId();
  const changed = ({ target }) => {
    if (target.value !== "" && target.validity.valid) onValue(Number(target.value));
  };
  return html`<div class="row"><label for=${id}>${label}</label>
    <input id=${id} type="number" min=${min} max=${max} step="1" value=${value} required
      onInput=${changed} /></div>`;
}

function sampleCommands(query) {
  const named = Object.entries(query).filter(([name, value]) => name !== "n" && value !== null);
  const options = named.map(([name, value]) => `, ${name}=${value}`).join("");
  return {
    curl: [
      curlLine("/sample", { query, accept: "application/x-npy", out: "samples.npy" }),
      curlLine("/encode", { file: "samples.npy" }),
    ].join("\n"),
    python: pythonLines([
      `images = client.sample(${query.n}${options})`,
      "mu = client.encode(images).mu",
    ]),
  };
}
